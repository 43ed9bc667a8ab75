"""A stream that is silent is not dead: heartbeats keep what stands between from closing it, from acceptance on."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.harness import Harness
from support.scripted_tools import InvalidInput

from orchestrator.api import sse

ROUTE = "/v1/plugins/reader/tools/read/run"
NDJSON = {"accept": "application/x-ndjson"}
SSE = {"accept": "text/event-stream"}
HEARTBEAT = {"event": "heartbeat"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)


class Gate:
    """Tools that go on when the test lets them."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def pages(self) -> AsyncIterator[int]:
        await self.opened.wait()
        yield 1

    async def read(self) -> int:
        await self.opened.wait()
        return 7

    async def refuse(self) -> int:
        await self.opened.wait()
        raise InvalidInput("no page in it")


async def lines_of(answer: httpx.Response, gate: Gate, *, heartbeats: int = 2) -> list[dict[str, Any]]:
    """All events of a stream; the gate opens after so many heartbeats."""
    lines = []
    async for line in answer.aiter_lines():
        lines.append(json.loads(line))
        if len(lines) == heartbeats:
            gate.opened.set()
    return lines


async def test_a_generator_that_thinks_is_heard_before_its_first_item(harness: Harness) -> None:
    gate = Gate()
    harness.add("reader", tools={"read": gate.pages})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        lines = await lines_of(answer, gate)
    assert lines[:2] == [HEARTBEAT, HEARTBEAT]
    item, end = (line for line in lines if line != HEARTBEAT)
    assert item == {"event": "item", "data": 1}
    assert (end["event"], end["status"], end["ok"]) == ("end", 200, True)


async def test_and_between_two_items(harness: Harness) -> None:
    gate = Gate()

    async def read() -> AsyncIterator[int]:
        yield 0
        await gate.opened.wait()
        yield 1

    harness.add("reader", tools={"read": read})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        lines = await lines_of(answer, gate, heartbeats=4)
    data = [line.get("data") for line in lines[:-1]]
    assert data.count(None) >= 2 and [value for value in data if value is not None] == [0, 1]


async def test_server_sent_events_have_comments(harness: Harness) -> None:
    """Which every reader of them skips."""
    gate = Gate()
    harness.add("reader", tools={"read": gate.pages})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=SSE) as answer:
        text = ""
        async for piece in answer.aiter_text():
            text += piece
            gate.opened.set()
    frames = text.strip().split("\n\n")
    assert frames[0].startswith(":")
    kinds = [frame.partition("\n")[0] for frame in frames if not frame.startswith(":")]
    assert kinds == ["event: item", "event: end"]


@pytest.mark.parametrize("before", ["queue", "start"])
async def test_a_run_that_waits_is_heard_too(harness: Harness, before: str) -> None:
    """In the queue, and for an instance that starts."""
    gate = Gate()
    start = [(0.0, {"phase": "starting"}), (0.5, {"phase": "ready"})] if before == "start" else None
    harness.add("reader", tools={"read": gate.pages, "hold": gate.read}, start=start)
    client = await harness.open()
    holding = None
    if before == "queue":
        await harness.settled("reader")
        holding = asyncio.create_task(harness.run("reader", "hold"))
        await harness.until("reader", lambda health: health["in_flight"] == 1)
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        lines = await lines_of(answer, gate)
    assert lines[:2] == [HEARTBEAT, HEARTBEAT]
    assert lines[-1]["ok"]
    if holding is not None:
        assert (await holding).json()["result"] == 7


async def test_a_tool_that_does_not_stream_has_its_result_in_the_last_line(harness: Harness) -> None:
    """Where it has taken so long that its stream has begun."""
    gate = Gate()
    harness.add("reader", tools={"read": gate.read})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        lines = await lines_of(answer, gate)
    assert answer.status_code == 200
    assert (lines[0], lines[-1]["event"], lines[-1]["result"]) == (HEARTBEAT, "end", 7)


async def test_an_error_after_a_heartbeat_has_its_status_in_the_last_line(harness: Harness) -> None:
    gate = Gate()
    harness.add("reader", tools={"read": gate.refuse})
    client = await harness.open()
    async with client.stream("POST", ROUTE, json={}, headers=NDJSON) as answer:
        lines = await lines_of(answer, gate)
    end = lines[-1]
    assert (answer.status_code, end["status"], end["ok"], end["error"]) == (200, 422, False, "no page in it")


async def test_an_error_before_the_first_heartbeat_has_its_own_status(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 60)
    gate = Gate()
    gate.opened.set()
    harness.add("reader", tools={"read": gate.refuse})
    client = await harness.open()
    assert (await client.post(ROUTE, json={}, headers=NDJSON)).status_code == 422


async def test_no_stream_begins_while_the_body_still_comes(harness: Harness) -> None:
    """A proxy would stop sending the rest; and what is wrong with the body has its status."""

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b" " * 200_000
            await asyncio.sleep(0.05)

    harness.add("reader", tools={"read": lambda: 1}, limits={"scratch": "64KiB"})
    client = await harness.open()
    answer = await client.post(ROUTE, content=slowly(), headers={**NDJSON, "content-type": "application/json"})
    assert (answer.status_code, answer.json()["error_type"]) == (413, "TooLarge")


async def test_a_log_that_is_followed_has_empty_lines(harness: Harness) -> None:
    """No line of a log is empty: each begins with its time."""
    harness.add("reader", tools={"read": lambda: 1})
    client = await harness.open()
    await harness.settled("reader")
    harness.instance("reader").handle.log("first")
    async with client.stream("GET", "/v1/plugins/reader/logs", params={"follow": "true"}) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).endswith("first")
        assert [await anext(lines), await anext(lines)] == ["", ""]
        harness.instance("reader").handle.log("second")
        assert (await anext(line async for line in lines if line)).endswith("second")
        await client.post("/v1/plugins/reader/stop")
        # It goes on with the next instance, if there is one.
        assert "STOPPED" in await anext(line async for line in lines if line)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", ROUTE, NDJSON),
        ("POST", ROUTE, SSE),
        ("GET", "/v1/plugins/reader/logs?follow=true", {}),
        ("GET", "/v1/events", SSE),
        ("GET", "/v1/plugins/reader/events", SSE),
    ],
)
async def test_every_stream_asks_proxies_to_pass_it_on_at_once(
    harness: Harness, method: str, path: str, headers: dict[str, str]
) -> None:
    gate = Gate()
    harness.add("reader", tools={"read": gate.pages})
    client = await harness.open()
    await harness.settled("reader")
    body = {} if method == "POST" else None
    async with client.stream(method, path, json=body, headers=headers) as answer:
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-store, no-transform"
        gate.opened.set()
