"""Limits that do not hold: what an engine dropped, refused, or never set, as a verdict with the next step. Pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from plugin_runtime.shared.limits import NAMES, not_held

from orchestrator.containers.spec import ContainerIsolation, ContainerSpec, EngineInfo
from orchestrator.formatting import format_size
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import EffectiveLimits
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.container_policy import required_limits

ALLOW: Final = "ORCHESTRATOR_ALLOW_UNLIMITED"
# Words of Docker, Podman, runc and crun for a limit that they cannot set.
_REFUSALS: Final[Mapping[str, re.Pattern[str]]] = {
    "cpus": re.compile(
        r"nano ?cpus|CPU CFS|range of CPUs|cpu\.max|cpu\.cfs_|cpu-(?:quota|period)|controllers? [`'\"]?cpu[`'\"]? ",
        re.IGNORECASE,
    ),
    "memory": re.compile(
        r"memory\.(?:max|limit_in_bytes)\b.*no such file|controllers? [`'\"]?memory[`'\"]? ", re.IGNORECASE
    ),
    "swap": re.compile(r"memory\.(?:swap\.max|memsw\.limit_in_bytes)\b.*no such file", re.IGNORECASE),
    "pids": re.compile(r"pids\.max\b.*no such file|controllers? [`'\"]?pids[`'\"]? ", re.IGNORECASE),
}
_ALL_REFUSED: Final = re.compile(r"cannot specify resource limits without cgroups v2", re.IGNORECASE)
_BOOT: Final = {
    "memory": "boot the kernel with `cgroup_enable=memory` (on a Raspberry Pi in /boot/firmware/cmdline.txt)",
    "swap": "boot the kernel with `swapaccount=1`, or switch the host's swap off (`swapoff -a`)",
    "pids": "use a kernel with CONFIG_CGROUP_PIDS",
    "cpus": "use a kernel with CONFIG_CFS_BANDWIDTH",
}
_ROOTLESS_V2: Final = (
    "let systemd delegate the controllers to the rootless engine's user (`Delegate=cpu cpuset io memory pids` in "
    "/etc/systemd/system/user@.service.d/delegate.conf, then `systemctl daemon-reload` and a new login)"
)
_ROOTLESS_V1: Final = (
    "a rootless engine can limit nothing on cgroup v1: boot the host with cgroup v2 "
    "(`systemd.unified_cgroup_hierarchy=1`), or use an engine that runs as root"
)


def missing_limits(
    limits: EffectiveLimits, found: Mapping[str, float | None], allowed: Sequence[str] = ()
) -> tuple[str, ...]:
    """The names of the limits that a container is not held to and must be. `found`: as the runtime reports it."""
    names = not_held(required_limits(limits, allowed), found)
    # Without a limit of memory there is nothing that its swap could be beyond.
    return tuple(name for name in names if name != "swap" or "memory" not in names)


def required_names(limits: EffectiveLimits, allowed: Sequence[str] = ()) -> frozenset[str]:
    """The names of the limits that a container must be held to."""
    return frozenset(NAMES[key] for key in required_limits(limits, allowed))


def found_by_engine(isolation: ContainerIsolation, limits: EffectiveLimits) -> dict[str, float | None]:
    """What the engine says that it holds a container to. Whether the host has swap it does not say."""
    found: dict[str, float | None] = {"memory_bytes": isolation.memory, "pids": isolation.pids}
    return found if limits.cpus is None else {**found, "cpus": isolation.cpus}


def refused_limits(message: str, limits: EffectiveLimits) -> tuple[str, ...]:
    """The names of the limits for which an engine refused to create or start a container; none for another refusal."""
    if _ALL_REFUSED.search(message):
        return ("memory", "pids", *(("cpus",) if limits.cpus is not None else ()))
    names = (name for name, words in _REFUSALS.items() if words.search(f"{message} "))
    return tuple(name for name in names if name != "cpus" or limits.cpus is not None)


def unlimited_spec(spec: ContainerSpec, names: Collection[str]) -> ContainerSpec:
    """`spec` without these limits."""
    others = frozenset(names) - {"cpus"}
    return replace(spec, cpus=None if "cpus" in names else spec.cpus, unlimited=spec.unlimited | others)


def limits_unsupported(
    names: Sequence[str],
    limits: EffectiveLimits,
    *,
    said: Sequence[str] = (),
    engine: EngineInfo | None = None,
    refused: bool = False,
) -> Verdict:
    """The verdict on an instance whose container is not held to these limits. `said`: the engine's own words;
    `refused`: it made no container.
    """
    what = " and ".join(_described(name, limits) for name in names)
    happened = (
        f"The container engine refuses to hold the plugin to {what}."
        if refused
        else f"The container is not held to {what}: the engine accepts the limit and does not set it."
    )
    words = f" It said: {' '.join(text.rstrip('.') + '.' for text in said)}" if said else ""
    steps = "; ".join(dict.fromkeys(_next_step(name, limits, engine) for name in names))
    return Verdict(
        ReasonCode.LIMITS_UNSUPPORTED,
        f"{happened}{words} To have it held, {steps}; then restart the plugin. Or let plugins run without: add "
        f"{','.join(names)} to {ALLOW}, and start the orchestrator again.",
        evidence={"not_held": list(names), "engine_said": " ".join(said)},
    )


def unlimited_detail(names: Sequence[str], limits: EffectiveLimits, said: Sequence[str] = ()) -> str:
    """A check's words for limits that do not hold and need not."""
    words = f" The engine said: {' '.join(said)}" if said else ""
    return f"not held to {' and '.join(_described(name, limits) for name in names)}, as {ALLOW} allows.{words}"


def _described(name: str, limits: EffectiveLimits) -> str:
    match name:
        case "memory":
            return f"`limits.memory` ({format_size(limits.memory)})"
        case "swap":
            size = format_size(limits.memory)
            return f"`limits.memory` ({size}, swap included: the host has swap, and that is not limited)"
        case "pids":
            return f"`limits.pids` ({limits.pids})"
    return f"`limits.cpus` ({limits.cpus:g}, by the manifest or ORCHESTRATOR_DEFAULT_CPUS)"


def _next_step(name: str, limits: EffectiveLimits, engine: EngineInfo | None) -> str:
    if name == "cpus" and engine is not None and 0 < engine.cores < (limits.cpus or 0):
        return f"lower `limits.cpus`, or ORCHESTRATOR_DEFAULT_CPUS: the engine's machine has {engine.cores} cores"
    step = _BOOT[name]
    if engine is not None and engine.rootless:
        step = _ROOTLESS_V1 if engine.cgroup_version == "1" else _ROOTLESS_V2
    return f"{step}, or take `limits.cpus` and ORCHESTRATOR_DEFAULT_CPUS away" if name == "cpus" else step
