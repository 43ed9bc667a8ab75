"""Placement: which hosts a plugin is started on, and for each host the rule by which it was accepted or refused. Pure.

A choice and no grant: the host alone grants GPUs and starts. What it then refuses with GPU_BUSY goes on to the next of
`Placement.order`. A host where the plugin serves, or may serve unseen, has its place: nothing moves by a placement.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Final, Literal

from orchestrator.formatting import gib
from orchestrator.front.host_state import HostState

_FILL_LEVELS: Final = 4
"""Hosts whose use is in the same one of so many levels are about equally used: what is there already decides then."""


class Rule(StrEnum):
    """Why a host was accepted (the first four) or refused."""

    SERVES = "SERVES"
    """The plugin serves there already."""
    FITS = "FITS"
    GPU_BUSY = "GPU_BUSY"
    """It has suitable GPUs and none is free now: taken last, since the host may park an idle plugin for it."""
    ENOUGH_HOSTS = "ENOUGH_HOSTS"
    """It fits, and `placement.hosts` allows no more of them."""

    HOST_JOINING = "HOST_JOINING"
    HOST_STALE = "HOST_STALE"
    HOST_DRAINING = "HOST_DRAINING"
    HOST_FORGOTTEN = "HOST_FORGOTTEN"
    NOT_NAMED = "NOT_NAMED"
    LABEL_DIFFERS = "LABEL_DIFFERS"
    PLUGIN_MISSING = "PLUGIN_MISSING"
    MEMORY_TOO_SMALL = "MEMORY_TOO_SMALL"
    GPU_MISSING = "GPU_MISSING"
    GPU_NAME_DIFFERS = "GPU_NAME_DIFFERS"
    GPU_TOO_SMALL = "GPU_TOO_SMALL"
    GPU_TOO_FEW = "GPU_TOO_FEW"


_STATES: Final = {
    HostState.JOINING: (Rule.HOST_JOINING, "has not answered yet, so that what it has is not known"),
    HostState.STALE: (Rule.HOST_STALE, "does not answer"),
    HostState.DRAINING: (Rule.HOST_DRAINING, "is drained and gets nothing new until `orchestrator hosts resume`"),
    HostState.FORGOTTEN: (Rule.HOST_FORGOTTEN, "is no longer a host of this front"),
}


@dataclass(frozen=True, slots=True)
class GpuWants:
    """GPUs of one instance. `memory`: bytes needed on each. `name`, `size`: `placement.requires` of each GPU."""

    count: int = 1
    memory: int | None = None
    shared: bool = False
    name: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class PluginWants:
    """What a plugin's manifest asks of hosts. `memory`: bytes of one instance; `replicas`: of all hosts together."""

    plugin: str
    hosts: int | Literal["all"] | tuple[str, ...] = 1
    replicas: int = 1
    memory: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    gpu: GpuWants | None = None
    pack: bool = False
    """Fuller hosts first, so that others stay empty."""


