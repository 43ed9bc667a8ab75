"""What `doctor` reports: a finding is ok, or says what to do. Pure decisions; `doctor` has the effects."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import durationpy
from pydantic import ByteSize

from orchestrator.audit.findings import Finding, error, ok, warning
from orchestrator.containers.docker_engine.capabilities import version_numbers
from orchestrator.containers.spec import EngineInfo
from orchestrator.formatting import format_size, gib
from orchestrator.loader.build_settings import BUILD_VARIABLES, masked
from orchestrator.loader.dependency_checker import DependencyCheck
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.run_folder import MAX_LENGTH, SOCKET_PATH_LIMIT

_GIB: Final = 1024**3
_AMPLE_SPACE: Final = 5 * _GIB
_MIN_SPACE: Final = _GIB
_MIN_PODMAN: Final = (4, 3)
_SECRET: Final = re.compile(r"key|secret|token|password", re.IGNORECASE)


def unreachable(problem: str, others: Iterable[Path]) -> Finding:
    """An engine that does not answer. `others`: sockets of engines that there are besides."""
    remedy = "Start it, or set DOCKER_HOST; `make up` sets up an engine"
    if "ermission denied" in problem:
        remedy = (
            "This user may not use its socket: add it to the group docker (and log in again), or use another engine; "
            "in a container on a host with SELinux, give it `security_opt: [label:disable]`"
        )
    found = " or ".join(f"unix://{path}" for path in others)
    return error(
        "engine",
        "reachable",
        f"{problem}. {remedy}" + (f". There is another engine's socket: export DOCKER_HOST={found}" if found else ""),
    )


def engine(info: EngineInfo, cpus_limited: Iterable[str] = (), allowed: Collection[str] = ()) -> Iterable[Finding]:
    """The engine, its cgroups and what it can limit. `cpus_limited`: plugins with a limit of CPU cores; `allowed`: the
    limits without which plugins may run.
    """
    detail = f"{info.product} {info.version}, {info.operating_system}, {info.storage_driver}"
    if info.snap:
        yield error("engine", "version", f"{detail}: {info.known_trouble}")
    elif info.too_old:
        yield warning("engine", "version", f"{detail}: {info.known_trouble}")
    elif info.product == "Podman" and version_numbers(info.version) < _MIN_PODMAN:
        yield warning("engine", "version", f"{detail}; tested from 4.3 on. Install a newer one.")
    else:
        yield ok("engine", "version", detail)
    extras = "".join(text for text, there in ((", rootless", info.rootless), (", SELinux", info.selinux)) if there)
    yield ok("engine", "cgroups", f"version {info.cgroup_version or '1'}{extras}")
    if "memory" not in info.limits:
        report, consequence = _unlimited("memory", allowed)
        yield report(
            "engine",
            "memory limit",
            f"it cannot limit memory, so {consequence}. Boot with cgroup_enable=memory, or give a rootless engine the "
            "memory controller (systemd: Delegate=memory)",
        )
    elif info.product == "Podman":
        # Version 5.4 says that it cannot limit swap, and does.
        yield ok("engine", "memory limit", "memory; of swap, Podman's answer cannot be relied on")
    elif "swap" not in info.limits:
        yield warning(
            "engine",
            "memory limit",
            f"memory is limited, swap is not: if the machine has swap, {_unlimited('swap', allowed)[1]}. Boot with "
            "swapaccount=1, or turn off swap",
        )
    else:
        yield ok("engine", "memory limit", "memory and swap")
    if "pids" not in info.limits:
        report, consequence = _unlimited("pids", allowed)
        yield report(
            "engine",
            "process limit",
            f"it cannot limit processes, so {consequence}. Use a kernel with CONFIG_CGROUP_PIDS, or give a rootless "
            "engine the pids controller (systemd: Delegate=pids)",
        )
    else:
        yield ok("engine", "process limit")
    yield cpu_limit(info, list(cpus_limited))
    if info.product == "Podman":
        yield _podman(info)


def _unlimited(name: str, allowed: Collection[str]) -> tuple[Callable[[str, str, str], Finding], str]:
    """How grave it is that a limit does not hold, and what follows."""
    if name in allowed or (name == "swap" and "memory" in allowed):
        return warning, "a plugin can take it from the whole machine, as ORCHESTRATOR_ALLOW_UNLIMITED allows"
    return error, "plugins do not start (LIMITS_UNSUPPORTED), unless ORCHESTRATOR_ALLOW_UNLIMITED has it"


def cpu_limit(info: EngineInfo, limited: list[str]) -> Finding:
    """Whether cores can be limited; an error where plugins have such a limit, since their starts are refused."""
    if "cpus" in info.limits:
        return ok("engine", "CPU limit")
    remedy = (
        "give a rootless engine the cpu controller (systemd: Delegate=cpu cpuset io memory pids in "
        "/etc/systemd/system/user@.service.d/delegate.conf), or boot a kernel with CFS bandwidth control"
        if info.rootless
        else "its kernel needs CFS bandwidth control (CONFIG_CFS_BANDWIDTH)"
    )
    if not limited:
        return warning("engine", "CPU limit", f"it cannot limit CPU cores, and no plugin here wants it; else {remedy}")
    return error(
        "engine",
        "CPU limit",
        f"it cannot limit CPU cores, so it refuses to start {', '.join(limited)}. Remove `limits.cpus` and "
        f"ORCHESTRATOR_DEFAULT_CPUS; or {remedy}",
    )


def memory_sum(total: int, limits: Mapping[str, int]) -> Finding:
    """Whether all plugins can use what they may at the same time. In bytes; `total` is 0 where unknown."""
    needed = sum(limits.values())
    if not total or needed <= total:
        detail = f"{format_size(needed)} together" + (f", of {gib(total)}" if total else "")
        return ok("plugins", "memory limits", detail if limits else "no plugin")
    greatest = ", ".join(sorted(limits, key=lambda name: -limits[name])[:3])
    return warning(
        "plugins",
        "memory limits",
        f"{format_size(needed)} together, and the engine's machine has {gib(total)}: if all use what they may, the "
        f"kernel kills processes anywhere on it. Lower `limits.memory` (the greatest: {greatest}) or "
        "ORCHESTRATOR_DEFAULT_MEMORY, or stop some",
    )


def permissions(refused: Iterable[str], needed: Iterable[str]) -> Finding:
    """What a proxy of the engine's socket allows."""
    missing = ", ".join(refused)
    if not missing:
        return ok("engine", "permissions", "everything that is needed")
    return error(
        "engine",
        "permissions",
        f"a proxy of its socket, or a plugin of the engine, does not allow {missing}. Allow all of {', '.join(needed)} "
        "(docker-socket-proxy: each is a variable, set to 1)",
    )


