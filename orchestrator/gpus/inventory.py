"""Inventory of a host's GPUs. A value that the driver does not report is None, never 0. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from orchestrator.lifecycle import ReasonCode

RESTART: Final = "then restart the plugin"
"""The end of the sentence of a `GpuProblem` that a plugin has."""


def xid_key(bus_id: str) -> str:
    """The PCI address as `0000:65:00`: lower case, without the function."""
    # NVML writes eight digits for the domain, the kernel four.
    return bus_id.lower().partition(".")[0][-len("0000:00:00") :]


class FaultKind(StrEnum):
    """What is wrong with a driver or a device. Only `gpus.nvml` maps the codes of NVML to these."""

    BINDING_MISSING = "binding missing"  # the orchestrator's own Python binding (nvidia-ml-py) is not installed
    LIBRARY_MISSING = "library missing"
    DRIVER_NOT_LOADED = "driver not loaded"
    VERSION_MISMATCH = "version mismatch"  # the library on disk and the loaded kernel module differ in version
    NO_PERMISSION = "no permission"
    GPU_LOST = "GPU lost"  # fell off the bus, or requires a reset
    HANG = "hang"
    CRASH = "crash"
    UNKNOWN = "unknown error"


@dataclass(frozen=True, slots=True)
class GpuFault:
    """`message`: the driver's text, or ours where it gave none; `code`: NVML's number."""

    kind: FaultKind
    message: str = ""
    code: int | None = None


@dataclass(frozen=True, slots=True)
class GpuProblem:
    """Why GPUs cannot be used: `code` for programs, `sentence` (what, where, what to do) for the operator."""

    code: ReasonCode
    sentence: str

    @property
    def sentence_of_host(self) -> str:
        """As of a host on which no plugin waits for a GPU."""
        return f"{self.sentence.removesuffix(f', {RESTART}.').removesuffix('.')}."


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A program that holds memory of a GPU. `pid`: as the driver counts, which is the host's number; `memory`: bytes,
    None where the driver does not say.
    """

    pid: int
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A whole GPU, or one MIG instance. Memory in bytes. `uuid` is empty for a GPU that does not report it."""

    uuid: str
    index: int  # NVML's number of the GPU; a MIG instance has its parent's
    name: str | None = None
    memory_total: int | None = None
    memory_used: int | None = None  # includes the driver's own reserve: total - used is available to programs
    utilization: int | None = None  # percent over about the last second
    temperature: int | None = None  # °C
    ecc_errors: int | None = None  # uncorrected, since the driver was loaded
    last_xid: int | None = None  # last error number in the kernel's log
    pci_bus_id: str | None = None
    parent_uuid: str | None = None  # the GPU that a MIG instance belongs to
    mig_index: int | None = None
    mig_enabled: bool | None = None
    """A whole GPU is split, and only its instances can be used. None where the model has no MIG."""
    persistence_mode: bool | None = None
    """Off: the driver lets go of the GPU with its last user, and the next one waits until it is awake again."""
    processes: tuple[GpuProcess, ...] | None = None
    """The programs that hold its memory. None where the driver does not list them."""
    system_memory_total: int | None = None
    """Memory of the machine, for a GPU that has none of its own and uses that (GB10, Jetson); else None."""
    system_memory_used: int | None = None
    fault: GpuFault | None = None

    @property
    def label(self) -> str:
        return f"GPU {self.index}" if self.mig_index is None else f"GPU {self.index} MIG {self.mig_index}"

    @property
    def unified_memory(self) -> bool:
        return self.system_memory_total is not None

    @property
    def usable_memory(self) -> tuple[int | None, int | None]:
        """Total and used bytes of the memory that programs on it share, its own or the machine's."""
        if self.unified_memory:
            return self.system_memory_total, self.system_memory_used
        return self.memory_total, self.memory_used

    @property
    def grantable(self) -> bool:
        """A program can compute on it: no fault, and not the parent of MIG instances."""
        return self.fault is None and not self.mig_enabled

    def report(self) -> dict[str, Any]:
        return {
            "uuid": self.uuid or None,
            "index": self.index,
            "name": self.name,
            "memory_total_bytes": self.memory_total,
            "memory_used_bytes": self.memory_used,
            "utilization_percent": self.utilization,
            "temperature_celsius": self.temperature,
            "ecc_errors": self.ecc_errors,
            "last_xid": self.last_xid,
            "pci_bus_id": self.pci_bus_id,
            "parent_uuid": self.parent_uuid,
            "mig_enabled": self.mig_enabled,
            "persistence_mode": self.persistence_mode,
            "unified_memory": self.unified_memory,
            "system_memory_total_bytes": self.system_memory_total,
            "system_memory_used_bytes": self.system_memory_used,
            "healthy": self.fault is None,
            "fault": None if self.fault is None else f"{self.fault.kind}: {self.fault.message}",
        }


