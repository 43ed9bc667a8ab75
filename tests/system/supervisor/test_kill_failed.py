"""A container that cannot be stopped: health and events report it, its GPU stays with it, removal is tried again."""

import asyncio
import gc
import time
from typing import Any

import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness


async def _hangs() -> None:
    await asyncio.sleep(60)


async def test_a_failed_plugin_whose_container_cannot_be_stopped_is_kill_failed(harness: Harness) -> None:
    """FAILED stays FAILED; the graver reason replaces the first, which the evidence retains."""
    harness.add("reader", tools={"read": _hangs}, limits={"timeout": "200ms"})
    harness.add("other", tools={"read": lambda: 1})
    await harness.open()
    await harness.settled("reader")
    await harness.settled("other")
    harness.engine.refuse = {"stop": "internal error", "kill": "internal error"}
    assert (await harness.run("reader", "read")).status_code == 504
    health = await harness.until("reader", lambda health: health["reason_code"] == "KILL_FAILED")
    assert health["state"] == "FAILED"
    assert "docker rm --force plugin-reader-" in health["reason"]
    assert "internal error" in health["reason"]
    health = await harness.until_removed("reader")
    assert health["post_mortem"]["evidence"]["ended_for"] == "TIMEOUT"
    assert (await harness.run("other", "read")).status_code == 200
    events = (await harness.client.get("/v1/plugins/reader/events")).json()
    assert [event["reason_code"] for event in events if event["state"] == "FAILED"] == ["TIMEOUT", "KILL_FAILED"]