def lingering(problem: str | None, *, rootless: bool, lingers: bool) -> Finding | None:
    """Whether plugins outlive the logout of the orchestrator's user. `problem`: why its run folder does not."""
    if problem:
        return warning("folders", "logout", problem)
    if rootless and not lingers:
        return warning(
            "engine",
            "logout",
            "a rootless engine that systemd started for this user stops when the user's last session ends, and every "
            "plugin with it. Run `loginctl enable-linger`",
        )
    return None


def _podman(info: EngineInfo) -> Finding:
    """What does not hold with it."""
    health = "image health checks (HEALTHCHECK) run only where systemd does"
    if not info.gpu_drivers:
        return warning("engine", "Podman", f"plugins get no GPU before Podman 5.4; {health}")
    return ok("engine", "Podman", f"GPUs by CDI alone; {health}")


def channel(chosen: str, *, shared: bool) -> Finding:
    """How plugins are reached. `shared`: whether Unix sockets work between host and containers."""
    if chosen == "unix" and not shared:
        return error(
            "engine", "channel", "Unix sockets cannot be reached in its virtual machine. Unset ORCHESTRATOR_CHANNEL"
        )
    return ok("engine", "channel", "TCP, through gateways" if chosen == "tcp" or not shared else "Unix sockets")


def disk_space(what: str, path: Path, free: int | None) -> Finding:
    """Disk space. `free` is in bytes, None if unknown."""
    if free is None:
        return ok("disk", what, f"{path}: not on this machine, or not readable")
    detail = f"{path}: {gib(free)} free"
    if free < _MIN_SPACE:
        return error(
            "disk",
            what,
            f"{detail}. Free some space: builds and uploads will fail (`docker system df` shows what uses it)",
        )
    return (
        ok("disk", what, detail) if free >= _AMPLE_SPACE else warning("disk", what, f"{detail}. GPU images need more")
    )


