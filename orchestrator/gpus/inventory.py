"""The words for a host's GPUs. A value that the driver does not give is None, never a zero."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from orchestrator.lifecycle import ReasonCode


class FaultKind(StrEnum):
    """What is wrong with a driver or a device. The codes of NVML are turned into these in `gpus.nvml` alone."""

    BINDING_MISSING = "binding missing"
    """The orchestrator's own Python binding (nvidia-ml-py) is not installed."""
    LIBRARY_MISSING = "library missing"
    DRIVER_NOT_LOADED = "driver not loaded"
    VERSION_MISMATCH = "version mismatch"
    """The library on disk and the kernel module in memory are of two driver versions."""
    NO_PERMISSION = "no permission"
    GPU_LOST = "GPU lost"
    """Fell off the bus, or needs a reset."""
    HANG = "hang"
    CRASH = "crash"
    UNKNOWN = "unknown error"


@dataclass(frozen=True, slots=True)
class GpuFault:
    """`said` is the driver's own text, or ours where it could say nothing; `code` is NVML's number."""

    kind: FaultKind
    said: str = ""
    code: int | None = None


@dataclass(frozen=True, slots=True)
class GpuProblem:
    """What keeps GPUs from being used: a code for programs, a sentence (what, where, what to do) for the operator."""

    code: ReasonCode
    sentence: str


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A whole GPU, or one MIG instance of one.

    Memory in bytes; what the driver keeps for itself counts as used, so that total - used is what a program can have.
    `utilization` in percent of the last second or so, `temperature` in °C, `ecc_errors` uncorrected ones since the
    driver was loaded. `last_xid` is the last error number that the kernel log holds for it.
    """

    uuid: str
    index: int
    """NVML's number of the GPU; a MIG instance has its parent's."""
    name: str | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: int | None = None
    temperature: int | None = None
    ecc_errors: int | None = None
    last_xid: int | None = None
    pci_bus_id: str | None = None
    parent_uuid: str | None = None
    """Of a MIG instance: the GPU that it is a part of."""
    mig_index: int | None = None
    mig_enabled: bool | None = None
    """Of a whole GPU: it is split, and only its instances can be used. None where the model knows no MIG."""
    fault: GpuFault | None = None

    @property
    def label(self) -> str:
        """As sentences name it: `GPU 0`, `GPU 0 MIG 1`."""
        return f"GPU {self.index}" if self.mig_index is None else f"GPU {self.index} MIG {self.mig_index}"

    @property
    def grantable(self) -> bool:
        """A program can compute on it: sound, and not merely the parent of MIG instances."""
        return self.fault is None and not self.mig_enabled

    def report(self) -> dict[str, Any]:
        """As the API shows it."""
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
            "fault": None if self.fault is None else f"{self.fault.kind}: {self.fault.said}",
        }


@dataclass(frozen=True, slots=True)
class GpuInventory:
    """One look at all GPUs.

    `began` is the monotonic clock's time, in seconds, just before NVML was asked: what happened later is not in it.
    `fault` is NVML's own; `problem` is the judgement on the whole host, None while nobody has judged.
    """

    devices: tuple[GpuDevice, ...]
    observed_at: datetime
    began: float
    driver_version: str | None = None
    cuda_version: str | None = None
    library_version: str | None = None
    """Of the libnvidia-ml that was loaded: another than the driver's means a half-done upgrade."""
    unidentified: Mapping[int, GpuFault] | None = None
    """Numbers of GPUs that are counted but do not even tell their UUID, and why."""
    fault: GpuFault | None = None
    problem: GpuProblem | None = None

    def find(self, uuid: str) -> GpuDevice | None:
        """The device of this UUID."""
        return next((device for device in self.devices if device.uuid == uuid), None)

    def report(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "driver_version": self.driver_version,
            "cuda_version": self.cuda_version,
            "observed_at": self.observed_at.isoformat(),
            "reason_code": None if self.problem is None else self.problem.code,
            "reason": None if self.problem is None else self.problem.sentence,
            "devices": [device.report() for device in self.devices],
        }
