"""From granted devices to the words in which an engine is asked for them. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Driver = Literal["nvidia", "cdi"]

CDI_KIND: Final = "nvidia.com/gpu"
_CAPABILITIES: Final = ("gpu", "compute", "utility")


@dataclass(frozen=True, slots=True)
class DeviceRequestFields:
    """The fields of an engine's device request. With CDI the spec on the engine's host says what a container gets, and
    `capabilities` change nothing.
    """

    driver: Driver
    device_ids: tuple[str, ...]
    capabilities: tuple[str, ...]


def device_request(
    uuids: Sequence[str], *, gpu_drivers: Collection[str], forced: Driver | None = None, video: bool = False
) -> DeviceRequestFields:
    """The request for exactly these devices, whole GPUs or MIG instances. `video`: also the encoder and decoder.

    Raises `ValueError` without a device: an empty list would hand out all of them.
    """
    if not uuids:
        raise ValueError("a device request needs at least one device; none would mean all")
    driver = forced or choose_driver(gpu_drivers)
    return DeviceRequestFields(
        driver=driver,
        device_ids=tuple(uuids) if driver == "nvidia" else tuple(f"{CDI_KIND}={uuid}" for uuid in uuids),
        capabilities=(*_CAPABILITIES, "video") if video else _CAPABILITIES,
    )


def choose_driver(gpu_drivers: Collection[str]) -> Driver:
    """`nvidia` where the engine has it, CDI where that is what it has. An engine that names neither may still serve
    `nvidia`: it does not tell of a hook on its PATH.
    """
    return "cdi" if "cdi" in gpu_drivers and "nvidia" not in gpu_drivers else "nvidia"
