"""What is known of one plugin. Immutable: a change is a new record, so a reader never sees half of one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from orchestrator.formatting import format_duration
from orchestrator.lifecycle import FINAL_STATES, READY_STATES, PluginLifecycleState, ReasonCode

_LIMIT_NAMES: Final = {
    "timeout": "timeout_seconds",
    "memory": "memory_bytes",
    "swap": "swap_bytes",
    "shm": "shm_bytes",
    "scratch": "scratch_bytes",
    "output": "output_bytes",
    "startup_timeout": "startup_timeout_seconds",
}


class EffectiveLimits(msgspec.Struct, frozen=True, rename=_LIMIT_NAMES):
    """The manifest's limits with the operator's defaults filled in. Times in seconds, sizes in bytes, `cpus` in cores.

    Encoded, in the health API and in post-mortems on file, the fields have their unit in their name.
    """

    timeout: float
    memory: int
    cpus: float | None
    pids: int
    shm: int
    scratch: int
    startup_timeout: float
    concurrency: int
    queue: int
    output: int = 0
    """All files of one run; 0 in post-mortems from before there were any."""

    def report(self, unlimited: Collection[str] = ()) -> dict[str, Any]:
        """As encoded, and the swap beyond the memory; null for each that `unlimited` names (names as in a manifest)."""
        encoded: dict[str, Any] = msgspec.to_builtins(self) | {"swap_bytes": 0}
        names = {*unlimited, *(("swap",) if "memory" in unlimited else ())}
        return encoded | {_LIMIT_NAMES.get(name, name): None for name in names}


class ContainerFacts(msgspec.Struct, frozen=True):
    """An instance's container; None where nothing has been reported."""

    id: str | None
    """The first 12 characters."""
    name: str
    image_id: str | None
    memory_usage_bytes: int | None = None
    memory_peak_bytes: int | None = None
    cpu_seconds: float | None = None
    oom_kills: int | None = None
    batches: tuple[Mapping[str, Any], ...] = ()
    """Of each batched tool: how large its batches were, how long their items waited."""


@dataclass(frozen=True, slots=True)
class Check:
    """One witness's finding: a dependency check, the engine, the control socket."""

    name: str
    ok: bool
    detail: str
    source: str
    """`host`, `container` or `engine`."""


@dataclass(frozen=True, slots=True)
class PostMortem:
    """What is retained of an instance that ended."""

    ended_at: datetime
    exit_code: int | None = None
    signal: str | None = None
    peak_memory_bytes: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """The findings that the reason was derived from."""
    # A mapping and no `EffectiveLimits`: one on file stays readable whatever limits other versions have.
    limits: Mapping[str, Any] = field(default_factory=dict)
    container: str | None = None
    """Its name."""
    image_id: str | None = None
    gpus: tuple[str, ...] = ()
    """UUIDs."""
    stacks: str = ""
    traceback: str = ""
    build_output: str = ""
    log_tail: str = ""


@dataclass(frozen=True, slots=True)
class Activity:
    """What goes on for a plugin besides its runs, and takes minutes: a build, a download."""

    what: str
    """A phrase such as `building its image`."""
    since: datetime
    since_tick: float
    """The same moment by the monotonic clock, seconds."""
    line: str = ""
    """Its newest line of output."""

    def sentence(self, now: float) -> str:
        """What goes on, for how long, and its newest line. `now`: the monotonic clock, seconds."""
        duration = f"{self.what} for {format_duration(now - self.since_tick)}"
        return f"{duration}: {self.line}" if self.line else duration


@dataclass(frozen=True, slots=True)
class PendingRestart:
    """A restart that has not replaced the instance: it is prepared while that one serves, or it was refused."""

    requested_at: datetime
    reason_code: ReasonCode | None = None
    """Why it was refused; None while it is prepared."""
    reason: str | None = None


Role = Literal["serving", "draining", "candidate"]
"""`draining`: it takes no new runs, and ends after those that it has. `candidate`: it is proven beside those that
serve.
"""


class InstanceRecord(msgspec.Struct, frozen=True):
    """One instance of a plugin. The fields mean what the plugin's do, of this instance alone."""

    generation: int
    state: PluginLifecycleState
    observed_at: datetime
    role: Role = "serving"
    version: str = ""
    description: str = ""
    reason_code: ReasonCode | None = None
    reason: str | None = None
    ready_tick: float | None = None
    ended_tick: float | None = None
    ended_at: datetime | None = None
    in_flight: int = 0
    checks: tuple[Check, ...] = ()
    container: ContainerFacts | None = None
    gpus: tuple[Mapping[str, Any], ...] = ()
    limits: EffectiveLimits | None = None
    unlimited: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    post_mortem: PostMortem | None = None

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def ready(self) -> bool:
        """It takes runs, as far as its role lets it."""
        return self.state in READY_STATES


