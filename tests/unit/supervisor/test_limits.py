"""Limits that do not hold: which ones, in whose words, and what to do."""

import pytest

from orchestrator.containers.spec import EngineInfo
from orchestrator.loader.manifest import Manifest
from orchestrator.registry import EffectiveLimits
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import effective_limits, required_limits
from orchestrator.supervisor.limits import limits_unsupported, missing_limits, refused_limits, unlimited_detail

GIB = 1 << 30
HELD = {"memory_bytes": GIB, "swap_bytes": 0, "pids": 128, "cpus": 2.0}
DISCARDED = "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."


def limits(**own: object) -> EffectiveLimits:
    manifest = Manifest.model_validate(
        {"name": "x", "version": "1", "description": "d", "entrypoint": "a:B", "limits": {"cpus": 2, **own}}
    )
    return effective_limits(manifest, Settings())


def engine(*, rootless: bool = False, cgroup: str = "2", cores: int = 4) -> EngineInfo:
    return EngineInfo("28", "Linux", "overlay2", cgroup, (), rootless=rootless, selinux=False, cores=cores)


@pytest.mark.parametrize(
    ("found", "allowed", "missing"),
    [
        (HELD, (), ()),
        ({}, (), ()),
        ({**HELD, "memory_bytes": None, "swap_bytes": None}, (), ("memory",)),
        ({**HELD, "swap_bytes": None}, (), ("swap",)),
        (dict.fromkeys(HELD), (), ("memory", "pids", "cpus")),
        (dict.fromkeys(HELD), ("memory", "pids"), ("cpus",)),
        (dict.fromkeys(HELD), ("memory", "pids", "cpus"), ()),
        ({**HELD, "swap_bytes": GIB}, ("memory",), ()),
        ({**HELD, "swap_bytes": GIB}, ("swap",), ()),
    ],
)
def test_what_is_missing_and_not_allowed_is_named(
    found: dict[str, float | None], allowed: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    """Swap is part of the memory: without a limit of that there is nothing to be beyond."""
    assert missing_limits(limits(), found, allowed) == missing


def test_a_plugin_without_a_limit_of_cores_needs_none() -> None:
    """By default there is none."""
    assert "cpus" not in required_limits(effective_limits(Manifest.model_construct(), Settings()))


REFUSALS = [
    # Docker
    (
        "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        ("cpus",),
    ),
    ("Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", ("cpus",)),
    # runc and crun, at the start
    (
        "runc create failed: error setting cgroup config for procHooks process: openat2 /sys/fs/cgroup/x/cpu.max: no",
        ("cpus",),
    ),
    ("crun: the requested cgroup controller `cpu` is not available: OCI runtime error", ("cpus",)),
    ("crun: the requested cgroup controller `pids` is not available: OCI runtime error", ("pids",)),
    ("crun: the requested cgroup controller `memory` is not available: OCI runtime error", ("memory",)),
    ("openat2 /sys/fs/cgroup/x/pids.max: no such file or directory", ("pids",)),
    ("crun: opening file `memory.swap.max` for writing: No such file or directory: OCI runtime error", ("swap",)),
    ("openat2 /sys/fs/cgroup/memory/x/memory.memsw.limit_in_bytes: no such file or directory", ("swap",)),
    # Podman
    (
        "invalid configuration, cannot specify resource limits without cgroups v2 and --cgroup-manager=systemd",
        ("memory", "pids", "cpus"),
    ),
    # Others
    ("Minimum memory limit allowed is 6MB", ()),
    ("no such image: cpu-tools", ()),
    ("bind source path does not exist: /srv/memory", ()),
    ("Conflict. The container name is already in use", ()),
]


@pytest.mark.parametrize(("message", "names"), REFUSALS)
def test_a_refusal_of_a_limit_is_told_from_others(message: str, names: tuple[str, ...]) -> None:
    """In the words of each engine."""
    assert refused_limits(message, limits()) == names


def test_without_a_limit_of_cores_no_refusal_is_for_it() -> None:
    """The plugin's own container then is not the one that it speaks of."""
    none = effective_limits(Manifest.model_construct(), Settings())
    assert refused_limits("Range of CPUs is from 0.01 to 2.00", none) == ()


@pytest.mark.parametrize(
    ("names", "on", "phrases"),
    [
        (("memory",), engine(), ["`limits.memory` (1 GiB)", "cgroup_enable=memory", DISCARDED]),
        (("pids",), engine(), ["`limits.pids` (128)", "CONFIG_CGROUP_PIDS"]),
        (("swap",), engine(), ["swap included", "swapaccount=1", "swapoff"]),
        (("memory", "pids"), engine(rootless=True), ["Delegate=cpu cpuset io memory pids"]),
        (("memory", "pids"), engine(rootless=True, cgroup="1"), ["systemd.unified_cgroup_hierarchy=1"]),
        (("cpus",), engine(rootless=True), ["`limits.cpus` (2", "ORCHESTRATOR_DEFAULT_CPUS", "Delegate="]),
        (("cpus",), engine(cores=1), ["lower `limits.cpus`", "1 cores"]),
        (("memory",), None, ["cgroup_enable=memory"]),
    ],
)
def test_the_reason_says_which_limit_what_the_engine_said_and_what_to_do(
    names: tuple[str, ...], on: EngineInfo | None, phrases: list[str]
) -> None:
    """And which setting lets plugins run without."""
    verdict = limits_unsupported(names, limits(), said=(DISCARDED,), engine=on)
    assert verdict.code == "LIMITS_UNSUPPORTED"
    assert [phrase for phrase in phrases if phrase not in verdict.reason] == []
    assert "then restart the plugin" in verdict.reason
    assert verdict.reason.endswith(
        f"add {','.join(names)} to ORCHESTRATOR_ALLOW_UNLIMITED, and start the orchestrator again."
    )


def test_a_check_says_that_it_is_allowed() -> None:
    """With the engine's words."""
    detail = unlimited_detail(("pids",), limits(), (DISCARDED,))
    assert "`limits.pids` (128)" in detail
    assert "ORCHESTRATOR_ALLOW_UNLIMITED" in detail
    assert DISCARDED in detail
