"""The GPU in the container: two sources, and a reason for every fault."""

import subprocess
from pathlib import Path

import pytest
from plugin_runtime.startup import gpu_probe
from plugin_runtime.startup.gpu_findings import CudaFacts, SmiRun, TorchFacts, judge
from plugin_runtime.startup.gpu_probe import check_gpu, probe_cuda, run_smi

GOOD_SMI = SmiRun(0, "NVIDIA L4, GPU-4c1f, 550.54.15")
GOOD = CudaFacts(loaded=True, result=0, driver_version=12040, devices=1)
ABSENT = CudaFacts(problem="libcuda.so.1: cannot open shared object file: No such file or directory")
TORCH = TorchFacts("2.13.0", "12.8", available=True)
NO_CUDA = TorchFacts("2.13.0+cpu", None)

# name, nvidia-smi, CUDA, expected code, expected phrases of the sentence
FAULTS = [
    ("no GPU attached", None, ABSENT, "GPU_RUNTIME_MISSING", ["given no GPU", "container toolkit"]),
    ("no utility", None, GOOD, "GPU_RUNTIME_MISSING", ["nvidia-smi is missing", "`utility`"]),
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
int cuInit(unsigned f) { if (set("STUB_CRASH")) abort(); if (set("STUB_HANG")) pause(); return set("STUB_RESULT"); }
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
