"""The GPU in the container: two sources, and a reason for every fault."""

import errno
import os
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from plugin_runtime.startup import gpu_probe
from plugin_runtime.startup.gpu_findings import CudaFacts, NodeFacts, SmiRun, TorchFacts, judge, judge_loss
from plugin_runtime.startup.gpu_probe import GpuLoss, check_gpu, observe_nodes, probe_cuda, probe_nodes, run_smi

GOOD_SMI = SmiRun(0, "NVIDIA L4, GPU-4c1f, 550.54.15")
GOOD = CudaFacts(loaded=True, result=0, driver_version=12040, devices=1)
NO_DEVICE = CudaFacts(loaded=True, result=100, result_name="CUDA_ERROR_NO_DEVICE", driver_version=12040)
ABSENT = CudaFacts(problem="libcuda.so.1: cannot open shared object file: No such file or directory")
TORCH = TorchFacts("2.13.0", "12.8", available=True)
NO_CUDA = TorchFacts("2.13.0+cpu", None)

# name, nvidia-smi, CUDA, expected code, expected phrases of the sentence
FAULTS = [
    ("no GPU attached", None, ABSENT, "GPU_RUNTIME_MISSING", ["given no GPU", "container toolkit"]),
    ("no utility", None, GOOD._replace(result=3), "GPU_RUNTIME_MISSING", ["nvidia-smi is missing", "`utility`"]),
    (
        "insufficient permissions",
        SmiRun(4, "Failed to initialize NVML: Insufficient Permissions"),
        GOOD,
        "GPU_DRIVER_ERROR",
        ["may not use the GPU", "ORCHESTRATOR_GPU_GROUPS"],
    ),
    (
        "nodes that only a group may open",
        SmiRun(4, "Failed to initialize NVML: Insufficient Permissions"),
        NO_DEVICE._replace(nodes=NodeFacts(("/dev/nvidia0",), {"/dev/nvidia0": errno.EACCES})),
        "GPU_DRIVER_ERROR",
        ["may not open /dev/nvidia0", "ORCHESTRATOR_GPU_GROUPS", "NVreg_DeviceFileMode=0666"],
    ),
    (
        "nodes that everybody may open, and SELinux",
        SmiRun(4, "Failed to initialize NVML: Insufficient Permissions"),
        NO_DEVICE._replace(nodes=NodeFacts(("/dev/nvidia0",), {"/dev/nvidia0": errno.EACCES}, ("/dev/nvidia0",))),
        "GPU_DRIVER_ERROR",
        ["may not open /dev/nvidia0", "SELinux", "setsebool -P container_use_devices 1"],
    ),
    (
        "nodes that only a group may open, and no nvidia-smi",
        None,
        NO_DEVICE._replace(nodes=NodeFacts(("/dev/nvhost-gpu", "/dev/nvmap"), {"/dev/nvmap": errno.EACCES})),
        "GPU_RUNTIME_MISSING",
        ["nvidia-smi is missing"],
    ),
    (
        "devices that the host took away",
        SmiRun(255, "Failed to initialize NVML: Unknown Error"),
        NO_DEVICE._replace(nodes=NodeFacts(("/dev/nvidia0",), {"/dev/nvidia0": errno.EPERM})),
        "GPU_LOST",
        ["lost its permission for /dev/nvidia0", "systemctl daemon-reload", "restart the plugin"],
    ),
    (
        "a GPU that the driver has given up",
        GOOD_SMI,
        NO_DEVICE._replace(nodes=NodeFacts(("/dev/nvidia0",), {"/dev/nvidia0": errno.EIO})),
        "GPU_LOST",
        ["gone from the container (/dev/nvidia0)", "Xid"],
    ),
    ("no compute", GOOD_SMI, ABSENT, "CUDA_UNAVAILABLE", ["libcuda.so.1 is missing", "`compute`"]),
    ("no device listed", SmiRun(0, ""), GOOD, "GPU_NOT_FOUND", ["finds no GPU"]),
    ("no device", SmiRun(6, "No devices were found"), GOOD, "GPU_NOT_FOUND", ["No devices were found"]),
    ("not loaded", SmiRun(9, "couldn't communicate"), GOOD, "GPU_DRIVER_ERROR", ["not loaded", "modprobe nvidia"]),
    (
        "versions differ",
        SmiRun(18, "Failed to initialize NVML: Driver/library version mismatch"),
        GOOD,
        "GPU_DRIVER_ERROR",
        ["different versions", "reboot"],
    ),
    ("off the bus", SmiRun(15, "GPU is lost"), GOOD, "GPU_LOST", ["fallen off the bus"]),
    ("no nvml", SmiRun(12, "couldn't find libnvidia-ml.so"), GOOD, "GPU_RUNTIME_MISSING", ["libnvidia-ml.so.1"]),
    (
        "permission for the device lost",
        SmiRun(255, "Failed to initialize NVML: Unknown Error"),
        GOOD,
        "GPU_DRIVER_ERROR",
        ["exit code 255", "cgroups"],
    ),
    ("hangs", SmiRun(None, ""), GOOD, "GPU_DRIVER_ERROR", ["hangs"]),
    ("crashes", SmiRun(-11, ""), GOOD, "GPU_DRIVER_ERROR", ["exit code -11"]),
    ("broken library", GOOD_SMI, CudaFacts(problem="libcuda.so.1: file too short"), "CUDA_UNAVAILABLE", ["too short"]),
    (
        "cuInit says no device",
        GOOD_SMI,
        GOOD._replace(result=100, result_name="CUDA_ERROR_NO_DEVICE", devices=None),
        "CUDA_UNAVAILABLE",
        ["100 (CUDA_ERROR_NO_DEVICE)", "CUDA_VISIBLE_DEVICES"],
    ),
    ("fabric manager", GOOD_SMI, GOOD._replace(result=802), "GPU_DRIVER_ERROR", ["802", "nvidia-fabricmanager"]),
    ("no nvidia-uvm", GOOD_SMI, GOOD._replace(result=304), "GPU_DRIVER_ERROR", ["304", "modprobe nvidia-uvm"]),
    ("broken memory", GOOD_SMI, GOOD._replace(result=214), "GPU_LOST", ["214", "reset the GPU"]),
    ("MPS", GOOD_SMI, GOOD._replace(result=805), "CUDA_UNAVAILABLE", ["805", "nvidia-cuda-mps-control"]),
    ("mismatch", GOOD_SMI, GOOD._replace(result=803), "GPU_DRIVER_ERROR", ["803", "different versions"]),
    ("compat library", GOOD_SMI, GOOD._replace(result=804), "CUDA_UNAVAILABLE", ["804", "cuda-compat"]),
    ("a number nobody knows", GOOD_SMI, GOOD._replace(result=4711), "CUDA_UNAVAILABLE", ["4711"]),
    ("no device counted", GOOD_SMI, GOOD._replace(devices=0), "CUDA_UNAVAILABLE", ["finds no device"]),
    (
        "packages too new",
        GOOD_SMI,
        GOOD._replace(packages_cuda="13.0.96"),
        "CUDA_UNAVAILABLE",
        ["knows CUDA up to 12.4", "bring CUDA 13.0.96", "built for CUDA 12"],
    ),
    ("torch without CUDA", GOOD_SMI, GOOD._replace(torch=NO_CUDA), "CUDA_UNAVAILABLE", ["2.13.0+cpu", "without CUDA"]),
    (
        "torch too new",
        GOOD_SMI,
        GOOD._replace(torch=TorchFacts("2.13.0", "13.0")),
        "CUDA_UNAVAILABLE",
        ["knows CUDA up to 12.4", "torch 2.13.0 was built for CUDA 13.0", "built for CUDA 12"],
    ),
    (
        "torch for another reason",
        GOOD_SMI,
        GOOD._replace(torch=TorchFacts("2.13.0", "12.8", message="CUDA initialization: CUDA unknown error")),
        "CUDA_UNAVAILABLE",
        ["is_available() is False", "CUDA unknown error"],
    ),
    (
        "torch cannot be imported",
        GOOD_SMI,
        GOOD._replace(torch=TorchFacts(unusable=("CUDA_UNAVAILABLE", "libcudart.so.12 is missing; use `image: cuda`"))),
        "CUDA_UNAVAILABLE",
        ["libcudart.so.12"],
    ),
    (
        "the probe of CUDA crashed",
        GOOD_SMI,
        CudaFacts(loaded=True, broke_off="ended with SIGSEGV"),
        "CUDA_UNAVAILABLE",
        ["SIGSEGV", "dmesg"],
    ),
]

