"""How granted GPUs are requested of an engine: the requests that may be served, in the order to try them. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from orchestrator.gpus.inventory import GpuDevice, GpuInventory

Way = Literal["nvidia", "cdi", "runtime"]
"""A device request for the driver `nvidia`, one for CDI devices, or the OCI runtime `nvidia`, which learns of it by
NVIDIA_VISIBLE_DEVICES.
"""
WAY_NAMES: Final[Mapping[Way, str]] = {
    "nvidia": "device requests",
    "cdi": "CDI devices",
    "runtime": "the runtime `nvidia`",
}
LABEL_WAY: Final = "plugin-orchestrator.gpu-way"
"""The way in which a container's GPUs were requested."""
CDI_KIND: Final = "nvidia.com/gpu"
_CAPABILITIES: Final = ("gpu", "compute", "utility")


@dataclass(frozen=True, slots=True)
class EngineGpus:
    """What an engine tells. `drivers`: those of `nvidia` and `cdi` that it seems to serve; the first means that it
    lists the OCI runtime of that name. `cdi_devices`: the full names of CDI devices, None where it does not list them.
    """

    drivers: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] | None = None
    only_cdi: bool = False
    """It ignores requests for `nvidia`: a container would start without its GPU. So does Podman."""


@dataclass(frozen=True, slots=True)
class DeviceRequestFields:
    """One request."""

    # With CDI, `capabilities` have no effect: the spec on the engine's host defines what a container gets.

    driver: Way
    device_ids: tuple[str, ...]
    capabilities: tuple[str, ...]


def way_of(labels: Mapping[str, str]) -> Way | None:
    """The way in which the GPUs of a container with these labels were requested; None where they do not say it."""
    return next((way for way in WAY_NAMES if way == labels.get(LABEL_WAY)), None)


def device_requests(
    uuids: Sequence[str],
    engine: EngineGpus,
    inventory: GpuInventory | None = None,
    *,
    forced: Way | None = None,
    worked: Way | None = None,
    video: bool = False,
) -> tuple[DeviceRequestFields, ...]:
    """The requests for exactly these devices, whole GPUs or MIG instances; the first that the engine serves is the one.
    `worked`: the way that served the last one. `video` adds encoder and decoder. Empty where the engine has no way, or
    only names of CDI devices that do not tell which GPU they are.

    Raises `ValueError` without a device.
    """
    if not uuids:
        raise ValueError("a device request needs at least one device; an empty list would hand out all of them")
    capabilities = (*_CAPABILITIES, "video") if video else _CAPABILITIES
    ways = (forced,) if forced else sorted(_ways(engine), key=lambda way: way != worked)
    return tuple(
        DeviceRequestFields(way, names, capabilities)
        for way in ways
        for names in _names(way, tuple(uuids), engine.cdi_devices, inventory)
    )


def _ways(engine: EngineGpus) -> tuple[Way, ...]:
    if engine.only_cdi:
        return ("cdi",) if "cdi" in engine.drivers else ()
    # An engine that reports neither may still serve `nvidia`: it does not report a hook on its PATH.
    if "cdi" not in engine.drivers:
        return ("nvidia", "runtime") if "nvidia" in engine.drivers else ("nvidia",)
    return ("nvidia", "cdi", "runtime") if "nvidia" in engine.drivers else ("cdi", "nvidia")


def _names(
    way: Way, uuids: tuple[str, ...], listed: tuple[str, ...] | None, inventory: GpuInventory | None
) -> Iterator[tuple[str, ...]]:
    if way == "nvidia":
        yield uuids
        return
    devices = [inventory.find(uuid) if inventory else None for uuid in uuids]
    by_index = tuple(_index_name(device) for device in devices if device is not None)
    indices = [by_index] if len(by_index) == len(uuids) else []
    if way == "runtime":
        # In its mode `cdi` it looks these up in the spec, which may have only one kind of them.
        yield from (uuids, *indices)
        return
    sets = [uuids, *indices, *([("all",)] if _are_all(devices, inventory) else [])]
    full = (tuple(f"{CDI_KIND}={name}" for name in names) for names in sets)
    yield from full if listed is None else [names for names in full if set(names) <= set(listed)][:1]


def _index_name(device: GpuDevice) -> str:
    # As nvidia-ctk numbers them, by NVML.
    return f"{device.index}" if device.mig_index is None else f"{device.index}:{device.mig_index}"


def _are_all(devices: Sequence[GpuDevice | None], inventory: GpuInventory | None) -> bool:
    """Whether these are all devices of the host, so that a device `all` holds nothing beside them."""
    if inventory is None or None in devices or inventory.unidentified:
        return False
    return len(set(devices)) == len(inventory.devices) and not any(device.mig_enabled for device in inventory.devices)
