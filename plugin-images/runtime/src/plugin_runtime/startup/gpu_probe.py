"""Observes whether the container's GPU can be used, for `gpu_findings` to judge.

CUDA is called in a process of its own, `python -m plugin_runtime.startup.gpu_probe`, and torch only where installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, NamedTuple

from plugin_runtime.startup.checks import Check
from plugin_runtime.startup.failures import Failure, explain_import
from plugin_runtime.startup.gpu_findings import (
    CudaFacts,
    NodeFacts,
    SmiRun,
    TorchFacts,
    judge,
    judge_loss,
    other_gpus,
)
from plugin_runtime.tools.plugin_errors import links, message_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SMI = ("nvidia-smi", "--query-gpu=name,uuid,driver_version", "--format=csv,noheader")
SMI_SECONDS = 20.0  # without persistence mode it wakes every GPU of the host, a few seconds each
CUDA_SECONDS = 60.0  # importing torch from a cold disk takes most of it
NODES_SECONDS = 10.0
LOSS_SECONDS = 2.0  # a run's caller waits, and its deadline passes
VISIBLE = "CUDA_VISIBLE_DEVICES"
NO_DEVICE = 100
GPU_WORDS = r"cuda|cudnn|cublas|cufft|nvml|nccl|nvrtc|nvidia|tensorrt|\bgpu\b"
PUBLIC = stat.S_IROTH | stat.S_IWOTH
NODE = r"nvidia\d+|nvidiactl|nvidia-uvm|nvmap|dxg"
CUDA_PACKAGES = (
    "nvidia-cuda-runtime",
    "nvidia-cuda-runtime-cu13",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cuda-runtime-cu11",
)


class Ended(NamedTuple):
    """`exit_code` is None for a process that did not end in time."""

    exit_code: int | None
    output: str


def check_gpu() -> tuple[list[Check], Failure | None]:
    """One check per finding, and the failure to report: the first."""
    granted = tuple(uuid for uuid in os.environ.get(VISIBLE, "").split(",") if uuid)
    smi, cuda = run_smi(), probe_cuda()
    if granted and cuda.result in {0, NO_DEVICE} and not cuda.works and not other_gpus(smi, granted):
        cuda = _without_names(cuda, len(granted))
    if not cuda.works or (smi is not None and smi.exit_code != 0):
        cuda = cuda._replace(nodes=probe_nodes())
    findings = judge(smi, cuda, granted)
    checks = [Check(finding.name, finding.failure is None, finding.detail) for finding in findings]
    return checks, next((finding.failure for finding in findings if finding.failure is not None), None)


class GpuLoss:
    """Whether a tool failed because its container lost the GPU. Made while it has it."""

    def __init__(self, folder: str = "/dev") -> None:
        self._folder = folder
        self._nodes = node_paths(folder)
        self._look: _NodesLook | None = None
        self._lock = threading.Lock()

    def after(self, error: BaseException) -> Failure | None:
        """The loss that led to what a tool raised; None where that does not speak of the GPU, or nothing is lost.
        Takes `LOSS_SECONDS` at most.
        """
        # By words alone nobody is judged: the driver says "unknown error" for much else.
        spoken = " ".join(f"{type(link).__name__} {message_of(link)}" for link in links(error))
        if not re.search(GPU_WORDS, spoken, re.IGNORECASE) or "out of memory" in spoken:
            return None
        # Nodes that are gone show without the driver, which may hang.
        nodes = self._opened() or NodeFacts(node_paths(self._folder))
        return judge_loss(nodes, self._nodes)

    def _opened(self) -> NodeFacts | None:
        """None where they cannot be opened in time. Threads whose tools fail together share one look."""
        with self._lock:
            if self._look is None or not self._look.thread.is_alive():
                try:
                    self._look = _NodesLook(self._folder)
                except RuntimeError:  # the container's limit on processes and threads
                    return None
            look = self._look
        look.thread.join(max(0, look.until - time.monotonic()))
        return look.found


class _NodesLook:
    """Opens the device nodes in a thread, which is left behind where the driver hangs: a process would take longer to
    start than the rest takes.
    """

    def __init__(self, folder: str) -> None:
        """Raises RuntimeError where no thread can be started."""
        self.found: NodeFacts | None = None
        self.until = time.monotonic() + LOSS_SECONDS
        self.thread = threading.Thread(target=self._look, args=(folder,), name="gpu nodes", daemon=True)
        self.thread.start()

    def _look(self, folder: str) -> None:
        self.found = observe_nodes(folder)


def _without_names(cuda: CudaFacts, count: int) -> CudaFacts:
    """CUDA as it is without the UUIDs of the granted devices, if that shows as many devices and no more. Then this
    process, and what it starts, goes on without them.
    """
    # CUDA knows some integrated GPUs by other UUIDs than NVML.
    other = probe_cuda({name: value for name, value in os.environ.items() if name != VISIBLE})
    if other.devices != count:
        return cuda
    os.environ.pop(VISIBLE, None)
    return other


def run_smi() -> SmiRun | None:
    """None where there is no such program."""
    try:
        return SmiRun(*_run(SMI, SMI_SECONDS, subprocess.STDOUT, os.environ))
    except FileNotFoundError:
        return None
    except OSError as error:
        return SmiRun(126, f"cannot be run: {error.strerror}")


def probe_nodes(folder: str = "/dev") -> NodeFacts | None:
    """Open the device nodes, in a child process; None where it did not end in time."""
    command = (sys.executable, "-m", "plugin_runtime.startup.gpu_probe", "nodes", folder)
    try:
        found, refused, public = json.loads(_run(command, NODES_SECONDS, None, os.environ).output)
        return NodeFacts(tuple(found), refused, tuple(public))
    except (OSError, ValueError, TypeError):
        return None


def observe_nodes(folder: str) -> NodeFacts:
    """Open the device nodes in this process."""
    found, refused = node_paths(folder), {}
    for path in found:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            refused[path] = error.errno or 0
    return NodeFacts(found, refused, tuple(path for path in refused if _is_public(path)))


def _is_public(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - pathlib costs the supervisor a megabyte
    except OSError:
        return False
    return mode & PUBLIC == PUBLIC


def node_paths(folder: str) -> tuple[str, ...]:
    """The device nodes, unopened."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names are wanted
    except OSError:
        return ()
    return tuple(f"{folder}/{name}" for name in names if re.fullmatch(NODE, name))