def folder(what: str, variable: str, path: Path, problem: str | None) -> Finding:
    """`problem`: why the folder cannot be used, None if it can."""
    if problem is None:
        return ok("folders", what, str(path))
    return error("folders", what, f"{path}: {problem}. Fix it, or set {variable} to another folder")


def run_folder_length(path: Path) -> Finding:
    length = len(str(path).encode())
    if length > MAX_LENGTH:
        return error(
            "folders",
            "socket paths",
            f"{path} has {length} bytes, so paths of sockets in it would exceed {SOCKET_PATH_LIMIT} bytes. "
            f"Set ORCHESTRATOR_RUN_DIR to a path of at most {MAX_LENGTH} bytes",
        )
    return ok("folders", "socket paths", f"{length} of at most {MAX_LENGTH} bytes")


def plugins(found: Iterable[DiscoveredPlugin], unusable: Mapping[Path, str]) -> Iterable[Finding]:
    for directory, problem in unusable.items():
        yield error("plugins", "folder", f"{directory}: {problem}. Fix it, or set ORCHESTRATOR_PLUGINS_DIRS")
    good = []
    for plugin in found:
        if plugin.error is None:
            good.append(plugin.name)
        else:
            yield error("plugins", plugin.name, plugin.error)
    if good:
        yield ok("plugins", "manifests", ", ".join(good))
    else:
        yield warning("plugins", "manifests", "no plugin found. `orchestrator new NAME` creates one")


def dependencies(plugin: str, checks: Iterable[DependencyCheck]) -> Iterable[Finding]:
    """Models and secrets. A missing one is a warning, since only its plugin lacks it; its path is for this terminal."""
    for check in checks:
        if check.reason is not None:
            yield warning("plugins", plugin, f"{check.reason} On this host: {check.path}")


def keys(count: int, *, loopback: bool) -> Finding:
    if count:
        return ok("access", "API keys", f"{count}; every call needs one")
    if loopback:
        return ok("access", "API keys", "none: every user of this machine may do everything")
    return error(
        "access", "API keys", "none, but it would listen beyond loopback. Run `orchestrator keys add NAME` first"
    )


def network(environment: Mapping[str, str], ca_bundle: Path | None) -> Iterable[Finding]:
    """Proxies and certificates that image builds use."""
    proxies = [f"{name}={masked(environment[name])}" for name in BUILD_VARIABLES if environment.get(name)]
    yield ok("network", "proxies", ", ".join(proxies) or "none: builds reach the network directly")
    if ca_bundle is not None and not ca_bundle.is_file():
        yield error("network", "certificates", f"{ca_bundle} is not a file. Correct ORCHESTRATOR_CA_BUNDLE")
    else:
        yield ok("network", "certificates", str(ca_bundle or "the base image's own"))


def shown(name: str, value: Any) -> str:
    """A setting's value as it would be written, with secrets and passwords in URLs masked."""
    text = _written(value)
    if "://" in text and (safe := masked(text)) != text:
        return safe
    is_path = isinstance(value, Path) or name.endswith("_dirs")
    return "***" if value and _SECRET.search(name) and not is_path else text


def _written(value: Any) -> str:
    match value:
        case None:
            return "none"
        case timedelta():
            return str(durationpy.to_str(value))
        case ByteSize():
            return format_size(value).replace(" ", "")
        case tuple() | list():
            return ":".join(map(str, value))
        case Mapping():
            return ",".join(f"{name}={inner}" for name, inner in value.items())
        case _:
            return str(value)