@dataclass(frozen=True, slots=True)
class HostGpu:
    """A GPU or MIG instance that can be granted. Bytes; None where the driver does not say.

    `free`: nobody has it. `shared`: sharers have it, and it may take more.
    """

    name: str
    memory: int | None
    available: int | None
    free: bool = True
    shared: bool = False
    mig: bool = False


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What is known of one host. `memory`: bytes of its machine, 0 where unknown; `committed`: bytes that its live
    instances may use. `instances`: live ones of the plugin, as far as is known; `ended`: those that it had have failed.
    """

    name: str
    state: HostState = HostState.ONLINE
    labels: tuple[tuple[str, str], ...] = ()
    memory: int = 0
    committed: int = 0
    gpus: tuple[HostGpu, ...] = ()
    has_plugin: bool = True
    has_image: bool = False
    has_models: bool = False
    instances: int = 0
    ended: bool = False

    @property
    def serves(self) -> bool:
        """Whether the plugin has, or may have, live instances there."""
        return self.instances > 0


@dataclass(frozen=True, slots=True)
class HostVerdict:
    """`sentence`: the rule in words, about this host. `replicas`: instances that it is to have; 0 if not chosen."""

    host: str
    rule: Rule
    sentence: str
    replicas: int = 0

    @property
    def chosen(self) -> bool:
        return self.replicas > 0


@dataclass(frozen=True, slots=True)
class Placement:
    """`chosen`: host → instances, the best host first. `spare`: hosts that also fit, in the order in which they are
    tried when a chosen one refuses. `verdicts`: one for each host, in the order given.
    """

    chosen: dict[str, int] = field(default_factory=dict)
    spare: tuple[str, ...] = ()
    verdicts: tuple[HostVerdict, ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        """All hosts that may be tried, the best first."""
        return (*self.chosen, *self.spare)


def place(wants: PluginWants, hosts: Sequence[HostFacts], leaving: Collection[str] = ()) -> Placement:
    """The hosts for a plugin. `leaving`: hosts that it is moved away from; what serves there holds no place."""
    judged = {host.name: _judge(wants, host, moved=host.name in leaving) for host in hosts}
    fitting = sorted(
        (host for host in hosts if judged[host.name][0] in _ACCEPTED), key=lambda host: _rank(wants, host, judged)
    )
    # Of those refused, one where it serves has its place all the same: a stale one's instances may well live.
    occupied = [host for host in hosts if host.serves and host not in fitting and host.name not in leaving]
    count = max(0, wants.hosts - len(occupied)) if isinstance(wants.hosts, int) else len(fitting)
    taken, spare = fitting[:count], fitting[count:]
    chosen = _shares(wants, taken, wants.replicas - sum(host.instances for host in occupied))
    placed = [host.name for host in (*taken, *occupied)]
    judged |= {host.name: _enough(host, judged[host.name], placed) for host in spare}
    verdicts = tuple(HostVerdict(host.name, *judged[host.name], chosen.get(host.name, 0)) for host in hosts)
    return Placement(chosen, tuple(host.name for host in spare), verdicts)


def named_words(name: str, wanted: str) -> bool:
    """Whether a GPU's name has all the wanted words: `NVIDIA H100 80GB` has `H100`, `NVIDIA A100` no `A10`."""
    text = name.lower()
    return all(re.search(rf"(?<![0-9a-z]){re.escape(word)}(?![0-9a-z])", text) for word in wanted.lower().split())


def instances_that_fit(gpu: GpuWants, gpus: Iterable[HostGpu]) -> int:
    """How many instances the GPUs that are free now have room for."""
    room = [_room(gpu, each) for each in _suitable(gpu, gpus)]
    most = 0
    # Each instance needs `count` different GPUs, so one counts at most once for each.
    while sum(min(each, most + 1) for each in room) >= (most + 1) * gpu.count:
        most += 1
    return most


_Judgement = tuple[Rule, str]
_ACCEPTED: Final = frozenset({Rule.SERVES, Rule.FITS, Rule.GPU_BUSY})


def _judge(wants: PluginWants, host: HostFacts, *, moved: bool) -> _Judgement:
    serves = host.serves and not moved
    if host.state is not HostState.ONLINE:
        rule, clause = _STATES[host.state]
        if serves and rule is Rule.HOST_STALE:
            clause += "; its instances may serve, and only `orchestrator move --force` starts them elsewhere"
        return rule, f"{host.name} {clause}."
    refusal = _refused_by_manifest(wants, host)
    if refusal is None and not serves and wants.gpu is not None:
        refusal = _refused_by_gpus(wants.gpu, host)
    if refusal is not None:
        return refusal
    if serves:
        return Rule.SERVES, f"{wants.plugin} serves on {host.name} already."
    if wants.gpu is not None and not instances_that_fit(wants.gpu, host.gpus):
        return Rule.GPU_BUSY, f"{host.name} has GPUs for {wants.plugin}, and not enough of them are free."
    return Rule.FITS, f"{host.name} has what {wants.plugin} needs{_present(host)}."


def _refused_by_manifest(wants: PluginWants, host: HostFacts) -> _Judgement | None:
    name, plugin = host.name, wants.plugin
    if isinstance(wants.hosts, tuple) and name not in wants.hosts:
        return Rule.NOT_NAMED, f"placement.hosts of {plugin} names {', '.join(wants.hosts)}, not {name}."
    labels = dict(host.labels)
    for label, value in wants.labels:
        if labels.get(label) != value:
            found = f"has {label}={labels[label]}" if label in labels else f"has no label {label}"
            return Rule.LABEL_DIFFERS, f"{plugin} requires label.{label}: {value}, and {name} {found}."
    if not host.has_plugin:
        return Rule.PLUGIN_MISSING, f"{name} does not have the folder of {plugin}, or its manifest is not valid there."
    if host.memory and wants.memory > host.memory:
        return (
            Rule.MEMORY_TOO_SMALL,
            f"An instance of {plugin} may use {gib(wants.memory)}, and {name} has {gib(host.memory)} of memory.",
        )
    return None


