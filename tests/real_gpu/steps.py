"""The steps of `run`: `python steps.py NAME` prints what one found, as one line of JSON.

Standard library, the orchestrator's own modules, and torch where a step computes.
"""

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MIB = 1024**2
GIB = 1024**3
HOLD = 2 * GIB  # bytes that a step's process takes
TICK = 0.01  # seconds between two looks while a memory is waited for


class NotRunError(Exception):
    """This machine lacks what the step needs."""


# Looks at the driver


def first_look() -> dict[str, Any]:
    """How long the first look takes and the later ones, and how much memory nvmlInit takes of its process."""
    looks = [_nvml_child() for _ in range(4)]
    if looks[0][0].get("fault"):
        raise NotRunError(f"NVML answers: {looks[0][0]['fault']['message']}")
    devices = looks[0][0]["devices"]
    return {
        "first_seconds": looks[0][1],
        "later_seconds": [look[1] for look in looks[1:]],
        "persistence_mode": [device["persistence_mode"] for device in devices],
        "child_peak_mib": max(look[2] for look in looks),
        **_peak_of_init(),
    }


def inventory() -> dict[str, Any]:
    """Our inventory against `nvidia-smi -q -x`."""
    ours, _, _ = _nvml_child()
    if ours.get("fault"):
        raise NotRunError(f"NVML answers: {ours['fault']['message']}")
    try:
        answer = subprocess.run(["nvidia-smi", "-q", "-x"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        raise NotRunError("no nvidia-smi") from None
    try:
        log = ET.fromstring(answer.stdout)
    except ET.ParseError as error:
        raise NotRunError(f"nvidia-smi -q -x is no XML here: {error}") from None
    theirs = {gpu.findtext("uuid", ""): gpu for gpu in log.iter("gpu")}
    mine = {device["uuid"]: device for device in ours["devices"] if device.get("mig_index") is None}
    differences = [f"only nvidia-smi has {uuid}" for uuid in theirs.keys() - mine.keys()]
    differences += [f"only we have {uuid}" for uuid in mine.keys() - theirs.keys()]
    for uuid in theirs.keys() & mine.keys():
        differences += list(_differences(mine[uuid], theirs[uuid]))
    if ours["driver_version"] != log.findtext("driver_version"):
        differences.append(f"driver {ours['driver_version']} and {log.findtext('driver_version')}")
    return {
        "gpus": {device["index"]: device["name"] for device in mine.values()},
        "driver": ours["driver_version"],
        "cuda": ours["cuda_version"],
        "differences": differences,
        "null": sorted({key for device in mine.values() for key, value in device.items() if value is None}),
        "old_binding": ours["old_binding"],
    }


def host_check() -> dict[str, Any]:
    """The host's half of the dual check."""
    from orchestrator.gpus.evidence import SmiResult, read_hardware_hints
    from orchestrator.gpus.host_check import HostEvidence, judge_host
    from orchestrator.gpus.probe import NvmlProbe, SmiProbe

    async def look() -> tuple[Any, SmiResult]:
        return await asyncio.gather(NvmlProbe(bound=30).read(), SmiProbe(bound=30).run())

    looked, smi = asyncio.run(look())
    problem = judge_host(HostEvidence(looked, read_hardware_hints(), smi))
    return {
        "problem": None if problem is None else f"{problem.code}: {problem.sentence}",
        "nvidia_smi": f"{smi.outcome} {smi.message}".strip(),
        "gpus": len(looked.devices),
    }


def container_half() -> dict[str, Any]:
    """The container's half of the dual check: nvidia-smi and CUDA must agree."""
    from plugin_runtime.startup.gpu_probe import check_gpu

    checks, failure = check_gpu()
    return {
        "failure": None if failure is None else str(failure),
        **{check.name: f"{'ok' if check.ok else 'failed'}: {check.detail}" for check in checks},
    }


# CUDA


def cuda() -> dict[str, Any]:
    """That the GPU computes what the CPU does."""
    torch = _torch()
    one = torch.arange(512 * 512, dtype=torch.float64).reshape(512, 512) / 512
    began = time.monotonic()
    on_gpu = (one.to("cuda") @ one.to("cuda")).cpu()
    return {
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "same_as_cpu": bool(torch.allclose(on_gpu, one @ one)),
        "first_kernel_seconds": round(time.monotonic() - began, 2),
    }


def per_process_memory() -> dict[str, Any]:
    """Whether NVML names the processes and their memory, and what of the use it leaves unexplained."""
    _torch()
    before = _device()
    with _holder(HOLD) as (process, told):
        during = _device()
    listed = {entry["pid"]: entry["memory"] for entry in during["processes"] or ()}
    own = listed.get(process.pid)
    sums = [sum(entry["memory"] or 0 for entry in look["processes"] or ()) for look in (before, during)]
    return {
        "lists_processes": during["processes"] is not None,
        "our_pid_is_listed": process.pid in listed,
        "nvml_mib": None if own is None else own // MIB,
        "torch_reserved_mib": told["reserved"] // MIB,
        "context_mib": None if own is None else (own - told["reserved"]) // MIB,
        # The lease's rule allows 64 MiB for this.
        "unexplained_grew_mib": (during["memory_used"] - sums[1] - before["memory_used"] + sums[0]) // MIB,
    }


def memory_given_back() -> dict[str, Any]:
    """How long after SIGKILL NVML says that the memory is free, and that the process is no more."""
    _torch()
    import pynvml

    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    slack = 64 * MIB
    times: list[dict[str, Any]] = []
    for _ in range(3):
        baseline = pynvml.nvmlDeviceGetMemoryInfo(gpu).used
        with _holder(HOLD) as (process, _):
            process.send_signal(signal.SIGKILL)
            began = time.monotonic()
            process.wait()
            found: dict[str, Any] = {"reaped": round(time.monotonic() - began, 3), "free": None, "unlisted": None}
            while time.monotonic() - began < 20 and None in (found["free"], found["unlisted"]):
                used = pynvml.nvmlDeviceGetMemoryInfo(gpu).used
                pids = {each.pid for each in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)}
                now = round(time.monotonic() - began, 3)
                if found["free"] is None and used <= baseline + slack:
                    found["free"] = now
                if found["unlisted"] is None and process.pid not in pids:
                    found["unlisted"] = now
                time.sleep(TICK)
            times.append(found)
    return {"seconds_after_sigkill": times, "waits_of_the_lease": "3 s for a start, 30 s until quarantine"}


def two_processes() -> dict[str, Any]:
    """Two processes on one GPU, one of them out of memory: the words of the error, and whose memory it was."""
    torch = _torch()
    from orchestrator.gpus.memory import Holding, memory_blame

    free, total = torch.cuda.mem_get_info()
    # One goes beyond its budget of a quarter; the other wants 1 GiB more than that leaves.
    greedy = max(free - 3 * GIB, free // 2)
    with _holder(greedy) as (first, _):
        look = _device()
        victim = subprocess.run(_holding(free - greedy + GIB), capture_output=True, text=True, timeout=60, check=False)
    held = {entry["pid"]: entry["memory"] for entry in look["processes"] or ()}
    words = (victim.stderr.strip().splitlines() or [""])[-1]
    holdings = {"greedy": Holding(total // 4, held.get(first.pid)), "victim": Holding(total // 4, 0)}
    return {
        "victim_exit_code": victim.returncode,
        "error": words[:200],
        "is_torch_out_of_memory": "OutOfMemoryError" in words,
        "sentence": memory_blame(look["uuid"], holdings, "victim"),
    }


def video() -> dict[str, Any]:
    """A TorchScript detector and VideoTracker's tracker over a drawn scene: the same on CPU and GPU, and how fast."""
    torch = _torch()
    try:
        import numpy as np
    except ImportError:
        raise NotRunError("no numpy") from None
    import scene

    frames = scene.frames(np, 240)
    model = scene.write_detector(torch, Path(os.environ.get("TMPDIR", "/tmp")) / f"squares-{os.getpid()}.pt")
    found: dict[str, Any] = {}
    boxes = {}
    for device in ("cpu", "cuda"):
        detector = scene.TorchDetector(torch, np, model, device)
        detector.detect(frames[:8])  # the first kernels are compiled
        began = time.monotonic()
        boxes[device] = [
            each for start in range(0, len(frames), 8) for each in detector.detect(frames[start : start + 8])
        ]
        found[f"{device}_frames_a_second"] = round(len(frames) / (time.monotonic() - began), 1)
    model.unlink()
    found["peak_mib"] = torch.cuda.max_memory_reserved() // MIB
    same = all(np.allclose(a[0], b[0], atol=0.01) for a, b in zip(boxes["cpu"], boxes["cuda"], strict=True))
    found["same_boxes"] = bool(same)
    try:
        found["mota"] = {device: scene.mota(np, boxes[device]) for device in boxes}
    except ImportError as error:
        found["mota"] = f"not run: {error}"
    return found


# Inside


def _nvml_child() -> tuple[dict[str, Any], float, int]:
    """The answer, its seconds, and the peak of all children so far in MiB."""
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-m", "orchestrator.gpus.nvml"], capture_output=True, text=True, timeout=80, check=False
    )
    seconds = round(time.monotonic() - began, 2)
    if not child.stdout.strip():
        raise RuntimeError((child.stderr.strip().splitlines() or ["nothing was printed"])[-1])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    return json.loads(child.stdout.strip().splitlines()[-1]), seconds, peak


def _peak_of_init() -> dict[str, Any]:
    program = (
        "import resource, pynvml; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024;"
        "before = peak(); pynvml.nvmlInit(); print(before, peak())"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    numbers = re.fullmatch(r"(\d+) (\d+)", child.stdout.strip())
    return {"init_peak_mib": None if numbers is None else int(numbers[2]) - int(numbers[1])}


def _differences(ours: dict[str, Any], theirs: ET.Element) -> Iterator[str]:
    def number(path: str) -> int | None:
        found = re.match(r"(\d+) MiB", theirs.findtext(path, ""))
        return None if found is None else int(found[1])

    total = number("fb_memory_usage/total")
    if total is not None and (ours["memory_total"] is None or abs(ours["memory_total"] // MIB - total) > 1):
        yield f"{ours['uuid']}: total memory {ours['memory_total']} and {total} MiB"
    if ours["name"] != theirs.findtext("product_name"):
        yield f"{ours['uuid']}: name {ours['name']} and {theirs.findtext('product_name')}"
    if (mode := theirs.findtext("persistence_mode")) and ours["persistence_mode"] != (mode == "Enabled"):
        yield f"{ours['uuid']}: persistence mode {ours['persistence_mode']} and {mode}"
    bus = theirs.get("id", "").lower()
    if bus and ours["pci_bus_id"] != bus:
        yield f"{ours['uuid']}: address {ours['pci_bus_id']} and {bus}"


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise NotRunError("no CUDA: torch is not installed") from None
    if not torch.cuda.is_available():
        raise NotRunError("no CUDA: torch finds no GPU")
    return torch


def _device() -> dict[str, Any]:
    """The first GPU, by NVML."""
    answer, _, _ = _nvml_child()
    return answer["devices"][0]


def _holding(size: int) -> list[str]:
    program = (
        "import sys, json, torch; held = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device='cuda');"
        "held.fill_(1);"
        "torch.cuda.synchronize(); print(json.dumps({'reserved': torch.cuda.memory_reserved()}), flush=True);"
        "sys.stdin.read()"
    )
    return [sys.executable, "-c", program, str(size)]


@contextlib.contextmanager
def _holder(size: int) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """A process that holds `size` bytes of the first GPU."""
    process = subprocess.Popen(_holding(size), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process could not take {size // MIB} MiB of the GPU")
        yield process, json.loads(line)
    finally:
        process.kill()
        process.wait()


STEPS: dict[str, Callable[[], dict[str, Any]]] = {
    step.__name__: step
    for step in (
        first_look,
        inventory,
        host_check,
        container_half,
        cuda,
        per_process_memory,
        memory_given_back,
        two_processes,
        video,
    )
}


def main(name: str) -> None:
    try:
        answer = {"outcome": "measured", "found": STEPS[name]()}
    except NotRunError as missing:
        answer = {"outcome": "not run", "why": f"not run: {missing}"}
    except Exception as error:  # noqa: BLE001 - one step that fails leaves the others
        answer = {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:400]}
    sys.stdout.write("\n" + json.dumps(answer, default=str) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