CUDA_STUB = """
#include <stdlib.h>
#include <unistd.h>
static int set(const char *name) { const char *v = getenv(name); return v ? atoi(v) : 0; }
int cuInit(unsigned f) {
    if (set("STUB_CRASH")) abort();
    if (set("STUB_HANG")) pause();
    return getenv("CUDA_VISIBLE_DEVICES") && set("STUB_OTHER_UUIDS") ? 100 : set("STUB_RESULT");
}
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuDeviceGetCount(int *n) { *n = set("STUB_DEVICES"); return 0; }
int cuGetErrorName(int r, const char **s) { *s = r == 100 ? "CUDA_ERROR_NO_DEVICE" : 0; return *s ? 0 : 1; }
"""


@pytest.mark.parametrize(
    ("smi", "cuda", "code", "phrases"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_every_fault_has_its_code_and_a_sentence(smi, cuda, code, phrases):
    """One line that says what to do after its last semicolon."""
    failure = next(finding.failure for finding in judge(smi, cuda) if finding.failure)
    assert failure.code == code
    assert all(phrase in failure.reason for phrase in phrases), failure.reason
    assert failure.reason.rpartition("; ")[2]
    assert "\n" not in failure.reason


@pytest.mark.parametrize(
    "cuda",
    [GOOD, GOOD._replace(torch=TORCH), GOOD._replace(packages_cuda="12.9.79"), GOOD._replace(packages_cuda="11.8")],
    ids=["driver alone", "torch", "packages of a newer minor version", "packages of an older one"],
)
def test_what_works_is_reported_with_its_versions(cuda):
    findings = judge(GOOD_SMI, cuda)
    assert [finding.failure for finding in findings] == [None] * len(findings)
    assert "550.54.15" in findings[0].detail
    assert "12.4" in findings[1].detail


def test_a_container_without_nvidia_smi_passes_where_cuda_works():
    """Tegra's driver brings none."""
    findings = judge(None, GOOD)
    assert [finding.failure for finding in findings] == [None, None]
    assert "CUDA works without it" in findings[0].detail


GRANTED, OTHER = "GPU-5c1b0000-1111-2222-3333-444455556666", "GPU-aaaa0000-1111-2222-3333-444455556666"


@pytest.mark.parametrize(
    ("listed", "granted", "wrong"),
    [
        ((GRANTED,), (GRANTED,), False),
        ((OTHER, GRANTED), (GRANTED,), False),  # WSL2 shows all
        ((OTHER,), (GRANTED,), True),
        ((OTHER,), (GRANTED, OTHER), True),
        ((OTHER,), ("MIG-1",), False),  # its parent GPU is listed
        ((OTHER,), (), False),
        ((), (GRANTED,), False),
    ],
)
def test_another_gpu_than_the_granted_one_is_not_computed_on(listed, granted, wrong):
    """The indices of a CDI spec may not be the driver's."""
    smi = SmiRun(0, "\n".join(f"NVIDIA L4, {uuid}, 550.54.15" for uuid in listed) or "NVIDIA L4")
    failure = judge(smi, GOOD, granted)[0].failure
    assert (failure is not None) == wrong
    if failure:
        assert failure.code == "GPU_RUNTIME_MISSING"
        assert OTHER in failure.reason
        assert "nvidia-ctk cdi generate" in failure.reason


@pytest.mark.parametrize(
    ("nodes", "code"),
    [
        (NodeFacts(("/dev/nvidia0", "/dev/nvidiactl")), None),
        (NodeFacts(("/dev/nvidia0", "/dev/nvidiactl"), {"/dev/nvidia0": errno.EPERM}), "GPU_LOST"),
        (NodeFacts(("/dev/nvidiactl",)), "GPU_LOST"),
        (NodeFacts(), "GPU_LOST"),
        (NodeFacts(("/dev/nvidia0", "/dev/nvidiactl"), {"/dev/nvidia0": errno.EBUSY}), None),
    ],
)
def test_a_gpu_is_lost_where_its_nodes_are_gone_or_closed(nodes, code):
    failure = judge_loss(nodes, ("/dev/nvidia0", "/dev/nvidiactl"))
    assert (failure.code if failure else None) == code


def test_a_container_that_never_had_nodes_has_lost_none():
    assert judge_loss(NodeFacts(), ()) is None


class TestLoss:
    """After a tool's failure the nodes are opened, if it speaks of the GPU."""

    @pytest.fixture
    def dev(self, tmp_path):
        (tmp_path / "nvidia0").touch()
        (tmp_path / "sda").touch()
        return tmp_path

    def test_a_failure_whose_nodes_can_be_opened_is_the_tools_own(self, dev):
        assert GpuLoss(str(dev)).after(RuntimeError("CUDA error: unknown error")) is None

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("CUDA error: unknown error\nCUDA kernel errors might be asynchronously reported"),
            RuntimeError("NVML: Unknown Error"),
            OSError("cudnn: CUDNN_STATUS_NOT_INITIALIZED"),
        ],
    )
    def test_a_node_that_is_gone_is_a_loss(self, dev, error):
        loss = GpuLoss(str(dev))
        (dev / "nvidia0").unlink()
        assert loss.after(error).code == "GPU_LOST"

    def test_the_words_may_stand_in_what_led_to_the_error(self, dev):
        loss = GpuLoss(str(dev))
        (dev / "nvidia0").unlink()
        error = ValueError("no frame")
        error.__cause__ = RuntimeError("CUDA error: unknown error")
        assert loss.after(error).code == "GPU_LOST"

    @pytest.mark.parametrize(
        "error", [ValueError("threshold must be positive"), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")]
    )
    def test_other_failures_are_not_looked_into(self, dev, error):
        loss = GpuLoss(str(dev))
        (dev / "nvidia0").unlink()
        assert loss.after(error) is None

    def test_a_driver_that_hangs_costs_each_look_together_two_seconds(self, dev, monkeypatch):
        """The run's deadline passes meanwhile, and its tool's own error would be lost."""
        opened, looks = threading.Event(), []

        def hangs(folder):
            looks.append(folder)
            opened.wait()
            return NodeFacts((f"{folder}/nvidia0",), {f"{folder}/nvidia0": errno.EPERM})

        monkeypatch.setattr(gpu_probe, "observe_nodes", hangs)
        loss, error = GpuLoss(str(dev)), RuntimeError("CUDA error: unknown error")
        began = time.monotonic()
        assert [loss.after(error) for _ in range(20)] == [None] * 20
        assert time.monotonic() - began < 2 * gpu_probe.LOSS_SECONDS
        assert len(looks) == 1
        opened.set()
        loss._look.thread.join()
        assert loss.after(error).code == "GPU_LOST"
        assert len(looks) == 2

    def test_a_node_that_is_gone_is_a_loss_though_the_others_cannot_be_opened(self, dev, monkeypatch):
        opened = threading.Event()
        monkeypatch.setattr(gpu_probe, "observe_nodes", lambda _: opened.wait() and None)
        loss = GpuLoss(str(dev))
        (dev / "nvidia0").unlink()
        assert loss.after(RuntimeError("CUDA error: unknown error")).code == "GPU_LOST"
        opened.set()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
    def test_a_node_without_its_driver_is_a_loss(self, tmp_path):
        node = tmp_path / "nvidia0"
        try:
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(511, 0))
        except PermissionError:
            pytest.skip("no device nodes can be made here")
        assert GpuLoss(str(tmp_path)).after(RuntimeError("CUDA error: unknown error")).code == "GPU_LOST"


