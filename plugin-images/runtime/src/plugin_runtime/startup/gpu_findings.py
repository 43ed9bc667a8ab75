"""Whether a plugin's GPU can be used in its container: findings from what `gpu_probe` observed. Pure.

Two sources, and both must agree: `nvidia-smi`, where the container has it (Tegra's driver brings none), and CUDA itself
(`torch.cuda.is_available()` where the image has torch, `cuInit` of the driver's library in any case). Where one fails,
the device nodes say whether the container may use them at all.
"""

from __future__ import annotations

import errno
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from plugin_runtime.startup.failures import (
    CUDA_UNAVAILABLE,
    GPU_DRIVER_ERROR,
    GPU_LOST,
    GPU_NOT_FOUND,
    GPU_RUNTIME_MISSING,
    Failure,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

MAX_OUTPUT = 300  # characters
UUID = r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class SmiRun(NamedTuple):
    """How `nvidia-smi` ended. `exit_code` is None where it did not end in time, negative for a signal."""

    exit_code: int | None
    output: str


class TorchFacts(NamedTuple):
    """What torch reports. `cuda` is the version that it was built for, None for a build without. `unusable` has the
    reason code and the sentence where it cannot even be imported.
    """

    version: str = ""
    cuda: str | None = None
    available: bool = False
    message: str = ""
    unusable: tuple[str, str] | None = None


class NodeFacts(NamedTuple):
    """The container's NVIDIA device nodes. `refused`: those that could not be opened → the system's error number;
    `public`: those of them that anybody may open by their mode.
    """

    found: tuple[str, ...] = ()
    refused: Mapping[str, int] = MappingProxyType({})
    public: tuple[str, ...] = ()


class CudaFacts(NamedTuple):
    """What the driver's library reports. `loaded` is False where it cannot be opened, for the reason in `problem`.

    `result` is that of cuInit, `driver_version` as CUDA counts (12040 is 12.4). `packages_cuda` is the CUDA version of
    installed CUDA packages. `broke_off` says how the probe of CUDA ended if it did not complete. `nodes` is None where
    CUDA works, and nobody looked.
    """

    loaded: bool = False
    problem: str = ""
    result: int | None = None
    result_name: str = ""
    driver_version: int | None = None
    devices: int | None = None
    packages_cuda: str | None = None
    torch: TorchFacts | None = None
    broke_off: str | None = None
    nodes: NodeFacts | None = None

    @property
    def works(self) -> bool:
        return self.result == 0 and bool(self.devices)


class Finding(NamedTuple):
    """One check; `failure` is None where it passed."""

    name: str
    detail: str
    failure: Failure | None = None


def judge(smi: SmiRun | None, cuda: CudaFacts, granted: Sequence[str] = ()) -> list[Finding]:
    """One finding per source, `nvidia-smi` first. `smi` is None where there is no such program; `granted` has the UUIDs
    of the devices that the container is to have, as far as that is known.
    """
    return [_smi(smi, cuda, granted), *_cuda(smi, cuda)]


def other_gpus(smi: SmiRun | None, granted: Sequence[str]) -> tuple[str, ...]:
    """The GPUs that nvidia-smi lists instead of those granted; none where it lists those too, or does not say."""
    # A MIG instance comes with its parent GPU, which is what nvidia-smi lists.
    if smi is None or smi.exit_code != 0 or not all(uuid.startswith("GPU-") for uuid in granted):
        return ()
    listed = tuple(re.findall(UUID, smi.output))
    return () if set(granted) <= set(listed) else listed


# Device nodes


def judge_nodes(nodes: NodeFacts) -> Failure | None:
    """Why the container may not use its GPU; None where the nodes can be opened, or there are none to be judged by."""
    denied = [name for name, error in nodes.refused.items() if error == errno.EACCES]
    for names, explain in (
        ([name for name, error in nodes.refused.items() if error == errno.EPERM], _taken_away),
        ([name for name in denied if name not in nodes.public], _closed),
        (denied, _forbidden),
    ):
        if names:
            return explain(", ".join(names))
    lost = [name for name, error in nodes.refused.items() if error in LOST_ERRORS]
    return _lost(", ".join(lost)) if lost else None


def judge_loss(nodes: NodeFacts, earlier: Collection[str]) -> Failure | None:
    """As `judge_nodes`, in a container whose GPU did work, and had these nodes then."""
    missing = sorted(set(earlier) - set(nodes.found))
    return _lost(", ".join(missing)) if missing else judge_nodes(nodes)


LOST_ERRORS = frozenset({errno.ENXIO, errno.ENODEV, errno.ENOENT, errno.EIO})
"""Errors of a node whose device the driver has given up."""


def _taken_away(names: str) -> Failure:
    reason = (
        f"the container lost its permission for {names}: on the engine's host `systemctl daemon-reload`, or another"
        " change of cgroups, takes devices from running containers; restart the plugin. To prevent it, use CDI, or the"
        " cgroup driver cgroupfs, or create the links of /dev/char (nvidia-ctk system create-dev-char-symlinks"
        " --create-all)"
    )
    return Failure(GPU_LOST, reason)


def _closed(names: str) -> Failure:
    reason = (
        f"the container's user may not open {names}: on the host only a group may; set ORCHESTRATOR_GPU_GROUPS to its"
        " number (stat -c %g /dev/nvidia0), or have the driver make them for all (NVreg_DeviceFileMode=0666)"
    )
    return Failure(GPU_DRIVER_ERROR, reason)


def _forbidden(names: str) -> Failure:
    reason = (
        f"the container's user may not open {names}, though by its mode everybody may: something else on the engine's"
        " host forbids it, such as SELinux (ausearch -m avc -ts recent); allow it (setsebool -P container_use_devices"
        " 1), then restart the plugin"
    )
    return Failure(GPU_DRIVER_ERROR, reason)


def _lost(names: str) -> Failure:
    reason = (
        f"the GPU is gone from the container ({names}): the driver was unloaded, or the GPU is lost; look in the host's"
        " kernel log for NVRM and Xid, then restart the plugin"
    )
    return Failure(GPU_LOST, reason)


# nvidia-smi

SMI_CODES = {
    4: (
        GPU_DRIVER_ERROR,
        "may not use the GPU",
        "set ORCHESTRATOR_GPU_GROUPS to the group's number of the host's /dev/nvidia*, or NVreg_DeviceFileMode=0666",
    ),
    6: (
        GPU_NOT_FOUND,
        "finds no GPU in the container",
        "check which GPUs the host has, and which of them it gives to containers",
    ),
    9: (GPU_DRIVER_ERROR, "reports that the driver is not loaded", "load it on the host (modprobe nvidia) or reboot"),
    12: (
        GPU_RUNTIME_MISSING,
        "does not find libnvidia-ml.so.1",
        "update the NVIDIA container toolkit, which mounts it into containers",
    ),
    15: (GPU_LOST, "reports that the GPU has fallen off the bus", "reset the GPU or reboot the host"),
    18: (
        GPU_DRIVER_ERROR,
        "reports that driver and library have different versions",
        "reboot the host: its driver was updated and not loaded yet",
    ),
}
"""Exit codes as nvidia-smi's manual has them; 18 is NVML's own number for a version mismatch."""


def _smi(run: SmiRun | None, cuda: CudaFacts, granted: Sequence[str]) -> Finding:
    name = "gpu:nvidia-smi"
    if run is None:
        if cuda.works:
            return Finding(name, "not in the container; CUDA works without it")
        return Finding(name, "not found", Failure(GPU_RUNTIME_MISSING, _without_smi(cuda)))
    said = _shortened(run.output)
    if run.exit_code == 0 and said:
        return Finding(name, said, _others_instead(run, granted))
    refused = None if cuda.nodes is None else judge_nodes(cuda.nodes)
    if refused is not None:
        return Finding(name, said or f"exit code {run.exit_code}", refused)
    if run.exit_code is None:
        reason = "nvidia-smi does not return: the GPU's driver hangs; check the host's kernel log, then reboot the host"
        return Finding(name, "no answer in time", Failure(GPU_DRIVER_ERROR, reason))
    if run.exit_code == 0:
        code, what, advice = SMI_CODES[6]
    else:
        otherwise = (GPU_DRIVER_ERROR, f"fails with exit code {run.exit_code}", "run nvidia-smi on the host")
        code, what, advice = SMI_CODES.get(run.exit_code, otherwise)
    if "Unknown Error" in run.output:
        what += ", which means that the container lost its permission for the device"
        advice = "restart the plugin; if this happens again, make sure that nothing reloads the host's cgroups"
    return Finding(name, said or what, Failure(code, f"nvidia-smi {what}{f' ({said})' if said else ''}; {advice}"))


def _without_smi(cuda: CudaFacts) -> str:
    if not cuda.loaded:
        return (
            "the container was given no GPU: neither nvidia-smi nor libcuda.so.1 is in it; install the NVIDIA container"
            " toolkit on the host, restart the engine, then the plugin"
        )
    return (
        "nvidia-smi is missing in the container though libcuda.so.1 is there: the GPU was attached without the"
        " capability `utility`; request gpu, compute and utility"
    )


def _others_instead(run: SmiRun, granted: Sequence[str]) -> Failure | None:
    others = other_gpus(run, granted)
    if not others:
        return None
    return Failure(
        GPU_RUNTIME_MISSING,
        f"the container was given {', '.join(others)} instead of {', '.join(granted)}: the engine's CDI spec numbers"
        " GPUs otherwise than the driver; generate it anew (nvidia-ctk cdi generate --device-name-strategy=uuid"
        " --output=/etc/cdi/nvidia.yaml)",
    )


# CUDA

MPS = (
    "the image or the host uses CUDA's Multi-Process Service, which does not answer in the container; end it on the"
    " host (nvidia-cuda-mps-control, command quit), and remove CUDA_MPS_PIPE_DIRECTORY from the image"
)
RESULTS = {
    34: "the library in the image is a stub for building; remove the CUDA stubs from the image's library path",
    35: "the driver of the host is too old; update it",
    46: "the device is in use or in exclusive mode; check `nvidia-smi -q -d COMPUTE` on the host",
    100: "it sees no device, though the container has one; check whether the plugin or its image sets"
    " CUDA_VISIBLE_DEVICES, and compare the driver's versions on the host",
    214: "its memory has an error that cannot be corrected; reset the GPU or reboot the host",
    304: "the system refuses it a device, mostly /dev/nvidia-uvm; load its module on the host (modprobe nvidia-uvm;"
    " nvidia-modprobe -u -c=0)",
    802: "the system is not ready yet; start nvidia-fabricmanager on the host",
    803: "the host's driver and the container's libcuda have different versions; reboot the host",
    804: "the forward-compatibility library in the image does not fit this GPU; remove cuda-compat from the image",
    **dict.fromkeys(range(805, 810), MPS),
    999: "the driver's state is broken; reload the nvidia_uvm module on the host or reboot it",
}
"""CUresult of cuInit → what it means and what to do."""
CODES = {214: GPU_LOST, **dict.fromkeys((304, 802, 803, 999), GPU_DRIVER_ERROR)}
"""CUresult of cuInit → the code, where that is not CUDA_UNAVAILABLE."""


def _cuda(smi: SmiRun | None, cuda: CudaFacts) -> Iterator[Finding]:
    name = "gpu:cuda"
    if cuda.broke_off is not None:
        reason = f"the first call to CUDA {cuda.broke_off}; check the host's kernel log (dmesg) for NVRM and Xid lines"
        yield Finding(name, cuda.broke_off, Failure(CUDA_UNAVAILABLE, reason))
    elif not cuda.loaded:
        yield Finding(name, cuda.problem, Failure(CUDA_UNAVAILABLE, _not_loaded(smi, cuda.problem)))
    elif not cuda.works and cuda.nodes is not None and (refused := judge_nodes(cuda.nodes)) is not None:
        yield Finding(name, f"cuInit returns {cuda.result}", refused)
    elif cuda.result != 0:
        code = CODES.get(cuda.result or 0, CUDA_UNAVAILABLE)
        number = f"{cuda.result}{f' ({cuda.result_name})' if cuda.result_name else ''}"
        advice = RESULTS.get(cuda.result or 0, "look the number up under CUresult in the CUDA driver API's manual")
        reason = f"CUDA does not start in the container: cuInit returns {number}: {advice}"
        yield Finding(name, f"cuInit returns {number}", Failure(code, reason))
    elif not cuda.devices:
        reason = f"CUDA starts in the container and finds no device: {RESULTS[100]}"
        yield Finding(name, "no device", Failure(CUDA_UNAVAILABLE, reason))
    else:
        found = f"{cuda.devices} device{'s' if cuda.devices > 1 else ''}, driver for CUDA {_driver(cuda)}"
        yield Finding(name, found, _packages_too_new(cuda))
    if cuda.torch is not None:
        yield _torch(cuda.torch, cuda)


def _not_loaded(smi: SmiRun | None, problem: str) -> str:
    if "No such file" not in problem:
        return f"the driver's library cannot be opened: {problem}; update the NVIDIA container toolkit"
    if smi is not None and smi.exit_code == 0:
        return (
            "libcuda.so.1 is missing in the container though nvidia-smi works: the GPU was attached without the"
            " capability `compute`; request gpu, compute and utility"
        )
    return "libcuda.so.1 is missing in the container; install the NVIDIA container toolkit and a driver on the host"


def _packages_too_new(cuda: CudaFacts) -> Failure | None:
    if cuda.torch is not None or not _newer(cuda.packages_cuda, cuda.driver_version):
        return None  # torch reports for itself
    return Failure(
        CUDA_UNAVAILABLE,
        f"the GPU's driver is too old: it knows CUDA up to {_driver(cuda)}, and the image's packages bring CUDA"
        f" {cuda.packages_cuda}; update the host's driver, or require packages built for CUDA {_driver_major(cuda)}",
    )


def _torch(torch: TorchFacts, cuda: CudaFacts) -> Finding:
    name = "gpu:torch"
    if torch.unusable is not None:
        code, reason = torch.unusable
        return Finding(name, reason, Failure(code, reason))
    if torch.available:
        return Finding(name, f"torch {torch.version} for CUDA {torch.cuda}")
    who = f"torch {torch.version}"
    if torch.cuda is None:
        reason = f"{who} was built without CUDA; require a build for CUDA in requirements.txt"
    elif _newer(torch.cuda, cuda.driver_version):
        reason = (
            f"the GPU's driver is too old: it knows CUDA up to {_driver(cuda)}, and {who} was built for CUDA"
            f" {torch.cuda}; update the host's driver, or require a torch built for CUDA {_driver_major(cuda)}"
        )
    else:
        said = f": {_shortened(torch.message)}" if torch.message else ""
        reason = (
            f"torch.cuda.is_available() is False with {who} for CUDA {torch.cuda}{said}; compare that with the host's"
            " driver and GPU"
        )
    return Finding(name, reason, Failure(CUDA_UNAVAILABLE, reason))


def _newer(built_for: str | None, driver_version: int | None) -> bool:
    """Whether it needs a newer driver."""
    # Within one major version every driver runs every CUDA.
    major = re.match(r"\d+", built_for or "")
    return major is not None and driver_version is not None and int(major[0]) > driver_version // 1000


def _driver(cuda: CudaFacts) -> str:
    version = cuda.driver_version
    return "an unknown version" if version is None else f"{version // 1000}.{version % 1000 // 10}"


def _driver_major(cuda: CudaFacts) -> str:
    return str((cuda.driver_version or 0) // 1000)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_OUTPUT else f"{line[:MAX_OUTPUT]}…"
