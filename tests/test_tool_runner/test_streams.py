"""Streaming tools: what they yield comes as it is yielded, as NDJSON, as server-sent events, or collected."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from support.harness import Harness, eventually
from support.scripted_tools import InvalidInput

ROUTE = "/v1/plugins/reader/tools/read/run"
NDJSON = {"accept": "application/x-ndjson"}


async def pages() -> AsyncIterator[object]:
    yield {"event": "progress", "fraction": 0.5, "message": "page 1 of 2"}
    yield {"page": 1}
    yield {"page": 2}


async def test_lines_come_while_the_tool_runs(harness: Harness) -> None:
    """Each before the next is made; the last holds the envelope."""
    seen = asyncio.Event()

    async def read() -> AsyncIterator[int]:
        yield 1
        await seen.wait()
        yield 2

    harness.add("reader", tools={"read": read})
    client = await harness.open()
    lines = []
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        async for line in answer.aiter_lines():
            lines.append(json.loads(line))
            seen.set()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert lines[:2] == [{"event": "item", "data": 1}, {"event": "item", "data": 2}]
    end = lines[2]
    assert (end["event"], end["ok"], end["source"], end["run_id"]) == (
        "end",
        True,
        "plugin",
        answer.headers["X-Run-Id"],
    )
    assert (await harness.health("reader"))["success_count"] == 1


async def test_the_same_as_server_sent_events(harness: Harness) -> None:
    """Each line is an event of its name."""
    harness.add("reader", tools={"read": pages})
    client = await harness.open()
    answer = await client.post(ROUTE, json={}, headers={"accept": "text/event-stream"})
    events = [frame.split("\n") for frame in answer.text.strip().split("\n\n")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _ in events] == ["event: progress", "event: item", "event: item", "event: end"]
    assert json.loads(events[0][1].removeprefix("data: "))["fraction"] == 0.5
    assert json.loads(events[1][1].removeprefix("data: "))["data"] == {"page": 1}


async def test_without_asking_for_a_stream_the_items_are_collected(harness: Harness) -> None:
    """A list in the usual envelope, without the progress."""
    harness.add("reader", tools={"read": pages})
    await harness.open()
    answer = await harness.run("reader", "read")
    assert answer.json()["result"] == [{"page": 1}, {"page": 2}]


@pytest.mark.parametrize("headers", [NDJSON, {}])
async def test_of_no_items_at_all_the_result_is_an_empty_list(harness: Harness, headers: dict[str, str]) -> None:
    """Whether it was requested as a stream or not."""

    async def read() -> AsyncIterator[object]:
        for nothing in ():
            yield nothing

    harness.add("reader", tools={"read": read})
    client = await harness.open()
    answer = await client.post(ROUTE, json={}, headers=headers)
    assert answer.json()["result"] == []


async def test_a_tool_that_does_not_stream_answers_plainly(harness: Harness) -> None:
    """Whatever the caller would accept."""
    harness.add("reader", tools={"read": lambda: 7})
    client = await harness.open()
    answer = await client.post(ROUTE, json={}, headers=NDJSON)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"] == 7


async def test_what_is_wrong_before_the_first_line_has_its_status(harness: Harness) -> None:
    """422 and 404 are plain answers there too."""
    harness.add("reader", tools={"read": pages})
    client = await harness.open()
    wrong = await client.post(ROUTE, json={"colour": "red"}, headers=NDJSON)
    unknown = await client.post("/v1/plugins/reader/tools/write/run", json={}, headers=NDJSON)
    nobody = await client.post("/v1/plugins/nobody/tools/write/run", json={}, headers=NDJSON)
    assert [a.status_code for a in (wrong, unknown, nobody)] == [422, 404, 404]


async def test_a_tool_that_raises_in_the_middle_says_so_in_its_last_line(harness: Harness) -> None:
    """The status has been sent; the last line says it, and the plugin is FAILED."""

    async def read() -> AsyncIterator[int]:
        yield 1
        raise ValueError("page 2 is blank")

    harness.add("reader", tools={"read": read})
    client = await harness.open()
    answer = await client.post(ROUTE, json={}, headers=NDJSON)
    last = json.loads(answer.text.splitlines()[-1])
    assert (last["event"], last["ok"], last["reason_code"], last["error"]) == (
        "end",
        False,
        "TOOL_ERROR",
        "page 2 is blank",
    )
    assert (await harness.until_state("reader", "FAILED"))["reason_code"] == "TOOL_ERROR"


async def test_a_tool_that_refuses_in_the_middle_goes_on_living(harness: Harness) -> None:
    """`InvalidInput` is the caller's fault, also after the first line."""

    async def read() -> AsyncIterator[int]:
        yield 1
        raise InvalidInput("page 2 is no picture")

    harness.add("reader", tools={"read": read})
    client = await harness.open()
    answer = await client.post(ROUTE, json={}, headers=NDJSON)
    last = json.loads(answer.text.splitlines()[-1])
    assert (last["ok"], last["reason_code"], last["error"]) == (False, None, "page 2 is no picture")
    assert (await harness.health("reader"))["state"] == "RUNNING"