def test_both_sources_are_judged_after_a_first_fault():
    """An operator sees all faults at once."""
    findings = judge(SmiRun(9, ""), GOOD._replace(result=999))
    assert [finding.name for finding in findings] == ["gpu:nvidia-smi", "gpu:cuda"]
    assert all(finding.failure for finding in findings)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A folder with a stand-in for the driver's library; the environment says what it does."""
    folder = tmp_path_factory.mktemp("libcuda")
    (folder / "stub.c").write_text(CUDA_STUB)
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "stub.c")]
    subprocess.run(command, check=True)
    return folder


class TestProbe:
    """The real probe, of a stand-in for the driver's library and for nvidia-smi."""

    @pytest.fixture
    def host(self, library, tmp_path, monkeypatch):
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("STUB_DEVICES", "2")
        monkeypatch.setattr(gpu_probe, "SMI_SECONDS", 0.5)
        monkeypatch.setattr(gpu_probe, "CUDA_SECONDS", 20.0)
        program(tmp_path, "echo 'NVIDIA L4, GPU-4c1f, 550.54.15'")
        return tmp_path

    def test_a_gpu_that_works_passes(self, host):
        checks, failure = check_gpu()
        assert failure is None
        assert [(check.name, check.ok) for check in checks] == [("gpu:nvidia-smi", True), ("gpu:cuda", True)]
        assert checks[1].detail == "2 devices, driver for CUDA 12.4"

    def test_uuids_that_cuda_does_not_know_are_dropped_where_the_container_has_no_other_gpu(self, host, monkeypatch):
        """An integrated GPU has one UUID for NVML and another for CUDA."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{GRANTED},{OTHER}")
        monkeypatch.setenv("STUB_OTHER_UUIDS", "1")
        checks, failure = check_gpu()
        assert failure is None, checks
        assert "CUDA_VISIBLE_DEVICES" not in os.environ

    def test_they_are_kept_where_it_has_more(self, host, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", GRANTED)
        monkeypatch.setenv("STUB_OTHER_UUIDS", "1")
        assert check_gpu()[1].code == "CUDA_UNAVAILABLE"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == GRANTED

    def test_they_are_kept_where_it_has_another(self, host, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", GRANTED)
        monkeypatch.setenv("STUB_OTHER_UUIDS", "1")
        monkeypatch.setenv("STUB_DEVICES", "1")
        program(host, f"echo 'NVIDIA L4, {OTHER}, 550.54.15'")
        assert check_gpu()[1].code == "GPU_RUNTIME_MISSING"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == GRANTED

    def test_an_error_of_cuinit_has_its_name(self, host, monkeypatch):
        monkeypatch.setenv("STUB_RESULT", "100")
        facts = probe_cuda()
        assert (facts.result, facts.result_name, facts.devices) == (100, "CUDA_ERROR_NO_DEVICE", None)

    def test_a_driver_that_crashes_ends_only_the_probe(self, host, monkeypatch):
        monkeypatch.setenv("STUB_CRASH", "1")
        assert probe_cuda().broke_off == "ended with SIGABRT"

    def test_a_driver_that_hangs_is_not_waited_for(self, host, monkeypatch):
        monkeypatch.setenv("STUB_HANG", "1")
        monkeypatch.setattr(gpu_probe, "CUDA_SECONDS", 0.5)
        assert probe_cuda().broke_off == "gave no answer within 0.5 s"

    def test_without_the_library_the_loader_is_quoted(self, host, monkeypatch):
        monkeypatch.delenv("LD_LIBRARY_PATH")
        facts = probe_cuda()
        assert not facts.loaded
        assert "libcuda.so.1" in facts.problem

    def test_a_missing_nvidia_smi_is_none(self, host):
        (host / "nvidia-smi").unlink()
        assert run_smi() is None

    def test_a_hanging_nvidia_smi_is_not_waited_for(self, host):
        program(host, "exec /bin/sleep 60")
        assert run_smi() == SmiRun(None, "")

    def test_what_nvidia_smi_prints_and_how_it_ends_are_recorded(self, host):
        program(host, "echo Driver/library version mismatch >&2; exit 18")
        assert run_smi() == SmiRun(18, "Driver/library version mismatch")

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("__version__ = '2.13.0'\nclass version: cuda = '12.8'\nclass cuda: is_available = lambda: True\n", TORCH),
            (
                "__version__ = '2.13.0+cpu'\nclass version: cuda = None\nclass cuda: is_available = lambda: False\n",
                NO_CUDA,
            ),
            (
                (
                    "import warnings\n__version__ = '2.13.0'\nclass version: cuda = '13.0'\nclass cuda:\n"
                    "    @staticmethod\n    def is_available():\n        warnings.warn('CUDA says: too old')\n"
                ),
                TorchFacts("2.13.0", "13.0", available=False, message="CUDA says: too old"),
            ),
        ],
        ids=["usable", "without CUDA", "with a warning"],
    )
    def test_torch_is_probed_where_it_is_installed(self, host, monkeypatch, source, expected):
        (host / "torch").mkdir()
        (host / "torch" / "__init__.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(host))
        assert probe_cuda().torch == expected

    def test_a_torch_without_its_libraries_names_the_missing_one(self, host, monkeypatch):
        message = "libcudart.so.12: cannot open shared object file: No such file or directory"
        (host / "torch.py").write_text(f"raise ImportError({message!r})")
        monkeypatch.setenv("PYTHONPATH", str(host))
        code, reason = probe_cuda().torch.unusable
        assert code == "CUDA_UNAVAILABLE"
        assert "libcudart.so.12 is missing" in reason


WORKING = """
    print("imported")
    class Plugin:
        def validate(self): pass
