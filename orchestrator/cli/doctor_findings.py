"""What `doctor` reports: a finding is ok, or says what to do. Pure decisions; `doctor` has the effects."""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import durationpy
from pydantic import ByteSize

from orchestrator.audit.findings import Finding, error, ok, warning
from orchestrator.containers.endpoint import SOCKET_PATH_LIMIT
from orchestrator.containers.spec import EngineInfo
from orchestrator.formatting import format_size, gib
from orchestrator.loader.build_settings import BUILD_VARIABLES, masked
from orchestrator.loader.dependency_checker import DependencyCheck
from orchestrator.loader.plugin_loader import DiscoveredPlugin

_GIB: Final = 1024**3
_AMPLE_SPACE: Final = 5 * _GIB
_MIN_SPACE: Final = _GIB
_PATH_BELOW_RUN_DIR: Final = len("/01234567/01234567/control.sock")
"""Bytes below the run folder: deployment, instance, socket."""
_MIN_VERSIONS: Final = {"Docker": (20, 10), "Podman": (4, 3)}
_SECRET: Final = re.compile(r"key|secret|token|password", re.IGNORECASE)


def engine(info: EngineInfo) -> Iterable[Finding]:
    """The engine, its cgroups and what it can limit."""
    version = tuple(int(part) for part in re.findall(r"\d+", info.version)[:2])
    minimum = _MIN_VERSIONS[info.product]
    detail = f"{info.product} {info.version}, {info.operating_system}, {info.storage_driver}"
    if version and version < minimum:
        tested = ".".join(map(str, minimum))
        yield warning("engine", "version", f"{detail}; tested from {tested} on. Install a newer one.")
    else:
        yield ok("engine", "version", detail)
    extras = "".join(text for text, there in ((", rootless", info.rootless), (", SELinux", info.selinux)) if there)
    yield ok("engine", "cgroups", f"version {info.cgroup_version or '1'}{extras}")
    if "memory" not in info.limits:
        yield error(
            "engine",
            "memory limit",
            "its kernel cannot limit memory. Boot with cgroup_enable=memory, or give a rootless engine the memory "
            "controller (systemd: Delegate=memory)",
        )
    elif info.product == "Podman":
        # Version 5.4 says that it cannot limit swap, and does.
        yield ok("engine", "memory limit", "memory; of swap, Podman's answer cannot be relied on")
    elif "swap" not in info.limits:
        yield warning(
            "engine",
            "memory limit",
            "memory is limited, swap is not: a plugin may use as much swap as memory. Boot with swapaccount=1, or turn "
            "off swap",
        )
    else:
        yield ok("engine", "memory limit", "memory and swap")
    if "pids" not in info.limits:
        yield error("engine", "process limit", "its kernel cannot limit processes: a fork bomb would reach the host")
    else:
        yield ok("engine", "process limit")
    if info.product == "Podman":
        yield _podman(info)


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
    longest = SOCKET_PATH_LIMIT - _PATH_BELOW_RUN_DIR
    length = len(str(path).encode())
    if length > longest:
        return error(
            "folders",
            "socket paths",
            f"{path} has {length} bytes, so paths of sockets in it would exceed {SOCKET_PATH_LIMIT} bytes. "
            f"Set ORCHESTRATOR_RUN_DIR to a path of at most {longest} bytes",
        )
    return ok("folders", "socket paths", f"{length} of at most {longest} bytes")


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