def probe_cuda(environment: Mapping[str, str] = os.environ) -> CudaFacts:
    """What `observe_cuda` returns in a child process with this environment."""
    # A broken driver may hang or crash its caller, and the worker must survive to report it.
    command = (sys.executable, "-m", "plugin_runtime.startup.gpu_probe")
    ended = _run(command, CUDA_SECONDS, None, environment)
    if ended.exit_code is None:
        return CudaFacts(loaded=True, broke_off=f"gave no answer within {CUDA_SECONDS:g} s")
    if ended.exit_code < 0:
        return CudaFacts(loaded=True, broke_off=f"ended with {signal.Signals(-ended.exit_code).name}")
    try:
        facts = json.loads(ended.output.rpartition("\n")[2])
        torch = facts.pop("torch")
        return CudaFacts(**facts, torch=None if torch is None else TorchFacts(**torch))
    except (ValueError, TypeError, KeyError, AttributeError):
        return CudaFacts(loaded=True, broke_off=f"exited with code {ended.exit_code} and gave no answer")


def observe_cuda() -> CudaFacts:
    """Call CUDA in this process."""
    return _call_driver()._replace(packages_cuda=_packages_cuda(), torch=_call_torch())


def _call_driver() -> CudaFacts:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return CudaFacts(problem=message_of(error))
    result = int(library.cuInit(0))
    version, devices = ctypes.c_int(), ctypes.c_int()
    known = library.cuDriverGetVersion(ctypes.byref(version)) == 0
    counted = result == 0 and library.cuDeviceGetCount(ctypes.byref(devices)) == 0
    return CudaFacts(
        loaded=True,
        result=result,
        result_name=_name_of(library, result),
        driver_version=version.value if known else None,
        devices=devices.value if counted else None,
    )


def _name_of(library: ctypes.CDLL, result: int) -> str:
    name = ctypes.c_char_p()
    if not hasattr(library, "cuGetErrorName"):  # before CUDA 6
        return ""
    found = library.cuGetErrorName(result, ctypes.byref(name)) == 0
    return name.value.decode("ascii", "replace") if found and name.value else ""


def _packages_cuda() -> str | None:
    for package in CUDA_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


def _call_torch() -> TorchFacts | None:
    if importlib.util.find_spec("torch") is None:
        return None
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - where the image holds it

            available = bool(torch.cuda.is_available())
        message = next((str(warning.message) for warning in reversed(warned) if "CUDA" in str(warning.message)), "")
        return TorchFacts(str(torch.__version__), torch.version.cuda, available, message)
    except BaseException as error:  # noqa: BLE001 - code of a foreign package runs here
        failure = explain_import(error, "torch")
        return TorchFacts(unusable=(failure.code, failure.reason))


def _run(command: tuple[str, ...], seconds: float, stderr: int | None, environment: Mapping[str, str]) -> Ended:
    """Raises OSError if it cannot be started."""
    process = subprocess.Popen(  # noqa: S603 - fixed commands
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=_without_plugin_code(environment),
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # One that hangs in the driver ends by no signal: it is left behind.
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        return Ended(None, "")
    return Ended(process.returncode, output.strip())


def _without_plugin_code(environment: Mapping[str, str]) -> dict[str, str]:
    # The plugin's modules must not shadow the standard library's in the probe either.
    code = environment.get("PLUGIN_CODE_DIR")
    folders = environment.get("PYTHONPATH", "").split(os.pathsep)
    others = os.pathsep.join(folder for folder in folders if folder and folder != code)
    rest = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return {**rest, "PYTHONPATH": others} if others else rest


if __name__ == "__main__" and sys.argv[1:2] == ["nodes"]:
    print(json.dumps(observe_nodes(sys.argv[2])))  # noqa: T201 - read by `probe_nodes`
elif __name__ == "__main__":
    facts = observe_cuda()
    torch_facts = None if facts.torch is None else facts.torch._asdict()
    print(json.dumps({**facts._asdict(), "torch": torch_facts}))  # noqa: T201 - read by `probe_cuda`
