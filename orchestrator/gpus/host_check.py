"""Diagnoses a host's GPUs from the evidence: which of the many kinds of "GPU not available" it is. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from orchestrator.gpus.evidence import HardwareHints, SmiResult
from orchestrator.gpus.inventory import RESTART, FaultKind, GpuDevice, GpuFault, GpuInventory, GpuProblem
from orchestrator.lifecycle import ReasonCode

PERSISTENCE: Final = "enable persistence mode (nvidia-smi -pm 1, or the service nvidia-persistenced)"
_RECREATE: Final = (
    "the driver answers with an unknown error though its kernel module and its device nodes are there. `systemctl "
    "daemon-reload` on the host takes the devices away from running containers. Recreate the orchestrator's container "
    "(docker compose up --detach --force-recreate); if nvidia-smi fails on the host too, reboot the host"
)
_UNKNOWN: Final = 999  # NVML_ERROR_UNKNOWN
_LOG: Final = "Look in the kernel's log for NVRM, then reload the driver or reboot"
_STEPS: Final = {
    8: "Connect the GPU's own power cables",  # NVML_ERROR_INSUFFICIENT_POWER
    10: f"If it is slow to wake its GPUs, {PERSISTENCE}. {_LOG}",
    17: "Under WSL2, update the Windows driver and run `wsl --shutdown`; otherwise reboot",  # ERROR_OPERATING_SYSTEM
    19: "Find out what uses it alone, such as a reset or a test (dcgmi diag), and let that end",  # NVML_ERROR_IN_USE
    27: "Start nvidia-fabricmanager, of the driver's version",  # NVML_ERROR_NOT_READY
}
"""Error number of NVML → what to do, where that is nothing like a reboot."""
# Faults of the driver, not of a GPU: programs that have it open compute on.
_DRIVER_FAULTS: Final = frozenset(
    {FaultKind.VERSION_MISMATCH, FaultKind.DRIVER_NOT_LOADED, FaultKind.NO_PERMISSION, FaultKind.LIBRARY_MISSING}
)


@dataclass(frozen=True, slots=True)
class HostEvidence:
    """What the probes found. `smi` is None where nvidia-smi was not run."""

    inventory: GpuInventory
    hints: HardwareHints
    smi: SmiResult | None = None


def judge_host(evidence: HostEvidence) -> GpuProblem | None:
    """Why no GPU of this host can be used; None where at least one can."""
    fault = evidence.inventory.fault
    if fault is None:
        return _without_usable_device(evidence) or _second_opinion(evidence)
    # Without a trace of hardware or driver, a missing library is no fault: there is no GPU.
    if fault.kind in (FaultKind.LIBRARY_MISSING, FaultKind.BINDING_MISSING) and not _driver_traces(evidence):
        return _not_found("no NVIDIA driver is installed and no NVIDIA device is visible")
    return GpuProblem(_code(fault), _sentence(fault, evidence))


def judge_running(uuids: Collection[str], inventory: GpuInventory) -> GpuProblem | None:
    """GPU_LOST where a plugin that runs on these devices has certainly lost one of them, else None."""
    # A probe that failed as a whole says nothing about one device: the plugin may be computing undisturbed.
    if inventory.fault is not None:
        return None
    for uuid in sorted(uuids):
        device = inventory.find(uuid)
        if device is None and doubtful(uuid, inventory) is None:
            lost = next((f for f in (inventory.unidentified or {}).values() if f.kind is FaultKind.GPU_LOST), None)
            words = (
                f"the driver counts one less, or others ({words_of(lost)})" if lost else "the driver lists it no more"
            )
            return GpuProblem(
                ReasonCode.GPU_LOST,
                f"The GPU {uuid} that the plugin ran on was removed: {words}; it fell off the bus or was repartitioned"
                f". {kernel_log(None)} Bring it back or reset it, {RESTART}.",
            )
        if device is not None and device.fault is not None and device.fault.kind is FaultKind.GPU_LOST:
            return GpuProblem(
                ReasonCode.GPU_LOST,
                f"{device.label} ({uuid}) was lost while the plugin ran on it: {words_of(device.fault)}. "
                f"{kernel_log(device.last_xid)} Reset it (nvidia-smi -r -i {device.index}) or reboot, {RESTART}.",
            )
    return None


def doubtful(uuid: str, inventory: GpuInventory) -> GpuFault | None:
    """What the driver answers of this device instead of its state, where that may pass; None where it is certain."""
    device = inventory.find(uuid)
    if device is not None:
        fault = device.fault
        return None if fault is None or fault.kind in {FaultKind.GPU_LOST, *_DRIVER_FAULTS} else fault
    # It may be one of those that do not say which they are.
    return next((f for f in (inventory.unidentified or {}).values() if f.kind is not FaultKind.GPU_LOST), None)


def sick_gpu(device: GpuDevice) -> str:
    """A GPU that is out of order, with the driver's words, as part of a sentence."""
    which = f" ({device.uuid})" if device.uuid else ""
    xid = "" if device.last_xid is None else f", Xid {device.last_xid} in the kernel's log"
    return f"{device.label}{which} is out of order ({words_of(device.fault or GpuFault(FaultKind.UNKNOWN))}{xid})"