"""


class TestStart:
    """Where the manifest requires a GPU, the runtime checks it before it imports the plugin."""

    @pytest.fixture
    def path(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    def test_without_a_gpu_the_plugin_is_not_even_imported(self, path, launch):
        runtime = launch(WORKING, requires_gpu="1")
        status = runtime.settled()
        assert (status["phase"], status["reason_code"]) == ("failed", "GPU_RUNTIME_MISSING")
        assert {check["name"]: check["ok"] for check in status["checks"]}["gpu:nvidia-smi"] is False
        assert "imported" not in runtime.log.read_text()

    def test_a_plugin_that_requires_none_starts_without(self, path, launch):
        assert "gpu" not in str(launch(WORKING).ready().status()["checks"])


def program(folder: Path, script: str) -> None:
    """An `nvidia-smi` in `folder` that does this."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_refusal_in_spite_of_a_nodes_mode_is_told_from_one_by_it(tmp_path, monkeypatch):
    for name, mode in (("nvidia0", 0o666), ("nvidiactl", 0o660)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)

    def denied(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    assert probe_nodes(str(tmp_path)) == NodeFacts((f"{tmp_path}/nvidia0", f"{tmp_path}/nvidiactl"), {}, ())
    monkeypatch.setattr(os, "open", denied)
    nodes = observe_nodes(str(tmp_path))
    assert (list(nodes.refused), nodes.public) == (list(nodes.found), (f"{tmp_path}/nvidia0",))
