"""The script for a real GPU, as far as it goes on a simulated one: it ends, and one step spoils no other."""

import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from simulated_nvidia.host import SimulatedGpu, SimulatedState

SCRIPT = Path(__file__).parents[2] / "real_gpu" / "run"
A = "GPU-aaaa"
XML = """<nvidia_smi_log><driver_version>{driver}</driver_version><gpu id="00000000:65:00.0"><uuid>{uuid}</uuid>
<product_name>Simulated A100</product_name><persistence_mode>Enabled</persistence_mode>
<fb_memory_usage><total>81920 MiB</total></fb_memory_usage></gpu></nvidia_smi_log>"""


@pytest.fixture
def script():
    loader = SourceFileLoader("real_gpu_run", str(SCRIPT))
    module = module_from_spec(spec_from_loader("real_gpu_run", loader))
    loader.exec_module(module)
    return module


def run(nvidia, out, *steps):
    environment = {**os.environ, **nvidia.environment}
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--only", *steps]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return ended, json.loads((out / "real_gpu.json").read_text())


def smi_prints(nvidia, text):
    file = nvidia.programs / "nvidia-smi"
    file.write_text(f"#!/bin/sh\ncat <<'EOF'\n{text}\nEOF\n")
    file.chmod(0o755)


@pytest.mark.slow
def test_it_measures_what_needs_no_cuda_and_says_what_was_not_run(nvidia, tmp_path):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A, persistence=True),)))
    smi_prints(nvidia, XML.format(driver="550.54.15", uuid=A))
    ended, results = run(nvidia, tmp_path / "out", "first_look", "inventory", "cuda")
    assert ended.returncode == 0, ended.stderr
    assert results["first_look"]["found"]["persistence_mode"] == [True]
    assert results["first_look"]["found"]["first_seconds"] > 0
    assert results["inventory"]["found"]["differences"] == []
    assert (results["cuda"]["outcome"], "no CUDA" in results["cuda"]["why"]) == ("not run", True)
    table = (tmp_path / "out" / "real_gpu.md").read_text()
    assert table == ended.stdout
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["first_look", "inventory", "cuda"]


@pytest.mark.slow
def test_what_differs_from_nvidia_smi_is_listed(nvidia, tmp_path):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A, name="Other", persistence=False),)))
    smi_prints(nvidia, XML.format(driver="1.2", uuid=A))
    _, results = run(nvidia, tmp_path / "out", "inventory")
    differences = " ".join(results["inventory"]["found"]["differences"])
    for words in ("name Other and Simulated A100", "persistence mode False and Enabled", "driver 550.54.15 and 1.2"):
        assert words in differences


@pytest.mark.slow
def test_a_step_that_crashes_is_reported_and_the_next_one_runs(nvidia, tmp_path):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),), crash=("nvmlDeviceGetName",)))
    ended, results = run(nvidia, tmp_path / "out", "first_look", "cuda")
    assert ended.returncode == 1
    assert results["first_look"]["outcome"] == "failed"
    assert results["cuda"]["outcome"] == "not run"


@pytest.mark.slow
def test_a_step_that_hangs_ends_at_its_bound(nvidia, script, monkeypatch):
    nvidia.set(SimulatedState(hang=("nvmlInitWithFlags",)))
    for name, value in nvidia.environment.items():
        monkeypatch.setenv(name, value)
    result = script.run_step("first_look", 3.0)
    assert (result["outcome"], "no answer within 3 s" in result["why"]) == ("failed", True)
    assert result["seconds"] < 10


def test_a_step_for_which_no_time_is_left_is_not_run(script):
    assert script.run_step("cuda", 0.5)["outcome"] == "not run"


def test_every_step_has_a_bound_and_they_are_the_same_in_both_files(script):
    steps = (SCRIPT.parent / "steps.py").read_text()
    for name in script.STEPS:
        assert f"def {name}(" in steps
