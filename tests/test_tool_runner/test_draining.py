"""The orchestrator stops: what becomes of runs that execute or wait, and what it answers meanwhile."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from support.harness import TIMEOUT, Harness, eventually
from test_tool_runner.callers import result, run_of, start
from test_tool_runner.ready_plugins import ready

from orchestrator.registry.history import RunRecord
from orchestrator.sandbox.call import ToolCall
from orchestrator.tools.call_store import CallStore
from orchestrator.tools.draining import sentence, waited_for
from orchestrator.tools.live_run import Abort, LiveRun
from orchestrator.tools.run_observer import RunWatch
from orchestrator.tools.shutdown import Shutdown

pytestmark = pytest.mark.slow

SOON = 3.0
"""Seconds, on a slow machine, for what waits for nothing; far below every bound that is waited for here."""


def shutdown(harness: Harness) -> Shutdown:
    assert harness.app is not None
    found = harness.app.state.context.shutdown
    assert isinstance(found, Shutdown)
    return found


def stopping(harness: Harness) -> asyncio.Task[None]:
    return asyncio.create_task(shutdown(harness).complete())


async def next_start(harness: Harness) -> None:
    """What ran is ready again for the tests' calls."""
    await harness.shut(containers_stay=True)
    await harness.open()


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Harness]:
    """It waits for callers for no longer than a moment."""
    async with Harness(tmp_path, drain="300ms") as harness:
        yield harness


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """A tool that waits for this file ends when it exists: no sooner, however busy the machine is."""
    return tmp_path / "go"


# Synchronous runs


async def test_a_caller_in_flight_is_answered_while_health_is_too(harness: Harness) -> None:
    """New runs and starts are refused with a time to try again; nothing else changes until the run has ended."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait})
    await ready(harness, "reader")
    run = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    stop = stopping(harness)
    await eventually(shutdown(harness).requested.is_set, "it stops")
    for late in (
        await harness.run("reader", "read"),
        await harness.client.post("/v1/plugins/reader/tools/read/run", headers={"Prefer": "respond-async"}, json={}),
        await harness.client.post("/v1/plugins/reader/restart"),
        await harness.client.post("/v1/plugins/reader/start"),
    ):
        assert (late.status_code, late.headers["Retry-After"]) == (503, "5")
        assert "is stopping" in late.json()["error"]
        assert late.json()["plugin"] == "reader"
    assert (await harness.health("reader"))["in_flight"] == 1
    for route in ("/v1/plugins", "/v1/runs", "/healthz", "/metrics", "/v1/gpus"):
        assert (await harness.client.get(route)).status_code == 200
    readiness = await harness.client.get("/readyz")
    assert (readiness.status_code, readiness.json()) == (503, {"status": "stopping", "waiting_for": ["reader"]})
    assert not stop.done()
    go_on.set()
    assert (await run).status_code == 200
    await asyncio.wait_for(stop, SOON)


async def test_a_caller_over_the_bound_is_told_so(impatient: Harness) -> None:
    """No client may take that for a run that has not begun. The plugin lives on, for the next start."""
    impatient.add("reader", tools={"read": asyncio.Event().wait})
    await ready(impatient, "reader")
    before = await impatient.containers("reader")
    run = asyncio.create_task(impatient.run("reader", "read"))
    await impatient.until("reader", lambda health: health["in_flight"] == 1)
    await asyncio.wait_for(shutdown(impatient).complete(), SOON + 3)
    answer = await run
    assert (answer.status_code, answer.json()["ok"]) == (503, False)
    assert "ORCHESTRATOR_DRAIN" in answer.json()["error"]
    assert "Retry-After" not in answer.headers
    await next_start(impatient)
    assert (await run_of(impatient, answer.json()["run_id"]))["state"] == "interrupted"
    health = await impatient.health("reader")
    assert (health["state"], health["generation"], health["error_count"]) == ("RUNNING", 1, 0)
    assert await impatient.containers("reader") == before


async def test_the_reader_of_a_stream_over_the_bound_gets_its_end(worker: Harness) -> None:
    """A last event, not a cut connection."""
    await worker.open()
    await worker.settled("worker")
    events: list[str] = []

    async def read() -> None:
        route, accept = "/v1/plugins/worker/tools/count/run", {"Accept": "application/x-ndjson"}
        async with worker.client.stream("POST", route, json={"n": 10_000}, headers=accept) as lines:
            async for line in lines.aiter_lines():
                events.append(line)

    reading = asyncio.create_task(read())
    await eventually(lambda: len(events) > 2, "items come")
    shutdown(worker).hurry()
    await asyncio.wait_for(shutdown(worker).complete(), TIMEOUT)
    await reading
    assert '"event":"end","status":503' in events[-1]


async def test_a_synchronous_run_that_waits_is_refused_at_once(harness: Harness) -> None:
    """It has not begun, and may be tried again; the one that executes is answered."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait})
    await ready(harness, "reader")
    first = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    second = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["queued"] == 1)
    stop = stopping(harness)
    answer = await asyncio.wait_for(second, SOON)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert not first.done()
    go_on.set()
    assert (await first).status_code == 200
    await asyncio.wait_for(stop, SOON)


