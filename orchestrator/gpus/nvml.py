"""`python -m orchestrator.gpus.nvml`: queries NVML once and prints the answer as one line of JSON.

The only user of pynvml; only a child process runs it (see `probe`).

Printed: {"driver_version", "cuda_version", "library_version", "old_binding", "devices": [fields of GpuDevice],
"unidentified": {"<index>": fault}, "xids", "fault": null or {"kind", "message", "code"}}.
"""

# NVML can hang for ever in the kernel and can crash its caller. A new process each time loads the library on disk as
# the next container will, and so detects a half-done upgrade.

# The binding raises more than NVMLError: UnicodeDecodeError for a name that is no text, AttributeError for a function
# that an old one lacks. Whatever it raises costs the field or the device that it was asked for, and nothing else.

import json
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.gpus.evidence import last_xids
from orchestrator.gpus.inventory import FaultKind, xid_key

_import_error = ""
try:
    import pynvml  # type: ignore[import-untyped]  # it has no type hints
except Exception as error:  # noqa: BLE001 - a file of that name may hold anything
    pynvml = None
    _import_error = f"{type(error).__name__}: {error}"

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
_NOT_SUPPORTED = 3
_FUNCTION_NOT_FOUND = 13
_LAST_OLD_PYNVML = 11
"""The package pynvml has a module pynvml of its own up to this major version; the later ones need nvidia-ml-py."""


def query() -> dict[str, Any]:
    """The whole inventory. An error of NVML becomes a fault in the answer and is never raised."""
    if pynvml is None:
        message = f"the module pynvml cannot be imported ({_import_error})"
        return {"fault": {"kind": FaultKind.BINDING_MISSING, "message": message}}
    try:
        pynvml.nvmlInit()
        return _inventory()
    except Exception as error:  # noqa: BLE001 - see the head
        return {"fault": _fault(error), "library_version": _library_version(), "old_binding": _old_binding(None)}


def _inventory() -> dict[str, Any]:
    devices: list[dict[str, Any]] = []
    unidentified: dict[int, dict[str, Any]] = {}
    xids = last_xids()
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpu = _Device(handle).gpu(index, _uuid(handle), xids)
        except Exception as error:  # noqa: BLE001 - see the head
            unidentified[index] = _fault(error)
            continue
        devices += [gpu, *_mig_instances(handle, gpu)]
    cuda = _Device(None).value("nvmlSystemGetCudaDriverVersion_v2")
    driver_version = _Device(None).value("nvmlSystemGetDriverVersion")
    return {
        "driver_version": _plain(driver_version),
        # NVML's 12040 is CUDA 12.4.
        "cuda_version": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "library_version": _library_version(),
        "old_binding": _old_binding(driver_version),
        "devices": devices,
        "unidentified": unidentified,
        "xids": xids,
        "fault": None,
    }


class _Device:
    """Queries one device; `fault` is the first answer that means the device itself is faulty."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.fault: dict[str, Any] | None = None

    def value(self, function: str | Callable[..., Any], *more: Any) -> Any:
        """The function's value, or None where the device does not report it. `function`: it, or its name in pynvml."""
        try:
            called = getattr(pynvml, function) if isinstance(function, str) else function
            return called(*(() if self.handle is None else (self.handle,)), *more)
        except Exception as error:  # noqa: BLE001 - see the head
            fault = _fault(error)
            if self.fault is None and fault["kind"] in _FATAL:
                self.fault = fault
            return None

    def gpu(self, index: int, uuid: str, xids: dict[str, int]) -> dict[str, Any]:
        rates = self.value("nvmlDeviceGetUtilizationRates")
        pci = self.value("nvmlDeviceGetPciInfo")
        mig = self.value("nvmlDeviceGetMigMode")
        persistence = self.value("nvmlDeviceGetPersistenceMode")
        bus_id = None if pci is None else _text(pci.busId).lower()
        split = None if mig is None else mig[0] == 1
        return {
            "uuid": uuid,
            "index": index,
            "name": _plain(self.value("nvmlDeviceGetName")),
            **self.memory(may_be_unified=not split),
            "utilization": None if rates is None else rates.gpu,
            "temperature": self.value("nvmlDeviceGetTemperature", 0),  # NVML_TEMPERATURE_GPU
            # NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC
            "ecc_errors": self.value("nvmlDeviceGetTotalEccErrors", 1, 0),
            "pci_bus_id": bus_id,
            "last_xid": None if bus_id is None else xids.get(xid_key(bus_id)),
            "mig_enabled": split,
            "persistence_mode": None if persistence is None else persistence == 1,
            "processes": self.processes(),
            # After the calls above, which may have found it.
            "fault": self.fault,
        }

    def processes(self) -> list[dict[str, Any]] | None:
        """The programs that hold its memory, each once; None where the driver does not list them."""
        found: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics"):
            listed = self.value(_running_processes, kind)
            if listed is None and kind == "Compute":
                return None
            for process in listed or ():
                # A program of both kinds is in both lists, with the same memory.
                found[process.pid] = max(found.get(process.pid) or 0, process.usedGpuMemory or 0) or None
        return [{"pid": pid, "memory": memory} for pid, memory in found.items()]

    def memory(self, *, may_be_unified: bool) -> dict[str, int | None]:
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(self.handle)
            if memory.total:
                return {"memory_total": memory.total, "memory_used": memory.used}
            unified = may_be_unified
        except Exception as error:  # noqa: BLE001 - see the head
            unified = may_be_unified and getattr(error, "value", None) == _NOT_SUPPORTED
            fault = _fault(error)
            if self.fault is None and fault["kind"] in _FATAL:
                self.fault = fault
        unknown: dict[str, int | None] = {"memory_total": None, "memory_used": None}
        return {**unknown, **_system_memory()} if unified else unknown


