"""The shipped VideoTracker without one of its dependencies: UNAVAILABLE, and nothing is started."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.loader.dependency_checker import DependencyCheck, DependencyChecker
from orchestrator.loader.manifest import read_manifest
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import effective_limits

FOLDER = Path(__file__).parents[2] / "plugins" / "video_tracker"
ONNX = b"\x08\x09\x12\x07pytorch" + b"\x3a\x40" + bytes(range(32, 96))  # a graph of 64 bytes
BROKEN = {
    "empty": b"",
    "a few bytes": ONNX[:12],
    "zeros": bytes(4096),
    "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 80000000\n",
    "another format": b"PK\x03\x04" + bytes(range(64)),
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A MODELS_DIR with an empty folder for the detector."""
    (tmp_path / "video-tracker" / "models").mkdir(parents=True)
    return tmp_path


def put(models: Path, content: bytes) -> None:
    (models / "video-tracker" / "models" / "detector.onnx").write_bytes(content)


def check(models: Path) -> DependencyCheck:
    (found,) = DependencyChecker(models).check(read_manifest(FOLDER), FOLDER)
    return found


def test_the_manifest_requires_a_gpu_and_its_limits_override_the_defaults() -> None:
    """The spec: `requires_gpu: true`; global defaults, overridden by the plugin."""
    manifest, settings = read_manifest(FOLDER), Settings(state_dir=Path("/nowhere"))
    limits = effective_limits(manifest, settings)
    assert manifest.requires_gpu
    assert (manifest.image, manifest.gpu.count) == ("cuda", 1)
    assert limits.timeout == 600 > settings.default_timeout.total_seconds()
    assert limits.memory == 8 * 1024**3 > settings.default_memory
    assert limits.shm > settings.default_shm


def test_a_missing_model_makes_it_unavailable(models: Path) -> None:
    """The reason names the file and the folder where it belongs."""
    found = check(models)
    assert found.code is ReasonCode.MODEL_MISSING
    assert found.code.final_state is PluginLifecycleState.UNAVAILABLE
    assert "models/detector.onnx in <MODELS_DIR>/video-tracker" in (found.reason or "")


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_corrupt_model_makes_it_unavailable(models: Path, content: bytes) -> None:
    """Recognised by its first 16 bytes."""
    put(models, content)
    found = check(models)
    assert found.code is ReasonCode.MODEL_CORRUPT
    assert found.code.final_state is PluginLifecycleState.UNAVAILABLE
    assert "detector.onnx" in (found.reason or "")


def test_a_model_that_starts_like_onnx_is_accepted(models: Path) -> None:
    """Its content is checked in the container."""
    put(models, ONNX)
    assert check(models).ok


@pytest.mark.parametrize(
    ("content", "code"), [(None, "MODEL_MISSING"), (BROKEN["zeros"], "MODEL_CORRUPT")], ids=["missing", "corrupt"]
)
async def test_a_bad_model_is_found_before_anything_is_built_and_affects_no_other_plugin(
    harness: Any, content: bytes | None, code: str
) -> None:
    """The shipped manifest without its GPU, so that the model is checked."""
    manifest = yaml.safe_load((FOLDER / "plugin.yaml").read_text())
    manifest = {key: value for key, value in manifest.items() if key not in {"name", "requires_gpu", "gpu"}}
    files = {} if content is None else {"models/detector.onnx": content}
    harness.add("video-tracker", files=files, **manifest)
    harness.add("reader", tools={"read": lambda: "text"})
    await harness.open()
    health = await harness.until_state("video-tracker", "UNAVAILABLE", "FAILED")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", code)
    assert not health["container"].get("id")
    await harness.until_state("reader", "INITIALIZED")
    assert not [build for build in harness.engine.image_store.builds if "video-tracker" in build.tag]
    answer = await harness.client.post("/v1/plugins/video-tracker/tools/track_objects/run", json={})
    assert answer.status_code == 503
    assert answer.json()["reason_code"] == code
    assert (await harness.client.post("/v1/plugins/reader/tools/read/run", json={})).json()["result"] == "text"


def test_a_container_without_a_gpu_says_so_before_it_imports_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real runtime with the real plugin, whose packages are not needed for that."""
    folder = Path(tempfile.mkdtemp(prefix="vt-"))  # short: it holds sockets
    environment = {
        "PATH": str(folder),  # no nvidia-smi, whatever this machine has
        "PYTHONPATH": str(FOLDER),
        "PLUGIN_ENTRYPOINT": read_manifest(FOLDER).entrypoint,
        "PLUGIN_REQUIRES_GPU": "1",
        "PLUGIN_RUN_DIR": str(folder / "run"),
        "PLUGIN_SCRATCH_DIR": str(folder / "scratch"),
    }
    runtime = subprocess.Popen([sys.executable, "-m", "plugin_runtime"], env=environment, cwd=folder)
    try:
        status = settled(folder / "run" / "control.sock")
    finally:
        runtime.send_signal(signal.SIGTERM)
        assert runtime.wait(10) == 0
        shutil.rmtree(folder)
    assert status["phase"] == "failed"
    assert status["reason_code"] == "GPU_RUNTIME_MISSING"
    assert ReasonCode(status["reason_code"]).final_state is PluginLifecycleState.UNAVAILABLE
    assert [step["name"] for step in status["checks"]][:2] == ["gpu:nvidia-smi", "gpu:cuda"]
    assert not any(step["name"] == "import" for step in status["checks"])


def settled(control: Path) -> dict[str, Any]:
    """The runtime's status once its start has ended."""
    end = time.monotonic() + 60
    with httpx.Client(transport=httpx.HTTPTransport(uds=os.fspath(control)), base_url="http://runtime") as client:
        while time.monotonic() < end:
            if control.exists() and (status := client.get("/status").json())["phase"] != "starting":
                found: dict[str, Any] = status
                return found
            time.sleep(0.02)
    raise AssertionError("the runtime did not start")