def sick_problem(sick: Collection[GpuDevice], what: str) -> GpuProblem:
    """`what` cannot be had because of these GPUs. `what`: a sentence, without its stop."""
    lost = [device for device in sick if device.fault is not None and device.fault.kind is FaultKind.GPU_LOST]
    indices = ",".join(str(device.index) for device in (lost or sick))
    return GpuProblem(
        ReasonCode.GPU_LOST if lost else ReasonCode.GPU_DRIVER_ERROR,
        f"{what}: {'; '.join(sick_gpu(device) for device in sick)}. Reset it (nvidia-smi -r -i {indices}) or reboot, "
        f"{RESTART}.",
    )


def _without_usable_device(evidence: HostEvidence) -> GpuProblem | None:
    inventory, hints = evidence.inventory, evidence.hints
    if any(device.fault is None for device in inventory.devices):
        return None
    sick = inventory.sick
    faults = [device.fault for device in sick if device.fault is not None]
    if len({fault.kind for fault in faults}) > 1:
        return sick_problem(sick, "No GPU of this host can be used")
    if faults:
        return GpuProblem(_code(faults[0]), _sentence(faults[0], evidence))
    if hints.pci_gpus:
        return _driver_error(
            f"the driver is loaded and uses none of the {hints.pci_gpus} NVIDIA GPUs on the PCI bus. Look in the "
            "kernel's log for NVRM, and check whether the GPUs are assigned to virtual machines (vfio-pci) or too new "
            f"for driver {inventory.driver_version or hints.module_version or ''}".rstrip()
        )
    if hints.tegra:
        return _driver_error(_on_tegra(hints, "NVML, by which GPUs are found, counts none"))
    return _not_found("the NVIDIA driver is loaded and counts no GPU")


def _second_opinion(evidence: HostEvidence) -> GpuProblem | None:
    smi = evidence.smi
    if smi is None or smi.outcome in ("works", "missing"):
        return None
    # It fails, or waits, as soon as one GPU of many is sick. Where NVML names that one, the others serve.
    if evidence.inventory.sick:
        return None
    what = "does not answer" if smi.outcome == "hangs" else f"fails ({smi.message})"
    return _driver_error(
        f"NVML lists the GPUs, but nvidia-smi {what}. Look in the kernel's log for NVRM, reinstall the driver or reboot"
    )


def _code(fault: GpuFault) -> ReasonCode:
    return ReasonCode.GPU_LOST if fault.kind is FaultKind.GPU_LOST else ReasonCode.GPU_DRIVER_ERROR


