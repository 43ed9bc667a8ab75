"""What this engine is and can, and what it shares with this process: its kernel, its folders."""

import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from orchestrator.containers.docker_engine.answers import items, mapping, text
from orchestrator.containers.spec import BindMount, EngineInfo
from orchestrator.errors import EngineRefusedError

_LIMITS: Final = {"memory": "MemoryLimit", "swap": "SwapLimit", "pids": "PidsLimit", "cpus": "CpuCfsQuota"}
_VIRTUAL_MACHINE: Final = "docker desktop"
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
# Files that Docker and Podman mount into every container, from a folder named after the container's id.
_OWN_FILES: Final = re.compile(
    r"/(?:containers/([0-9a-f]{64})|[a-z0-9]+-containers/([0-9a-f]{64})/userdata)/(?:hostname|hosts|resolv\.conf) "
)
_PODMAN_WITH_CDI: Final = (5, 4)  # the version it was seen with; 4.3 starts a container without the device


def engine_info(answer: Any) -> EngineInfo:
    """From `GET /info`.

    A driver that is missing in `gpu_drivers` may still work; only a start shows it.
    """
    # The engine registers `nvidia` for device requests when it finds nvidia-container-runtime-hook on its PATH, which
    # the API does not show; it shows the nvidia runtime, which is usually set up along with the hook.
    body = mapping(answer)
    security = {text(option).split(",")[0] for option in items(body.get("SecurityOptions"))}
    product: Literal["Docker", "Podman"] = "Podman" if "BuildahVersion" in body else "Docker"
    version = text(body.get("ServerVersion"))
    drivers = ("nvidia",) if "nvidia" in mapping(body.get("Runtimes")) else ()
    if product == "Podman":
        # It does not list its CDI devices; the start with one that it lacks fails.
        drivers = ("cdi",) if version_numbers(version) >= _PODMAN_WITH_CDI else ()
    return EngineInfo(
        product=product,
        version=version,
        operating_system=text(body.get("OperatingSystem")),
        storage_driver=text(body.get("Driver")),
        cgroup_version=text(body.get("CgroupVersion")),
        gpu_drivers=(*drivers, *(("cdi",) if _has_cdi(body) else ())),
        cdi_devices=_cdi_devices(body),
        userns="name=userns" in security,
        rootless="name=rootless" in security,
        selinux="name=selinux" in security,
        limits=frozenset(name for name, field in _LIMITS.items() if body.get(field) is not False),
        kernel=text(body.get("KernelVersion")),
        data_dir=text(body.get("DockerRootDir")),
        cores=_count(body.get("NCPU")),
    )


def version_numbers(version: str) -> tuple[int, ...]:
    """Major and minor number; empty for a version of another form."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _has_cdi(body: Mapping[str, Any]) -> bool:
    # Engines since 28.2 list the devices they found; 25 to 28.1 list only their search path, and only with CDI enabled.
    devices = _cdi_devices(body)
    if devices is not None:
        return bool(devices)
    return bool(body.get("CDISpecDirs")) and "DiscoveredDevices" not in body


def _cdi_devices(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    listed = body.get("DiscoveredDevices")
    if not isinstance(listed, list):
        return None
    names = [text(mapping(device).get("ID")) for device in listed]
    return tuple(name for name in names if name.startswith("nvidia.com/gpu="))


def shares_sockets(info: EngineInfo, *, inside: bool) -> bool:
    """Whether a Unix socket in a folder of this machine can be reached from the engine's containers: whether both run
    on the same kernel. `inside`: the orchestrator runs in one of these containers itself.
    """
    if inside:
        return True
    if sys.platform != "linux" or _VIRTUAL_MACHINE in info.operating_system.lower():
        return False
    # An engine in a virtual machine has another kernel, as a rule of another release.
    return not info.kernel or info.kernel == platform.release()


@dataclass(frozen=True, slots=True)
class HostFolders:
    """Path in the orchestrator's own container → path on the engine's machine. None: the orchestrator runs on that
    machine, not in a container.
    """

    by_mount_point: Mapping[Path, Path] | None = None

    def translated(self, mounts: Iterable[BindMount]) -> tuple[BindMount, ...]:
        """The mounts by their host paths. Raises `EngineRefusedError` for a path that is not on the host."""
        if self.by_mount_point is None:
            return tuple(mounts)
        return tuple(replace(mount, source=_on_host(mount, self.by_mount_point)) for mount in mounts)

    def on_host(self, file: Path) -> Path:
        """One file's host path. Raises as `translated`."""
        return self.translated([BindMount(file, str(file))])[0].source


def host_folders(answer: Any) -> HostFolders:
    """From the inspection of the orchestrator's own container (`GET /containers/{id}/json`)."""
    # The engine knows what it mounted into the own container and from where: any volume or bind mount, at any path.
    pairs = [
        (mount.get("Destination"), mount.get("Source"))
        for mount in map(mapping, items(mapping(answer).get("Mounts")))
        if mount.get("Type") in {"bind", "volume"}
    ]
    return HostFolders({Path(inside): Path(source) for inside, source in pairs if inside and source})


def own_container_id(mountinfo: Path = _MOUNTINFO) -> str | None:
    """The id of the container that this process runs in; None outside of one."""
    try:
        found = _OWN_FILES.search(mountinfo.read_text())
    except OSError:
        return None
    return found[1] or found[2] if found else None


def _on_host(mount: BindMount, by_mount_point: Mapping[Path, Path]) -> Path:
    for folder in (mount.source, *mount.source.parents):
        if folder in by_mount_point:
            return by_mount_point[folder] / mount.source.relative_to(folder)
    raise EngineRefusedError(
        f"the source of the mount {mount.target} lies inside the orchestrator's own container, where no other container"
        " can see it. Mount it there from the host: ORCHESTRATOR_RUN_DIR, ORCHESTRATOR_PLUGINS_DIRS and"
        " ORCHESTRATOR_MODELS_DIR must be volumes or bind mounts"
    )
