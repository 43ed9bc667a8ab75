"""Inventory of a host's GPUs. A value that the driver does not report is None, never 0. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from orchestrator.lifecycle import ReasonCode

RESTART: Final = "then restart the plugin"
"""The end of the sentence of a `GpuProblem` that a plugin has."""


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
class GpuDevice:
    """A whole GPU, or one MIG instance. Memory in bytes."""

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
    fault: GpuFault | None = None

    @property
    def label(self) -> str:
        return f"GPU {self.index}" if self.mig_index is None else f"GPU {self.index} MIG {self.mig_index}"

    @property
    def grantable(self) -> bool:
        """A program can compute on it: no fault, and not the parent of MIG instances."""
        return self.fault is None and not self.mig_enabled

    def report(self) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
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
    fault: GpuFault | None = None
    problem: GpuProblem | None = None

    def find(self, uuid: str) -> GpuDevice | None:
        return next((device for device in self.devices if device.uuid == uuid), None)

    def report(self) -> dict[str, Any]:
        return {
            "driver_version": self.driver_version,
            "cuda_version": self.cuda_version,
            "observed_at": self.observed_at.isoformat(),
            "reason_code": None if self.problem is None else self.problem.code,
            "reason": None if self.problem is None else self.problem.sentence_of_host,
            "devices": [device.report() for device in self.devices],
        }