async def test_a_stop_that_fails_is_no_stop(harness: Harness) -> None:
    """It is STOPPED when the container has stopped, not when an operator requested it."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.engine.refuse = {"stop": "no", "kill": "no"}
    health = (await harness.client.post("/v1/plugins/reader/stop")).json()
    assert (health["state"], health["reason_code"]) == ("FAILED", "KILL_FAILED")


@pytest.mark.parametrize("broken", ["refuses", "frozen"])
async def test_within_fifteen_seconds(harness: Harness, broken: str) -> None:
    """Whether the engine refuses or gives no answer."""
    harness.add("reader", tools={"read": _hangs}, limits={"timeout": "200ms"})
    await harness.open()
    await harness.settled("reader")
    if broken == "refuses":
        harness.engine.refuse = {"stop": "no", "kill": "no"}
    else:
        harness.engine.set_frozen(True)
    started = time.monotonic()
    await harness.run("reader", "read")
    await harness.until("reader", lambda health: health["reason_code"] == "KILL_FAILED")
    assert time.monotonic() - started < 15


async def test_its_gpu_is_granted_to_no_other(harness: Harness) -> None:
    """Quarantined, and shown so, until its container is removed."""
    harness.gpus = FakeGpus(device(0))
    harness.engine.device_drivers = ("nvidia",)
    harness.add("one", tools={"run": _hangs}, requires_gpu=True, limits={"timeout": "200ms"})
    harness.add("two", requires_gpu=True, image="harness/one")
    harness.runtimes["two"] = harness.runtimes["one"]
    await harness.open()
    await harness.settled("one")
    await harness.client.post("/v1/plugins/two/stop")
    if (await harness.health("one"))["state"] == "UNAVAILABLE":
        await harness.client.post("/v1/plugins/one/restart", params={"wait": 5})
    harness.engine.refuse = {"stop": "no", "kill": "no", "remove": "no"}
    await harness.run("one", "run")
    await harness.until("one", lambda health: health["reason_code"] == "KILL_FAILED")
    (quarantine,) = (await harness.client.get("/v1/gpus")).json()["quarantines"]
    assert "could be neither stopped nor killed" in quarantine
    two = (await harness.client.post("/v1/plugins/two/start", params={"wait": 5})).json()
    assert two["reason_code"] == "GPU_BUSY"
    harness.engine.refuse = {}
    harness.engine.break_streams()  # which is followed by a full list
    async with asyncio.timeout(5):
        while (await harness.client.get("/v1/gpus")).json()["quarantines"]:
            await asyncio.sleep(0.02)
    assert await harness.containers("one") == []
    two = (await harness.client.post("/v1/plugins/two/start", params={"wait": 5})).json()
    assert two["reason_code"] is None


async def test_the_post_mortem_of_an_instance(harness: Harness) -> None:
    """Evidence, limits, image, container; the same from the history after a restart of the orchestrator."""
    harness.add("reader", tools={"read": lambda: 1}, limits={"memory": "64MiB"})
    await harness.open()
    await harness.settled("reader")
    await harness.instance("reader").worker_exits(signal=11)
    report: dict[str, Any] = (await harness.until_removed("reader"))["post_mortem"]
    assert report["evidence"]["worker_signal"] == "SIGSEGV"
    assert report["limits"]["memory_bytes"] == 64 << 20
    assert report["container"].startswith("plugin-reader-")
    assert report["image_id"]
    assert report["signal"] == "SIGSEGV"
    generation = (await harness.health("reader"))["generation"]
    await harness.client.post("/v1/plugins/reader/restart", params={"wait": 5})
    assert (await harness.health("reader"))["post_mortem"] is None
    for query in ({}, {"generation": generation}):
        answer = await harness.client.get("/v1/plugins/reader/post-mortem", params=query)
        assert answer.status_code == 200
        assert answer.json() == report
    for path in ("reader/post-mortem?generation=77", "nobody/post-mortem"):
        assert (await harness.client.get(f"/v1/plugins/{path}")).status_code == 404


async def test_an_engine_that_refuses_is_not_unreachable(harness: Harness) -> None:
    """It answered; an operator has to fix what it names."""
    harness.add("reader")
    harness.engine.refuse = {"create": "Range of CPUs is from 0.01 to 2.00"}
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"]) == ("FAILED", "INIT_ERROR")
    assert "Range of CPUs" in health["reason"]


async def test_a_container_that_was_seen_to_end_need_not_be_stopped(harness: Harness) -> None:
    """An engine that shuts down ends its containers and refuses all else: the reason is what ended them."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.engine.refuse = {"stop": "shutting down", "kill": "shutting down", "remove": "shutting down"}
    await harness.engine.kill_outside((await harness.containers("reader"))[0])
    health = await harness.until_removed("reader")
    assert (health["state"], health["reason_code"]) == ("FAILED", "KILLED")
    health = await harness.until("reader", lambda health: any(c["name"] == "removal" for c in health["checks"]))
    harness.engine.refuse = {}
    harness.engine.break_streams()
    await harness.until("reader", lambda health: any(c["name"] == "removal" and c["ok"] for c in health["checks"]))
    assert await harness.containers("reader") == []


async def test_a_container_that_could_not_be_removed_is_removed_after_a_restart(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Its findings do not reach the new instance's health, and its removal is tried again."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.engine.refuse = {"remove": "device or resource busy"}
    await harness.engine.kill_outside((await harness.containers("reader"))[0])
    await harness.until("reader", lambda health: any(c["name"] == "removal" for c in health["checks"]))
    assert (await harness.client.post("/v1/plugins/reader/restart")).status_code == 200
    await harness.settled("reader")
    assert len(await harness.containers("reader")) == 2
    harness.engine.refuse = {}
    harness.engine.break_streams()
    async with asyncio.timeout(10):
        while len(await harness.containers("reader")) == 2:
            await asyncio.sleep(0.02)
    assert (await harness.health("reader"))["state"] in {"INITIALIZED", "RUNNING"}
    for _ in range(2):  # no later restart is hindered by it
        assert (await harness.client.post("/v1/plugins/reader/restart")).status_code == 200
        await harness.settled("reader")
    assert len(await harness.containers("reader")) == 1
    gc.collect()
    assert "never retrieved" not in caplog.text
