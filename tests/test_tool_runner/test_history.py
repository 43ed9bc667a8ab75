"""Every run leaves a record, and what is counted goes on counting after the orchestrator was started anew."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from support.house import House
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


def history(house: House) -> HistoryStore:
    assert house.app is not None
    store = house.app.state.context.history
    assert isinstance(store, HistoryStore)
    return store


async def recorded(house: House, run_id: str) -> RunRecord:
    await history(house).flush()
    run = await history(house).run(run_id)
    assert run is not None
    return run


def reader(house: House, **more: Any) -> None:
    tools = {"double": double, "fail": fail, "refuse": refuse, "count": count, "nap": nap}
    house.add("reader", tools=tools, failure_policy="tolerant", **more)


async def test_a_run_is_on_file_when_its_caller_has_the_answer(house: House) -> None:
    """Times, outcome, sizes, generation; no payload."""
    reader(house)
    await house.open()
    answer = await house.run("reader", "double", number=21)
    run = await history(house).run(answer.json()["run_id"])  # without a flush: it is there already
    assert run is not None
    assert (run.plugin, run.tool, run.state, run.outcome) == ("reader", "double", RunState.FINISHED, "ok")
    assert (run.request_bytes, run.response_bytes, run.generation) == (13, 2, 1)
    assert run.started_at is not None
    assert run.finished_at is not None
    assert run.accepted_at <= run.started_at <= run.finished_at
    assert run.execution_ms is not None
    assert not run.asynchronous


async def test_each_outcome_is_recorded(house: House) -> None:
    """A failure has its code; a run that never started has no generation."""
    reader(house)
    await house.open()
    for tool, outcome, code in [
        ("fail", "plugin_failed", "TOOL_ERROR"),
        ("refuse", "invalid_input", None),
        ("nothing", "unknown_tool", None),
    ]:
        run = await recorded(house, (await house.run("reader", tool)).json()["run_id"])
        assert (run.outcome, run.reason_code) == (outcome, code)
        assert (run.generation == 0) is (tool == "nothing")


async def test_a_stream_is_recorded_with_what_it_sent(house: House) -> None:
    """Its lines are its answer."""
    reader(house)
    await house.open()
    answer = await house.client.post(
        "/v1/plugins/reader/tools/count/run", json={}, headers={"Accept": "application/x-ndjson"}
    )
    run = await recorded(house, answer.headers["X-Run-Id"])
    assert run.outcome == "ok"
    assert run.response_bytes is not None
    assert run.response_bytes > 3 * len('{"event": "item"}')


async def test_a_streamed_body_is_measured(house: House) -> None:
    """Whatever its length header said."""
    reader(house)
    await house.open()

    async def body() -> Any:
        yield b'{"number"'
        yield b": 4}"

    answer = await house.client.post(
        "/v1/plugins/reader/tools/double/run", content=body(), headers={"Content-Type": "application/json"}
    )
    assert answer.json()["result"] == 8
    assert (await recorded(house, answer.json()["run_id"])).request_bytes == 13


async def test_a_run_that_is_sent_away_leaves_no_record(house: House) -> None:
    """It was never taken: 429."""
    reader(house, queue=0)
    await house.open()
    await house.settled("reader")
    first = asyncio.create_task(house.run("reader", "nap", seconds=1.5))
    await house.until("reader", lambda health: health["in_flight"] == 1)
    refused = await house.run("reader", "nap", seconds=0)
    await first
    assert refused.status_code == 429
    await history(house).flush()
    assert [run.tool for run in await history(house).runs()] == ["nap"]


async def test_counters_generations_and_events_go_on_after_a_new_start(house: House) -> None:
    """As if the orchestrator had never been away."""
    reader(house)
    await house.open(stop_plugins=True)
    for number in range(3):
        await house.run("reader", "double", number=number)
    await house.run("reader", "fail")
    before = await house.health("reader")
    await house.shut()
    events = house.registry.events()
    await house.open()
    await house.settled("reader")
    after = await house.health("reader")
    for name in ("success_count", "error_count", "last_used", "last_execution_time_ms", "avg_execution_time_ms"):
        assert after[name] == before[name], name
    assert (before["generation"], after["generation"]) == (1, 2)
    assert house.registry.events()[: len(events)] == events
    assert [event.id for event in house.registry.events()] == list(range(1, len(house.registry.events()) + 1))
    await house.run("reader", "double", number=1)
    assert (await house.health("reader"))["success_count"] == 4


async def test_readiness_waits_for_the_first_instance_of_every_start(house: House) -> None:
    """Also where there were others before it."""
    reader(house, start=[(0.2, {"phase": "ready"})])
    await house.open(stop_plugins=True)
    await house.settled("reader")
    await house.shut()
    await house.open()
    assert (await house.client.get("/readyz")).json() == {"status": "starting", "waiting_for": ["reader"]}
    await house.settled("reader")
    assert (await house.client.get("/readyz")).status_code == 200


@pytest.mark.slow
async def test_history_that_cannot_be_written_stops_no_run(house: House) -> None:
    """The orchestrator's own health says what is wrong, and that it is well again."""
    (house.settings.state_dir / "history.sqlite3").mkdir(parents=True)
    reader(house)
    await house.open()
    assert (await house.run("reader", "double", number=2)).json()["result"] == 4
    body = (await house.client.get("/healthz")).json()
    assert body["status"] == "ok"
    assert "History is not being written" in body["history"]["problem"]
    (house.settings.state_dir / "history.sqlite3").rmdir()
    async with asyncio.timeout(15):
        while body["history"]["problem"] is not None:
            await asyncio.sleep(0.1)
            body = (await house.client.get("/healthz")).json()
    assert body["history"]["lost"] == 0
    assert [run.tool for run in await history(house).runs()] == ["double"]