async def test_a_plugin_that_dies_in_the_middle_says_why_in_its_last_line(harness: Harness) -> None:
    """The reader's stream ends in order."""

    async def read() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    harness.add("reader", tools={"read": read})
    client = await harness.open()
    lines = []
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        async for line in answer.aiter_lines():
            lines.append(json.loads(line))
            if len(lines) == 1:
                await harness.instance("reader").worker_exits(signal=9, oom_kills=1)
    assert (lines[-1]["event"], lines[-1]["reason_code"]) == ("end", "OUT_OF_MEMORY")


async def test_a_reader_that_leaves_ends_the_run_and_not_the_plugin(harness: Harness) -> None:
    """The tool is stopped, its slot is free, nothing counts as an error."""
    stopped = asyncio.Event()

    async def read() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0.01)
        finally:
            stopped.set()

    harness.add("reader", tools={"read": read, "double": lambda number: number * 2})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        async for _ in answer.aiter_lines():
            break
    await eventually(stopped.is_set, "the tool was stopped")
    health = await harness.until("reader", lambda health: health["in_flight"] == 0)
    assert (health["state"], health["error_count"]) == ("RUNNING", 0)
    assert (await harness.run("reader", "double", number=2)).json()["result"] == 4


@pytest.mark.slow
async def test_a_tool_whose_reader_left_holds_its_slot_until_it_ends(harness: Harness) -> None:
    """One that never comes to its next line is found at its deadline, as if its reader were there."""

    async def read() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    harness.add("reader", tools={"read": read}, limits={"timeout": "2s"})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        await anext(answer.aiter_lines())
    await asyncio.sleep(0.2)
    assert (await harness.health("reader"))["in_flight"] == 1
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "TIMEOUT"


@pytest.mark.slow
async def test_a_slow_reader_costs_the_plugin_nothing(harness: Harness) -> None:
    """It may take longer over the lines than the tool may over making them."""

    rested = False
    made = 0

    async def read() -> AsyncIterator[str]:
        nonlocal made
        while not rested:  # so that it is held up when the reader goes on, and little is left to do then
            made += 1
            yield "x" * 100_000

    harness.add("reader", tools={"read": read}, limits={"timeout": "1500ms"})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        await asyncio.sleep(2)
        rested = True
        rest = [json.loads(line) async for line in lines]
    assert (len(rest), rest[-1]["event"], rest[-1]["ok"]) == (made, "end", True)
    assert rest[-1]["execution_time_ms"] > 1500
    assert (await harness.health("reader"))["state"] == "RUNNING"


async def test_a_slow_reader_holds_up_the_tool_and_not_the_orchestrator(harness: Harness) -> None:
    """What nobody has read yet does not pile up without end."""
    made = 0

    async def read() -> AsyncIterator[str]:
        nonlocal made
        for _ in range(2000):
            made += 1
            yield "x" * 100_000

    harness.add("reader", tools={"read": read})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        await asyncio.sleep(0.3)
        assert made < 500
        await answer.aclose()