async def test_a_caller_that_waits_for_a_start_is_refused_at_once(harness: Harness) -> None:
    """Its plugin may take minutes; so may a `restart` that is waited for."""
    harness.add("reader", start=[(3600, {"phase": "ready"})])
    await harness.open()
    run = asyncio.create_task(harness.run("reader", "read"))
    restart = asyncio.create_task(harness.client.post("/v1/plugins/reader/start", params={"wait": 600}))
    await harness.until("reader", lambda health: health["container"] is not None and health["queued"] == 0)
    await asyncio.sleep(0.2)
    await asyncio.wait_for(shutdown(harness).complete(), SOON)
    assert (await run).status_code == 503
    assert (await restart).json()["state"] == "LOADED"


async def test_a_build_is_not_waited_for(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is broken off: the next start makes it anew."""
    ended = asyncio.Event()

    async def build(*_: Any, **__: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(harness.engine, "build", build)
    harness.add("reader", image="base", files={"package/plugin.py": b""})
    await harness.open()
    run = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["queued"] == 0 and health["state"] == "LOADED")
    await asyncio.sleep(0.3)
    await asyncio.wait_for(shutdown(harness).complete(), SOON)
    assert (await run).status_code == 503
    assert ended.is_set()


async def test_a_run_whose_caller_has_disconnected_is_not_waited_for(harness: Harness) -> None:
    """Nobody would have its answer."""
    harness.add("reader", tools={"read": asyncio.Event().wait})
    await ready(harness, "reader")
    run = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    await asyncio.sleep(0.2)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await asyncio.wait_for(shutdown(harness).complete(), SOON + 3)


# Asynchronous runs


async def test_an_asynchronous_run_goes_on_and_is_not_waited_for(worker: Harness, go: Path) -> None:
    """Its result comes from the next orchestrator, and counts once."""
    await worker.open()
    await worker.settled("worker")
    run_id = (await start(worker, "nap", size=3, until=str(go))).json()["run_id"]
    await asyncio.wait_for(shutdown(worker).complete(), SOON)
    assert (await run_of(worker, run_id))["state"] == "running"
    await next_start(worker)
    go.touch()
    assert (await result(worker, run_id)).json()["result"] == "xxx"
    assert (await run_of(worker, run_id))["outcome"] == "ok"
    assert (await worker.health("worker"))["success_count"] == 1


@pytest.mark.parametrize("size", [10, 400_000])
async def test_asynchronous_runs_that_wait_are_started_by_the_next(worker: Harness, go: Path, size: int) -> None:
    """In their order, with their bodies; a second stop in between changes nothing, and no file is left."""
    await worker.open()
    await worker.settled("worker")
    first = (await start(worker, "nap", size=1, until=str(go))).json()["run_id"]
    answer = await worker.client.post(
        "/v1/plugins/worker/tools/measure/run", files={"data": b"x" * size}, headers={"Prefer": "respond-async"}
    )
    second = answer.json()["run_id"]
    third = (await start(worker, "nap", size=2)).json()["run_id"]
    for _ in range(2):
        await asyncio.wait_for(shutdown(worker).complete(), SOON)
        assert len(list((worker.settings.state_dir / "waiting").iterdir())) == 2
        await next_start(worker)
    await eventually(lambda: worker.registry.get("worker").queued == 2, "both wait again")  # type: ignore[union-attr]
    assert [(await run_of(worker, run_id))["queue_position"] for run_id in (first, second, third)] == [None, 1, 2]
    go.touch()
    assert [(await result(worker, run_id)).json()["result"] for run_id in (first, second, third)] == ["x", size, "xx"]
    assert (await worker.health("worker"))["success_count"] == 3
    assert list((worker.settings.state_dir / "waiting").iterdir()) == []


async def test_a_waiting_run_whose_plugin_was_removed_has_a_result(worker: Harness, go: Path) -> None:
    """Its caller comes for it, and learns why."""
    await worker.open()
    await worker.settled("worker")
    await start(worker, "nap", until=str(go))
    waiting = (await start(worker, "nap")).json()["run_id"]
    await shutdown(worker).complete()
    await worker.shut(containers_stay=True)
    (worker.plugins / "worker" / "plugin.yaml").unlink()
    await worker.open()
    answer = await result(worker, waiting)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "UnknownPlugin")


async def test_a_stored_call_keeps_what_its_caller_prefers(tmp_path: Path) -> None:
    """Also one that an older orchestrator stored, which knew no retries."""
    store = CallStore(tmp_path)
    call = ToolCall("cut", "a" * 32, "application/json", b"{}", keep=True, retry=True)
    assert await store.save(call)
    stored = (tmp_path / call.run_id).read_bytes()
    assert store.take() == {call.run_id: call}
    (tmp_path / call.run_id).write_bytes(stored.replace(b',"retry":true', b""))
    assert store.take() == {call.run_id: replace(call, retry=False)}


async def test_files_of_another_form_are_no_calls(tmp_path: Path) -> None:
    """They are removed, and harm nobody."""
    store, call = CallStore(tmp_path), ToolCall("cut", "a" * 32, "application/json", b"{}", keep=True)
    assert store.take() == {}
    assert await store.save(call)
    for name, content in {
        "b" * 32: b"",
        "c" * 32: b'{"tool": 1}\n',
        "d" * 32: b"\0" * 100,
        "e" * 32 + ".part": b"x",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert store.take() == {call.run_id: call}
    assert list(tmp_path.iterdir()) == []


async def test_a_call_that_cannot_be_stored_is_interrupted(worker: Harness, go: Path) -> None:
    """Not for ever in flight."""
    await worker.open()
    await worker.settled("worker")
    await start(worker, "nap", until=str(go))
    waiting = (await start(worker, "nap")).json()["run_id"]
    (worker.settings.state_dir / "waiting").write_bytes(b"in the way")
    await asyncio.wait_for(shutdown(worker).complete(), SOON)
    assert (await run_of(worker, waiting))["state"] == "interrupted"


async def test_with_the_containers_their_runs_are_waited_for(worker: Harness, go: Path) -> None:
    """With `--stop-plugins` nobody would find an asynchronous run again."""
    await worker.open(stop_plugins=True)
    await worker.settled("worker")
    run_id = (await start(worker, "nap", size=3, until=str(go))).json()["run_id"]
    await worker.until("worker", lambda health: health["in_flight"] == 1)
    stop = stopping(worker)
    await asyncio.sleep(0.5)
    assert not stop.done()
    go.touch()
    await asyncio.wait_for(stop, TIMEOUT * 2)
    assert (await result(worker, run_id)).json()["result"] == "xxx"
    assert await worker.containers("worker") == []


# At once


async def test_a_second_request_ends_it_at_once(worker: Harness) -> None:
    """Callers are told, containers stay, also those that were to be stopped."""
    await worker.open(stop_plugins=True)
    await worker.settled("worker")
    run = asyncio.create_task(worker.run("worker", "nap", seconds=15))
    await worker.until("worker", lambda health: health["in_flight"] == 1)
    stop = stopping(worker)
    await asyncio.sleep(0.2)
    assert not stop.done()
    shutdown(worker).hurry()
    await asyncio.wait_for(stop, SOON + 3)
    assert (await run).status_code == 503
    assert len(await worker.containers("worker")) == 1


async def test_an_engine_that_does_not_answer_holds_it_up_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The containers are left to the next start."""
    monkeypatch.setattr("orchestrator.tools.shutdown.CLOSE_SECONDS", 0.5)
    async with Harness(tmp_path, engine_bound=60) as harness:
        harness.add("reader")
        await harness.open(stop_plugins=True)
        await harness.settled("reader")
        harness.engine.set_frozen(True)
        await asyncio.wait_for(shutdown(harness).complete(), SOON)
        harness.engine.set_frozen(False)


# What is decided, and what is said


def live(*, asynchronous: bool = False, in_container: bool = False) -> LiveRun:
    record = RunRecord("a" * 32, "video", "cut", datetime.now(UTC), asynchronous=asynchronous)
    return LiveRun(record, RunWatch(), in_container=in_container)


@pytest.mark.parametrize(
    ("run", "containers_stay", "waits"),
    [
        ({}, True, True),
        ({}, False, True),
        ({"asynchronous": True, "in_container": True}, True, False),
        ({"asynchronous": True}, True, True),  # its call may still be on its way
        ({"asynchronous": True, "in_container": True}, False, True),
    ],
)
async def test_who_is_waited_for(run: dict[str, Any], containers_stay: bool, waits: bool) -> None:
    """Whoever would not be found again."""
    assert waited_for(live(**run), containers_stay=containers_stay) is waits


async def test_who_has_left_is_not_waited_for() -> None:
    run = live()
    run.note_disconnect()
    assert not waited_for(run, containers_stay=True)
    run.abort(Abort.STOPPING)
    assert waited_for(run, containers_stay=True)  # for the moment until it has ended


async def test_the_log_says_who_is_waited_for_and_until_when(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, however long it takes."""
    go_on = asyncio.Event()
    harness.add("video", tools={"cut": go_on.wait})
    await ready(harness, "video")
    run = asyncio.create_task(harness.run("video", "cut"))
    await harness.until("video", lambda health: health["in_flight"] == 1)
    with caplog.at_level(logging.INFO, "orchestrator"):
        stop = stopping(harness)
        await eventually(lambda: "waiting for" in caplog.text, "the log says so")
        await asyncio.sleep(0.3)
        go_on.set()
        answer: httpx.Response = await run
        await stop
    (line,) = [record.message for record in caplog.records if "waiting for" in record.message]
    run_id = answer.json()["run_id"][:8]
    assert line.startswith(f"stopping: waiting for run {run_id} of video, at most until ")
    assert "SIGTERM again ends at once" in line


async def test_many_runs_fit_into_the_line() -> None:
    text = sentence([live() for _ in range(7)], datetime(2026, 1, 1, 12, 3, 20, tzinfo=UTC))
    assert text.count("of video") == 3
    assert "4 more, at most until 12:03:20" in text
