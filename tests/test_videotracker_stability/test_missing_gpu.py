"""VideoTracker's manifest in the whole orchestrator: without a GPU, and with one but without its model."""

import shutil
from pathlib import Path

import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness

MANIFEST = Path(__file__).parents[2] / "plugins" / "video_tracker" / "plugin.yaml"


@pytest.mark.parametrize(
    ("gpus", "code"),
    [(FakeGpus(), "GPU_NOT_FOUND"), (FakeGpus(device(0)), "MODEL_MISSING")],
    ids=["no GPU", "no model"],
)
async def test_a_missing_dependency_is_reported_before_anything_is_built(
    harness: Harness, gpus: FakeGpus, code: str
) -> None:
    """UNAVAILABLE with its code, which also refuses a call; no image is built, no container created."""
    (harness.plugins / "video_tracker").mkdir()
    shutil.copy(MANIFEST, harness.plugins / "video_tracker")  # alone: a model may lie beside the original
    harness.gpus = gpus
    harness.engine.device_drivers = ("nvidia",)
    await harness.open()
    health = await harness.until_state("video-tracker", "UNAVAILABLE")
    assert health["reason_code"] == code, health
    answer = await harness.run("video-tracker", "detect_objects")
    assert (answer.status_code, answer.json()["reason_code"]) == (503, code)
    assert harness.engine.image_store.builds == []
    assert await harness.containers("video-tracker") == []