def _running_processes(handle: Any, kind: str) -> Any:
    # The binding's unversioned functions need a driver of 510 or newer.
    name = f"nvmlDeviceGet{kind}RunningProcesses"
    if not hasattr(pynvml, f"{name}_v3"):  # an old binding
        return getattr(pynvml, name)(handle)
    try:
        return getattr(pynvml, f"{name}_v3")(handle)
    except pynvml.NVMLError as error:
        if error.value != _FUNCTION_NOT_FOUND:
            raise
        return getattr(pynvml, f"{name}_v2")(handle)


def _system_memory(meminfo: Path = Path("/proc/meminfo")) -> dict[str, int | None]:
    """The machine's memory, which a GPU without memory of its own uses."""
    try:
        kib = dict(re.findall(r"^(\w+):\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE))
        total, available = int(kib["MemTotal"]) * 1024, int(kib["MemAvailable"]) * 1024
    except (OSError, KeyError):
        return {}
    return {"system_memory_total": total, "system_memory_used": total - available}


def _mig_instances(handle: Any, parent: dict[str, Any]) -> list[dict[str, Any]]:
    """The MIG instances of a split GPU. An error during the search becomes the parent's fault."""
    instances: list[dict[str, Any]] = []
    if not parent["mig_enabled"]:
        return instances
    for slot in range(_Device(handle).value("nvmlDeviceGetMaxMigDeviceCount") or 0):
        try:
            device = _Device(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
            instances.append(_mig_instance(device, _uuid(device.handle), slot, parent))
        except Exception as error:  # noqa: BLE001 - see the head
            if getattr(error, "value", None) not in _NO_SUCH_SLOT:
                parent["fault"] = parent["fault"] or _fault(error)
    return instances


def _mig_instance(device: _Device, uuid: str, slot: int, parent: dict[str, Any]) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "index": parent["index"],
        "mig_index": slot,
        "parent_uuid": parent["uuid"],
        "name": _plain(device.value("nvmlDeviceGetName")),
        **device.memory(may_be_unified=False),
        "temperature": parent["temperature"],
        "last_xid": parent["last_xid"],
        "pci_bus_id": parent["pci_bus_id"],
        "persistence_mode": parent["persistence_mode"],
        "processes": device.processes(),
        # After the calls above, which may have found one.
        "fault": device.fault or parent["fault"],
    }


def _uuid(handle: Any) -> str:
    uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    if not uuid:
        raise ValueError("its UUID is empty")
    return uuid


def _fault(error: Exception) -> dict[str, Any]:
    code = getattr(error, "value", None)
    if not isinstance(code, int):
        message = f"the binding of NVML failed: {type(error).__name__}: {error}"
        return {"kind": FaultKind.UNKNOWN, "message": message[:200], "code": None}
    return {"kind": _KINDS.get(code, FaultKind.UNKNOWN), "message": _text(str(error)), "code": code}


def _old_binding(driver_version: Any) -> str | None:
    """What stands in the way of nvidia-ml-py; None where nothing does, as far as can be seen."""
    # Both packages bring the file pynvml.py, and the one that was installed last has it.
    try:
        version = metadata.version("pynvml")
    except metadata.PackageNotFoundError:
        version = ""
    if version and version.partition(".")[0].isdigit() and int(version.partition(".")[0]) <= _LAST_OLD_PYNVML:
        return f"the package pynvml {version}"
    return f"the module {pynvml.__file__}" if isinstance(driver_version, bytes) else None


def _library_version() -> str | None:
    # The loaded file's name ends with it: libnvidia-ml.so.550.54.15.
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    found = re.search(r"libnvidia-ml\.so\.(\d+\.[\d.]+)", maps)
    return found[1] if found else None


def _plain(value: Any) -> Any:
    """Texts as text, whatever the binding gives; other values as they are."""
    return _text(value) if isinstance(value, (bytes, str)) else value


def _text(value: bytes | str) -> str:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value.decode("utf-8", "backslashreplace")


if __name__ == "__main__":
    # On a line of its own, whatever the library has printed.
    sys.stdout.write("\n" + json.dumps(query(), default=str) + "\n")