def _refused_by_gpus(gpu: GpuWants, host: HostFacts) -> _Judgement | None:
    name = host.name
    if not host.gpus:
        return Rule.GPU_MISSING, f"{name} has no usable GPU."
    named = [each for each in host.gpus if gpu.name is None or named_words(each.name, gpu.name)]
    if not named:
        names = ", ".join(sorted({each.name for each in host.gpus}))
        return Rule.GPU_NAME_DIFFERS, f"gpu.name: {gpu.name} is required, and {name} has {names}."
    least = max(gpu.size or 0, gpu.memory or 0)
    large = [each for each in named if _is_large(gpu, each)]
    if not large:
        largest = max(each.memory or 0 for each in named)
        return Rule.GPU_TOO_SMALL, f"A GPU of {gib(least)} is required, and the largest of {name} has {gib(largest)}."
    suitable = _suitable(gpu, host.gpus)
    if len(suitable) < gpu.count:
        whole = " (a MIG instance serves a plugin with one GPU alone)" if len(large) > len(suitable) else ""
        return Rule.GPU_TOO_FEW, f"{gpu.count} GPUs are required, and {name} has {len(suitable)} that suit{whole}."
    return None


def _suitable(gpu: GpuWants, gpus: Iterable[HostGpu]) -> list[HostGpu]:
    """Those that would do if nobody had them."""
    return [
        each
        for each in gpus
        if (gpu.name is None or named_words(each.name, gpu.name))
        and _is_large(gpu, each)
        and (gpu.count == 1 or not each.mig)
    ]


def _is_large(gpu: GpuWants, each: HostGpu) -> bool:
    # Of one that does not report its memory, the host decides; nothing of it can be promised to sharers.
    least = max(gpu.size or 0, gpu.memory or 0)
    return least <= each.memory if each.memory is not None else not gpu.shared and gpu.size is None


def _room(gpu: GpuWants, each: HostGpu) -> int:
    available = inf if each.available is None else each.available
    if gpu.shared and gpu.memory is not None:
        return int(available // gpu.memory) if (each.free or each.shared) and available < inf else 0
    return 1 if each.free and (gpu.memory or 0) <= available else 0


def _rank(wants: PluginWants, host: HostFacts, judged: dict[str, _Judgement]) -> tuple[float | bool | str, ...]:
    used = _used(wants, host)
    used = -used if wants.pack else used
    rule = judged[host.name][0]
    return (
        rule is not Rule.SERVES,
        rule is Rule.GPU_BUSY,
        not host.ended,
        int(used * _FILL_LEVELS),
        not host.has_models,
        not host.has_image,
        used,
        host.name,
    )


def _used(wants: PluginWants, host: HostFacts) -> float:
    """The used part of what the plugin needs most of: of the memory, or of the GPUs that suit it."""
    memory = host.committed / host.memory if host.memory else 0.0
    if wants.gpu is None:
        return memory
    suitable = _suitable(wants.gpu, host.gpus)
    taken = sum(not each.free for each in suitable)
    return max(memory, taken / len(suitable) if suitable else 0.0)


def _shares(wants: PluginWants, taken: Sequence[HostFacts], replicas: int) -> dict[str, int]:
    """Instances for each host: one, then the others where GPUs are free, to whom has fewest."""
    shares = {host.name: 1 for host in taken}
    room = {
        host.name: inf if wants.gpu is None else host.instances + instances_that_fit(wants.gpu, host.gpus)
        for host in taken
    }
    for _ in range(replicas - len(shares)):
        if not shares:
            break
        # Where no GPU is free any more the host says so itself.
        name = min(shares, key=lambda each: (shares[each] >= room[each], shares[each]))
        shares[name] += 1
    return shares


def _enough(host: HostFacts, judgement: _Judgement, placed: Sequence[str]) -> _Judgement:
    where = ", ".join(placed)
    also = "serves too" if judgement[0] is Rule.SERVES else "would fit"
    return Rule.ENOUGH_HOSTS, f"On {host.name} it {also}, and placement.hosts is met by {where}."


def _present(host: HostFacts) -> str:
    there = [what for what, present in (("image", host.has_image), ("models", host.has_models)) if present]
    return f", and its {' and '.join(there)} already" if there else ""
