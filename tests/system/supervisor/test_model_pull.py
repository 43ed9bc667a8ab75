"""A plugin whose models are fetched: what a start without them says, what health shows meanwhile, what is mounted."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness

from orchestrator.models.store import ModelStore, model_store
from orchestrator.supervisor import model_watch

CONTENT = b"GGUF" + bytes(range(252))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MODEL: dict[str, Any] = {
    "path": "deep/weights.gguf", "from": ["https://user:hunter2@host.example/any?hunter2"], "sha256": SHA256,
}  # fmt: skip


@pytest.fixture
def store(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setattr(model_watch, "_INTERVAL", 0.02)
    return model_store(harness.settings)


async def test_a_start_without_the_model_says_which_command_brings_it(harness: Harness, store: ModelStore) -> None:
    """It fetches nothing itself; after the pull a start finds the file, in the container under the manifest's name."""
    harness.add("reader", models={"weights": MODEL})
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "MODEL_MISSING")
    assert "`orchestrator models pull reader`, then restart the plugin" in health["reason"]
    assert store.partials() == []

    partial = store.open_partial(SHA256)
    assert partial is not None
    with partial:
        partial.append(CONTENT)
        partial.publish()
    await harness.client.post("/v1/plugins/reader/start")
    health = await harness.settled("reader")
    assert health["state"] == "INITIALIZED"
    (container,) = harness.engine._containers.values()
    (mount,) = [mount for mount in container.spec.mounts if mount.target.startswith("/models")]
    assert mount.target == "/models/weights/weights.gguf" and mount.read_only
    assert Path(mount.source).read_bytes() == CONTENT
    assert container.spec.labels["plugin-orchestrator.models"] == SHA256


async def test_health_and_events_show_the_pull(harness: Harness, store: ModelStore) -> None:
    """How far it is and since when, for as long as it goes on; nothing is started by it."""
    harness.add("reader", models={"weights": MODEL})
    harness.add("other", models={"labels": "labels.txt"})
    await harness.open()
    await harness.settled("reader")
    partial = store.open_partial(SHA256)
    assert partial is not None
    with partial:
        partial.begin("https://host.example/any?…", "", 4 * len(CONTENT), restart=True)
        partial.append(CONTENT)
        health = await harness.until("reader", lambda health: health["activity"] is not None)
        assert health["activity"]["what"] == "fetching its models"
        assert health["activity"]["line"] == "weights.gguf: 256 B of 1 KiB (25 %) from host.example"
        assert "Now: fetching its models for " in health["reason"] and health["reason_code"] == "MODEL_MISSING"
        assert (await harness.health("other"))["activity"] is None
        partial.append(CONTENT)
        await harness.until("reader", lambda health: "(50 %)" in (health["activity"] or {"line": ""})["line"])
    await harness.until("reader", lambda health: health["activity"] is None)

    partial = store.open_partial(SHA256)
    assert partial is not None
    with partial:
        partial.load(lambda *_: None)
        await harness.until("reader", lambda health: health["activity"] is not None)
        partial.rewind()
        partial.append(CONTENT)
        partial.publish()
    health = await harness.until("reader", lambda health: health["activity"] is None)
    assert health["state"] == "UNAVAILABLE" and health["generation"] == 1
    events = (await harness.client.get("/v1/plugins/reader/events")).json()
    told = [event["reason"] for event in events if event["reason"] and "its models" in event["reason"]]
    assert told == [
        "fetching its models",
        "fetching its models",
        "fetched its models; `orchestrator restart reader` starts it with them",
    ]
    assert "hunter2" not in f"{health} {events}"