class PluginRecord(msgspec.Struct, frozen=True):
    """The state of one plugin, and its counters over all its instances.

    The fields that an `InstanceRecord` has too follow from `instances`, by `derived.derive`. A plugin without any
    keeps those that it was registered with.
    """

    # Msgspec structs, since each call of a tool makes two new ones: a dataclass takes some fifteen times as long.

    name: str
    version: str
    description: str
    state: PluginLifecycleState
    observed_at: datetime
    """When any of this was last confirmed."""
    generation: int = 0
    """Of the newest instance that is no candidate; 0 before the first."""
    earlier_generations: int = 0
    """Those from before the orchestrator's start."""
    reason_code: ReasonCode | None = None
    reason: str | None = None
    # Ticks are seconds of the monotonic clock: an uptime does not jump when the time of day does.
    ready_tick: float | None = None
    ended_tick: float | None = None
    last_used: datetime | None = None
    success_count: int = 0
    error_count: int = 0
    last_execution_ms: float | None = None
    total_execution_ms: float = 0.0
    in_flight: int = 0
    queued: int = 0
    stale: bool = False
    checks: tuple[Check, ...] = ()
    container: ContainerFacts | None = None
    gpus: tuple[Mapping[str, Any], ...] = ()
    limits: EffectiveLimits | None = None
    """None while no valid manifest has been read."""
    unlimited: tuple[str, ...] = ()
    """Those of `limits` that its container is not held to."""
    tools: tuple[Mapping[str, Any], ...] = ()
    post_mortem: PostMortem | None = None
    activity: Activity | None = None
    """Of the plugin and not of one instance: a new instance leaves it as it is."""
    restart: PendingRestart | None = None
    instances: tuple[InstanceRecord, ...] = ()
    """The oldest first: those that live, and those that ended and are not forgotten."""
    highest_generation: int = 0
    """The highest that any instance has had, also a candidate or one that is forgotten."""
    wanted: int = 1
    """Instances that are to serve at a time."""
    manifest_replicas: int = 1
    """The manifest's number, which `wanted` is unless an operator has set another."""
    degraded: bool = False
    """It lives, and fewer instances serve than are wanted. Never where one is wanted."""
    degraded_reason: str | None = None
    """What is missing and why, as a sentence."""
    start_seconds: float | None = None
    """What the last start took, from its command to INITIALIZED; None before the first."""

    @property
    def first(self) -> bool:
        """No instance has ended since the orchestrator's start."""
        first = self.earlier_generations + 1
        return not self.instances or (
            self.instances[0].generation <= first and not any(instance.ended for instance in self.instances)
        )

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def alive(self) -> bool:
        """An instance of it has not ended, be it a candidate."""
        return not all(instance.ended for instance in self.instances)

    @property
    def parked_since(self) -> datetime | None:
        """When it was parked; None where it is not."""
        if self.reason_code is not ReasonCode.PARKED:
            return None
        return next((each.ended_at for each in self.instances if each.reason_code is ReasonCode.PARKED), None)

    @property
    def ready(self) -> int:
        """Serving instances that take runs."""
        return sum(instance.role == "serving" and instance.ready for instance in self.instances)

    @property
    def candidate(self) -> InstanceRecord | None:
        """The instance that is proven beside those that serve. It shows in no other field of the plugin."""
        return next((instance for instance in reversed(self.instances) if instance.role == "candidate"), None)

    def observed(self, at: datetime) -> "PluginRecord":
        """The same, last confirmed at this time."""
        instances = tuple(msgspec.structs.replace(instance, observed_at=at) for instance in self.instances)
        return msgspec.structs.replace(self, observed_at=at, instances=instances)

    def instance(self, generation: int) -> InstanceRecord | None:
        for instance in self.instances:  # a loop, since every call of a tool comes here
            if instance.generation == generation:
                return instance
        return None


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One step of one instance. `id` grows by one with every event."""

    id: int
    time: datetime
    plugin: str
    generation: int
    previous: PluginLifecycleState | None
    state: PluginLifecycleState
    reason_code: ReasonCode | None
    reason: str | None
    caller: str | None = None
    """The name of the key whose run or command it comes of; None where it comes of neither, or no key is needed."""
    # For webhooks: these two are in the journal, and in no column of the database.
    plugin_state: PluginLifecycleState | None = field(default=None, compare=False)
    """The plugin's own state after this step; None in an event that was read from the database."""
    degraded: bool = field(default=False, compare=False)
    """By this instance's end fewer serve than are wanted, and nobody meant it."""
