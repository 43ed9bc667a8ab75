"""What this engine is and can, and whether it shares its kernel with this process."""

import platform
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

from orchestrator.containers.docker_engine.answers import items, mapping, text
from orchestrator.containers.spec import EngineInfo

_LIMITS: Final = {"memory": "MemoryLimit", "swap": "SwapLimit", "pids": "PidsLimit", "cpus": "CpuCfsQuota"}
_VIRTUAL_MACHINE: Final = "docker desktop"
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
        memory=_count(body.get("MemTotal")),
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