def _sentence(fault: GpuFault, evidence: HostEvidence) -> str:
    inventory, hints = evidence.inventory, evidence.hints
    match fault.kind:
        case FaultKind.LIBRARY_MISSING:
            return _library_missing(evidence)
        case FaultKind.BINDING_MISSING:
            why = f": {fault.message}" if fault.message else ""
            what = f"the Python package nvidia-ml-py is missing beside the orchestrator{why}. Install it"
        case FaultKind.DRIVER_NOT_LOADED:
            what = _not_loaded(hints)
        case FaultKind.VERSION_MISMATCH:
            module = hints.module_version or "of one version"
            library = inventory.library_version or "of another"
            what = (
                f"the NVIDIA kernel module is {module} and its library {library}: an upgrade is half done. Reboot, or "
                "stop everything that uses the GPU and reload the module"
            )
        case FaultKind.NO_PERMISSION:
            what = (
                "the orchestrator's user may not use the NVIDIA driver. Give it access to /dev/nvidiactl and "
                "/dev/nvidia* (group video or render)"
            )
        case FaultKind.GPU_LOST:
            return (
                f"Every GPU of this host is lost: {words_of(fault)}. {kernel_log(None)} Reset it (nvidia-smi -r) or "
                f"reboot, {RESTART}."
            )
        case FaultKind.HANG:
            what = (
                f"the NVIDIA driver hangs: {fault.message}. If it is only slow to wake its GPUs, {PERSISTENCE}, or "
                "raise ORCHESTRATOR_GPU_FIRST_LOOK. Otherwise look in the kernel's log for NVRM and Xid, and reboot if "
                "nothing else helps"
            )
        case FaultKind.CRASH:
            what = (
                f"the NVIDIA library crashes the process that queries it: it {fault.message}. Reinstall the driver so "
                "that library and kernel module are of one version"
            )
        case FaultKind.UNKNOWN:
            lost_to_container = fault.code == _UNKNOWN and hints.lost_to_container
            what = (
                f"this container lost its right to the GPU: {_RECREATE}"
                if lost_to_container
                else (
                    f"the NVIDIA driver answers with an error: {words_of(fault)}. " + _STEPS.get(fault.code or 0, _LOG)
                )
            )
    return _driver_error(what).sentence


def _library_missing(evidence: HostEvidence) -> str:
    if evidence.smi is not None and evidence.smi.outcome == "works":
        what = (
            "nvidia-smi works, but libnvidia-ml.so.1 cannot be loaded by the orchestrator. Put the driver's library "
            "folder on the loader's path (ldconfig)"
        )
    elif evidence.hints.tegra:
        what = _on_tegra(evidence.hints, "NVML, by which GPUs are found, is not installed (libnvidia-ml.so.1)")
    elif evidence.hints.pci_gpus:
        what = (
            f"{evidence.hints.pci_gpus} NVIDIA GPUs are on the PCI bus and no driver is installed (libnvidia-ml.so.1 "
            "is missing). Install the NVIDIA driver"
        )
    else:
        what = "the driver's library libnvidia-ml.so.1 is missing. Reinstall the NVIDIA driver with its libraries"
    return _driver_error(what).sentence


def _not_loaded(hints: HardwareHints) -> str:
    if hints.tegra:
        return _on_tegra(hints, "NVML, by which GPUs are found, does not find its driver")
    where = {None: "", 0: " (and no NVIDIA device is on the PCI bus)"}.get(hints.pci_gpus, "")
    return (
        f"the NVIDIA driver is installed and its kernel module is not loaded{where}. Load it (modprobe nvidia); where "
        "that fails, reinstall the driver for this kernel (DKMS, Secure Boot signature)"
    )


def _on_tegra(hints: HardwareHints, why: str) -> str:
    return (
        f"this machine is a Jetson or another Tegra ({hints.tegra}), and {why}. Plugins without `requires_gpu` are "
        "served here as everywhere; those with it need an NVML for this chip, which JetPack has from version 6 (L4T "
        "36) on. Upgrade JetPack; an orchestrator in a container needs that library in it, as the runtime `nvidia` "
        "mounts it"
    )


def _driver_traces(evidence: HostEvidence) -> bool:
    return evidence.hints.hardware or (evidence.smi is not None and evidence.smi.outcome != "missing")


def words_of(fault: GpuFault) -> str:
    """The driver's own words, with its number."""
    words = fault.message or str(fault.kind)
    return words if fault.code is None else f"{words}, NVML error {fault.code}"


def kernel_log(xid: int | None) -> str:
    return "The kernel's log (NVRM: Xid) says why." if xid is None else f"The kernel's log has its Xid {xid}."


def _not_found(why: str) -> GpuProblem:
    return GpuProblem(
        ReasonCode.GPU_NOT_FOUND,
        f"This host has no NVIDIA GPU: {why}. Use a host with a GPU, or pass one through to this machine, {RESTART}.",
    )


def _driver_error(what: str) -> GpuProblem:
    return GpuProblem(ReasonCode.GPU_DRIVER_ERROR, f"The GPU cannot be used: {what}, {RESTART}.")
