"""Every run leaves a record, and what is counted goes on counting after the orchestrator was started anew."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from support.harness import Harness
from support.scripted_tools import InvalidInput

from orchestrator.registry.history import HistoryStore, RunRecord, RunState


def double(number: int) -> int:
    return number * 2


def fail() -> None:
    raise ZeroDivisionError("division by zero")


def refuse() -> None:
    raise InvalidInput("never")


def count() -> Iterator[int]:
    yield from range(3)


async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"


def history(harness: Harness) -> HistoryStore:
    assert harness.app is not None
    store = harness.app.state.context.history
    assert isinstance(store, HistoryStore)
    return store


async def recorded(harness: Harness, run_id: str) -> RunRecord:
    await history(harness).flush()
    run = await history(harness).run(run_id)
    assert run is not None
    return run


def reader(harness: Harness, **more: Any) -> None:
    tools = {"double": double, "fail": fail, "refuse": refuse, "count": count, "nap": nap}
    harness.add("reader", tools=tools, failure_policy="tolerant", **more)


async def test_a_run_is_on_file_when_its_caller_has_the_answer(harness: Harness) -> None:
    """Times, outcome, sizes, generation; no payload."""
    reader(harness)
    await harness.open()
    answer = await harness.run("reader", "double", number=21)
    run = await history(harness).run(answer.json()["run_id"])  # without a flush: it is there already
    assert run is not None
    assert (run.plugin, run.tool, run.state, run.outcome) == ("reader", "double", RunState.FINISHED, "ok")
    assert (run.request_bytes, run.response_bytes, run.generation) == (13, 2, 1)
    assert run.started_at is not None
    assert run.finished_at is not None
    assert run.accepted_at <= run.started_at <= run.finished_at
    assert run.execution_ms is not None
    assert not run.asynchronous


async def test_each_outcome_is_recorded(harness: Harness) -> None:
    """A failure has its code; a run that never started has no generation."""
    reader(harness)
    await harness.open()
    for tool, outcome, code in [
        ("fail", "plugin_failed", "TOOL_ERROR"),
        ("refuse", "invalid_input", None),
        ("nothing", "unknown_tool", None),
    ]:
        run = await recorded(harness, (await harness.run("reader", tool)).json()["run_id"])
        assert (run.outcome, run.reason_code) == (outcome, code)
        assert (run.generation == 0) is (tool == "nothing")


async def test_a_stream_is_recorded_with_what_it_sent(harness: Harness) -> None:
    """Its lines are its answer."""
    reader(harness)
    await harness.open()
    answer = await harness.client.post(
        "/v1/plugins/reader/tools/count/run", json={}, headers={"Accept": "application/x-ndjson"}
    )
    run = await recorded(harness, answer.headers["X-Run-Id"])
    assert run.outcome == "ok"
    assert run.response_bytes is not None
    assert run.response_bytes > 3 * len('{"event": "item"}')


async def test_a_streamed_body_is_measured(harness: Harness) -> None:
    """Whatever its length header said."""
    reader(harness)
    await harness.open()

    async def body() -> Any:
        yield b'{"number"'
        yield b": 4}"

    answer = await harness.client.post(
        "/v1/plugins/reader/tools/double/run", content=body(), headers={"Content-Type": "application/json"}
    )
    assert answer.json()["result"] == 8
    assert (await recorded(harness, answer.json()["run_id"])).request_bytes == 13


async def test_a_run_that_is_sent_away_leaves_no_record(harness: Harness) -> None:
    """It was never taken: 429."""
    reader(harness, queue=0)
    await harness.open()
    await harness.settled("reader")
    first = asyncio.create_task(harness.run("reader", "nap", seconds=1.5))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    refused = await harness.run("reader", "nap", seconds=0)
    await first
    assert refused.status_code == 429
    await history(harness).flush()
    assert [run.tool for run in await history(harness).runs()] == ["nap"]


async def test_counters_generations_and_events_go_on_after_a_new_start(harness: Harness) -> None:
    """As if the orchestrator had never been away."""
    reader(harness)
    await harness.open(stop_plugins=True)
    for number in range(3):
        await harness.run("reader", "double", number=number)
    await harness.run("reader", "fail")
    before = await harness.health("reader")
    await harness.shut()
    events = harness.registry.events()
    await harness.open()
    await harness.settled("reader")
    after = await harness.health("reader")
    for name in ("success_count", "error_count", "last_used", "last_execution_time_ms", "avg_execution_time_ms"):
        assert after[name] == before[name], name
    assert (before["generation"], after["generation"]) == (1, 2)
    assert harness.registry.events()[: len(events)] == events
    assert [event.id for event in harness.registry.events()] == list(range(1, len(harness.registry.events()) + 1))
    await harness.run("reader", "double", number=1)
    assert (await harness.health("reader"))["success_count"] == 4


async def test_readiness_waits_for_the_first_instance_of_every_start(harness: Harness) -> None:
    """Also where there were others before it."""
    reader(harness, start=[(0.2, {"phase": "ready"})])
    await harness.open(stop_plugins=True)
    await harness.settled("reader")
    await harness.shut()
    await harness.open()
    assert (await harness.client.get("/readyz")).json() == {"status": "starting", "waiting_for": ["reader"]}
    await harness.settled("reader")
    assert (await harness.client.get("/readyz")).status_code == 200


@pytest.mark.slow
async def test_history_that_cannot_be_written_stops_no_run(harness: Harness) -> None:
    """The orchestrator's own health says what is wrong, and that it is well again."""
    (harness.settings.state_dir / "history.sqlite3").mkdir(parents=True)
    reader(harness)
    await harness.open()
    assert (await harness.run("reader", "double", number=2)).json()["result"] == 4
    body = (await harness.client.get("/healthz")).json()
    assert body["status"] == "ok"
    assert "History is not being written" in body["history"]["problem"]
    (harness.settings.state_dir / "history.sqlite3").rmdir()
    async with asyncio.timeout(15):
        while body["history"]["problem"] is not None:
            await asyncio.sleep(0.1)
            body = (await harness.client.get("/healthz")).json()
    assert body["history"]["lost"] == 0
    assert [run.tool for run in await history(harness).runs()] == ["double"]
