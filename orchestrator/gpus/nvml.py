"""`python -m orchestrator.gpus.nvml`: queries NVML once and prints the answer as one line of JSON.

The only user of pynvml; only a child process runs it (see `probe`).

Printed: {"driver_version", "cuda_version", "library_version", "devices": [fields of GpuDevice], "unidentified":
{"<index>": fault}, "fault": null or {"kind", "message", "code"}}.
"""

# NVML can hang for ever in the kernel and can crash its caller. A new process each time loads the library on disk as
# the next container will, and so detects a half-done upgrade.

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.gpus.evidence import last_xids, xid_key
from orchestrator.gpus.inventory import FaultKind

try:
    import pynvml  # type: ignore[import-untyped]  # it has no type hints
except ImportError:
    pynvml = None

# NVML_ERROR_* → kind; every other number is UNKNOWN.
_KINDS = {
    9: FaultKind.DRIVER_NOT_LOADED,
    12: FaultKind.LIBRARY_MISSING,
    4: FaultKind.NO_PERMISSION,
    15: FaultKind.GPU_LOST,
    16: FaultKind.GPU_LOST,  # reset required: unusable until then
    18: FaultKind.VERSION_MISMATCH,
}
_NO_SUCH_SLOT = frozenset({2, 3, 6})  # INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND: no MIG instance in this slot
# One such answer means that the device is faulty, not that it lacks a value.
_FATAL = frozenset({FaultKind.GPU_LOST, FaultKind.VERSION_MISMATCH, FaultKind.DRIVER_NOT_LOADED})


def query() -> dict[str, Any]:
    """The whole inventory. An error of NVML becomes a fault in the answer and is never raised."""
    if pynvml is None:
        return {"fault": {"kind": FaultKind.BINDING_MISSING, "message": "the module pynvml cannot be imported"}}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"fault": _fault(error), "library_version": _library_version()}
    try:
        return _inventory()
    except pynvml.NVMLError as error:
        return {"fault": _fault(error), "library_version": _library_version()}


def _inventory() -> dict[str, Any]:
    devices: list[dict[str, Any]] = []
    unidentified: dict[int, dict[str, Any]] = {}
    xids = last_xids()
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpu = _Device(handle).gpu(index, pynvml.nvmlDeviceGetUUID(handle), xids)
        except pynvml.NVMLError as error:
            unidentified[index] = _fault(error)
            continue
        devices += [gpu, *_mig_instances(handle, gpu)]
    cuda = _Device(None).value(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return {
        "driver_version": _Device(None).value(pynvml.nvmlSystemGetDriverVersion),
        # NVML's 12040 is CUDA 12.4.
        "cuda_version": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "library_version": _library_version(),
        "devices": devices,
        "unidentified": unidentified,
        "fault": None,
    }


class _Device:
    """Queries one device; `fault` is the first answer that means the device itself is faulty."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.fault: dict[str, Any] | None = None

    def value(self, function: Callable[..., Any], *more: Any) -> Any:
        """The function's value, or None where the device does not report it."""
        try:
            return function(*(() if self.handle is None else (self.handle,)), *more)
        except pynvml.NVMLError as error:
            fault = _fault(error)
            if self.fault is None and fault["kind"] in _FATAL:
                self.fault = fault
            return None

    def gpu(self, index: int, uuid: str, xids: dict[str, int]) -> dict[str, Any]:
        memory = self.value(pynvml.nvmlDeviceGetMemoryInfo)
        rates = self.value(pynvml.nvmlDeviceGetUtilizationRates)
        pci = self.value(pynvml.nvmlDeviceGetPciInfo)
        mig = self.value(pynvml.nvmlDeviceGetMigMode)
        bus_id = None if pci is None else _text(pci.busId).lower()
        return {
            "uuid": uuid,
            "index": index,
            "name": self.value(pynvml.nvmlDeviceGetName),
            "memory_total": None if memory is None else memory.total,
            "memory_used": None if memory is None else memory.used,
            "utilization": None if rates is None else rates.gpu,
            "temperature": self.value(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            "ecc_errors": self.value(
                pynvml.nvmlDeviceGetTotalEccErrors,
                pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                pynvml.NVML_VOLATILE_ECC,
            ),
            "pci_bus_id": bus_id,
            "last_xid": None if bus_id is None else xids.get(xid_key(bus_id)),
            "mig_enabled": None if mig is None else mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
            # After the calls above, which may have found it.
            "fault": self.fault,
        }


def _mig_instances(handle: Any, parent: dict[str, Any]) -> list[dict[str, Any]]:
    """The MIG instances of a split GPU. An error during the search becomes the parent's fault."""
    instances: list[dict[str, Any]] = []
    if not parent["mig_enabled"]:
        return instances
    for slot in range(_Device(handle).value(pynvml.nvmlDeviceGetMaxMigDeviceCount) or 0):
        try:
            device = _Device(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
            instances.append(_mig_instance(device, pynvml.nvmlDeviceGetUUID(device.handle), slot, parent))
        except pynvml.NVMLError as error:
            if error.value not in _NO_SUCH_SLOT:
                parent["fault"] = parent["fault"] or _fault(error)
    return instances


def _mig_instance(device: _Device, uuid: str, slot: int, parent: dict[str, Any]) -> dict[str, Any]:
    memory = device.value(pynvml.nvmlDeviceGetMemoryInfo)
    return {
        "uuid": uuid,
        "index": parent["index"],
        "mig_index": slot,
        "parent_uuid": parent["uuid"],
        "name": device.value(pynvml.nvmlDeviceGetName),
        "memory_total": None if memory is None else memory.total,
        "memory_used": None if memory is None else memory.used,
        "temperature": parent["temperature"],
        "last_xid": parent["last_xid"],
        "pci_bus_id": parent["pci_bus_id"],
        # After the calls above, which may have found one.
        "fault": device.fault or parent["fault"],
    }


def _fault(error: Any) -> dict[str, Any]:
    return {"kind": _KINDS.get(error.value, FaultKind.UNKNOWN), "message": str(error), "code": error.value}


def _library_version() -> str | None:
    # The loaded file's name ends with it: libnvidia-ml.so.550.54.15.
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    found = re.search(r"libnvidia-ml\.so\.(\d+\.[\d.]+)", maps)
    return found[1] if found else None


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    # On a line of its own, whatever the library has printed.
    sys.stdout.write("\n" + json.dumps(query()) + "\n")