@dataclass(frozen=True, slots=True)
class GpuInventory:
    """Result of one probe of all GPUs. `fault`: NVML's own; `problem`: that of the whole host, by `judge_host`."""

    devices: tuple[GpuDevice, ...]
    observed_at: datetime
    probe_started: float  # monotonic clock in seconds, just before NVML was queried
    driver_version: str | None = None
    cuda_version: str | None = None
    library_version: str | None = None
    """Version of the loaded libnvidia-ml; it differs from the driver's after a half-done upgrade."""
    unidentified: Mapping[int, GpuFault] | None = None
    """Index of each GPU that is counted but does not report its UUID → why."""
    xids: Mapping[str, int] | None = None
    """`evidence.xid_key` of a GPU → its last XID."""
    seconds: float | None = None
    """How long the driver took to answer; None where it did not."""
    old_binding: str | None = None
    """What stands in the way of nvidia-ml-py, such as `pynvml 11.5.0`."""
    fault: GpuFault | None = None
    problem: GpuProblem | None = None

    @property
    def count(self) -> int:
        """Whole GPUs that the driver counts."""
        return sum(device.mig_index is None for device in self.devices) + len(self.unidentified or {})

    @property
    def unreadable(self) -> tuple[GpuDevice, ...]:
        """The GPUs that are counted and do not say which they are."""
        return tuple(GpuDevice("", index, fault=fault) for index, fault in (self.unidentified or {}).items())

    @property
    def sick(self) -> tuple[GpuDevice, ...]:
        """All GPUs that cannot be used for a fault of their own."""
        return (*(device for device in self.devices if device.fault is not None), *self.unreadable)

    def with_identities_of(self, earlier: "GpuInventory | None") -> "GpuInventory":
        """With the identities that `earlier` has of GPUs which report theirs no more, and of their MIG instances."""
        # Where GPUs are missing the others may have moved up: an index then does not say which one it is.
        if earlier is None or self.fault is not None or self.count < earlier.count:
            return self
        found = {device.uuid for device in self.devices}
        unidentified = dict(self.unidentified or {})
        recovered: list[GpuDevice] = []
        for device in earlier.devices:
            if device.uuid in found or device.mig_index is not None or device.index not in unidentified:
                continue
            fault = unidentified.pop(device.index)
            recovered.append(self._sick_one(device, fault))
        # Of a GPU whose instances could not be listed, or whose handle could not be had.
        parents = {device.uuid: device for device in (*self.devices, *recovered) if device.fault is not None}
        recovered += [
            self._sick_one(device, parent.fault)
            for device in earlier.devices
            if device.uuid not in found and (parent := parents.get(device.parent_uuid or "")) is not None
        ]
        return replace(self, devices=(*self.devices, *recovered), unidentified=unidentified)

    def _sick_one(self, device: GpuDevice, fault: GpuFault | None) -> GpuDevice:
        xid = (self.xids or {}).get(xid_key(device.pci_bus_id or ""))
        return GpuDevice(
            device.uuid,
            device.index,
            device.name,
            last_xid=device.last_xid if xid is None else xid,
            pci_bus_id=device.pci_bus_id,
            parent_uuid=device.parent_uuid,
            mig_index=device.mig_index,
            mig_enabled=device.mig_enabled,
            fault=fault,
        )

    def find(self, uuid: str) -> GpuDevice | None:
        return next((device for device in self.devices if device.uuid == uuid), None)

    def report(self) -> dict[str, Any]:
        return {
            "driver_version": self.driver_version,
            "cuda_version": self.cuda_version,
            "observed_at": self.observed_at.isoformat(),
            "reason_code": None if self.problem is None else self.problem.code,
            "reason": None if self.problem is None else self.problem.sentence_of_host,
            "devices": [device.report() for device in (*self.devices, *self.unreadable)],
        }
