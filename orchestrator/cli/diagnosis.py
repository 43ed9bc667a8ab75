"""What `doctor` says of what it saw: each finding is well, or says what to do. Pure."""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import durationpy
from pydantic import ByteSize

from orchestrator.audit.findings import Finding, error, ok, warning
from orchestrator.containers.endpoint import SOCKET_PATH_LIMIT
from orchestrator.containers.spec import EngineInfo
from orchestrator.formatting import format_size, gib
from orchestrator.gpus import GpuInventory
from orchestrator.loader.image_builder import BUILD_VARIABLES
from orchestrator.loader.plugin_loader import DiscoveredPlugin

_GIB: Final = 1024**3
_ROOM: Final = 5 * _GIB
_SCARCE: Final = _GIB
_BELOW_RUN_DIR: Final = len("/01234567/01234567/control.sock")
"""Bytes of a socket's path below the run folder: the deployment, the instance, the socket."""
_OLDEST: Final = (20, 10)
_SECRET: Final = re.compile(r"key|secret|token|password", re.IGNORECASE)


def engine(info: EngineInfo) -> Iterable[Finding]:
    """The engine, its cgroups and what it can limit."""
    version = tuple(int(part) for part in re.findall(r"\d+", info.version)[:2])
    told = f"{info.version}, {info.operating_system}, {info.storage_driver}"
    if version and version < _OLDEST:
        yield warning("engine", "version", f"{told}; tried from 20.10 on. Install a newer one.")
    else:
        yield ok("engine", "version", told)
    extras = "".join(text for text, there in ((", rootless", info.rootless), (", SELinux", info.selinux)) if there)
    yield ok("engine", "cgroups", f"version {info.cgroup_version or '1'}{extras}")
    if "memory" not in info.limits:
        yield error(
            "engine",
            "memory limit",
            "its kernel cannot limit memory: boot with cgroup_enable=memory, or give a rootless engine the memory "
            "controller (systemd: Delegate=memory)",
        )
    elif "swap" not in info.limits:
        yield warning(
            "engine",
            "memory limit",
            "memory is limited, swap is not: a plugin may use as much swap as memory. Boot with swapaccount=1, or turn "
            "swap off",
        )
    else:
        yield ok("engine", "memory limit", "memory and swap")
    if "pids" not in info.limits:
        yield error("engine", "process limit", "its kernel cannot limit processes: a fork bomb would reach the host")
    else:
        yield ok("engine", "process limit")


def channel(chosen: str, *, shared: bool) -> Finding:
    """How plugins are reached; `shared`: whether Unix sockets cross."""
    if chosen == "unix" and not shared:
        return error(
            "engine", "channel", "Unix sockets cannot be reached in its virtual machine: unset ORCHESTRATOR_CHANNEL"
        )
    return ok("engine", "channel", "TCP, by gateways" if chosen == "tcp" or not shared else "Unix sockets")


def room(what: str, path: Path, free: int | None) -> Finding:
    """`free` bytes; None where that cannot be seen."""
    if free is None:
        return ok("disk", what, f"{path}: not on this machine, or not to be seen")
    told = f"{path}: {gib(free)} free"
    if free < _SCARCE:
        return error("disk", what, f"{told}. Make room: builds and uploads will fail (docker system df shows what for)")
    return ok("disk", what, told) if free >= _ROOM else warning("disk", what, f"{told}. GPU images need more")


def folder(what: str, variable: str, path: Path, problem: str | None) -> Finding:
    """`problem`: why it cannot be used."""
    if problem is None:
        return ok("folders", what, str(path))
    return error("folders", what, f"{path}: {problem}. Mend that, or set {variable} to another")


def run_folder_length(path: Path) -> Finding:
    longest = SOCKET_PATH_LIMIT - _BELOW_RUN_DIR
    length = len(str(path).encode())
    if length > longest:
        return error(
            "folders",
            "socket paths",
            f"{path} has {length} bytes, and sockets in it would pass the {SOCKET_PATH_LIMIT} that a path may have. "
            f"Set ORCHESTRATOR_RUN_DIR to one of at most {longest}",
        )
    return ok("folders", "socket paths", f"{length} of at most {longest} bytes")


def plugins(found: Iterable[DiscoveredPlugin], unusable: Mapping[Path, str]) -> Iterable[Finding]:
    for directory, problem in unusable.items():
        yield error("plugins", "folder", f"{directory}: {problem}. Mend that, or set ORCHESTRATOR_PLUGINS_DIRS")
    good = []
    for plugin in found:
        if plugin.error is None:
            good.append(plugin.name)
        else:
            yield error("plugins", plugin.name, plugin.error)
    if good:
        yield ok("plugins", "manifests", ", ".join(good))
    else:
        yield warning("plugins", "manifests", "there is no plugin; `orchestrator new NAME` makes one")


def gpus(inventory: GpuInventory, drivers: Iterable[str], needed_by: Iterable[str]) -> Iterable[Finding]:
    """Without a GPU nothing is wrong unless a plugin needs one."""
    needing = ", ".join(needed_by)
    if inventory.problem is not None:
        sentence = inventory.problem.sentence.rstrip(".")
        yield (
            warning("gpus", "host", f"{sentence} (needed by {needing})")
            if needing
            else ok("gpus", "host", "none that can be used; no plugin here needs one")
        )
        return
    names = ", ".join(device.label for device in inventory.devices)
    yield ok("gpus", "host", f"{names}; driver {inventory.driver_version}, CUDA {inventory.cuda_version}")
    told = ", ".join(drivers)
    yield (
        ok("gpus", "engine", told)
        if told
        else warning(
            "gpus", "engine", "the engine names no GPU driver. Install nvidia-container-toolkit and restart the engine"
        )
    )


def keys(count: int, *, loopback: bool) -> Finding:
    if count:
        return ok("access", "API keys", f"{count}; every call needs one")
    if loopback:
        return ok("access", "API keys", "none: whoever is on this machine may do everything")
    return error("access", "API keys", "none, and it would listen beyond loopback: `orchestrator keys add NAME` first")


def network(environment: Mapping[str, str], ca_bundle: Path | None) -> Iterable[Finding]:
    """What builds are given to reach the network."""
    proxies = [f"{name}={shown(name, environment[name])}" for name in BUILD_VARIABLES if environment.get(name)]
    yield ok("network", "proxies", ", ".join(proxies) or "none: builds reach the network directly")
    if ca_bundle is not None and not ca_bundle.is_file():
        yield error("network", "certificates", f"{ca_bundle} is no file. Correct ORCHESTRATOR_CA_BUNDLE")
    else:
        yield ok("network", "certificates", str(ca_bundle or "the base image's own"))


def shown(name: str, value: Any) -> str:
    """A setting's value as it would be written, without what nobody may see: passwords in addresses, and secrets."""
    text = _written(value)
    parts = urlsplit(text) if "://" in text else None
    if parts is not None and parts.password:
        return text.replace(f":{parts.password}@", ":***@")
    is_place = isinstance(value, Path) or name.endswith("_dirs")
    return "***" if value and _SECRET.search(name) and not is_place else text


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
