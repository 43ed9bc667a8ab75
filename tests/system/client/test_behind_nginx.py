"""A real nginx before the whole orchestrator, with its defaults.

For the tests that wait, its patience is 3 s in place of 60, and all else shorter to match. With `--proxy-patience` the
defaults are waited for, which takes two minutes and a half.
"""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from support.harness import Harness
from support.nginx import needs_nginx, nginx_before

from orchestrator.api import body, sse
from orchestrator.client import AsyncClient, End, Item, UnexpectedAnswer, operations

pytestmark = [needs_nginx, pytest.mark.slow]

AT_ONCE = 0.2
"""Seconds after which what was yielded has arrived."""
SHORT = "proxy_read_timeout 3s; proxy_send_timeout 3s;"
LONGER = 4
"""Seconds, more than that."""


class Clock:
    """When a tool yielded what."""

    def __init__(self) -> None:
        self.yielded: list[float] = []
        self.go = asyncio.Event()

    async def pages(self, count: int = 5, pause: float = 0.5) -> AsyncIterator[Any]:
        for number in range(count):
            self.yielded.append(time.monotonic())
            yield number
            await asyncio.sleep(pause)

    async def think(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "thought"

    async def think_twice(self, seconds: float) -> AsyncIterator[str]:
        await asyncio.sleep(seconds)
        yield "first"
        await asyncio.sleep(seconds)
        yield "second"


def weigh(file: bytes) -> int:
    return len(file)


def tools(clock: Clock) -> dict[str, Any]:
    return {
        "pages": clock.pages,
        "think": clock.think,
        "think_twice": clock.think_twice,
        "weigh": weigh,
    }


@pytest.fixture
async def clock(harness: Harness) -> Clock:
    """The orchestrator, open, with a plugin whose tools tell when they yield."""
    clock = Clock()
    harness.add("reader", tools=tools(clock), concurrency=4)
    harness.add("slow", tools={"never": lambda: 1}, start=[(0.0, {"phase": "starting"}), (LONGER, {"phase": "ready"})])
    await harness.open()
    await harness.settled("reader")
    return clock


def address(harness: Harness) -> str:
    return str(harness.client.base_url)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> str:
    """nginx waits for 3 s, the orchestrator is silent for 0.5 s at most, the client asks for 1 s at most."""
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr(operations, "_MAX_WAIT", 1.0)
    monkeypatch.setattr(operations, "_COMMAND_WAIT", 0.5)
    return SHORT


# What is yielded arrives at once


def late(clock: Clock, arrived: list[float]) -> float:
    """Seconds by which the last of the items came late: the median, as this machine may be held up for a moment."""
    delays = sorted(there - sent for sent, there in zip(clock.yielded, arrived, strict=True))
    return delays[len(delays) // 2]


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_items_of_a_stream_arrive_as_they_are_yielded(harness: Harness, clock: Clock, accept: str) -> None:
    path = "/v1/plugins/reader/tools/pages/run"
    arrived = []
    with nginx_before(address(harness)) as proxy:
        async with (
            httpx.AsyncClient(base_url=proxy, trust_env=False) as client,
            client.stream("POST", path, json={}, headers={"accept": accept, "accept-encoding": "gzip"}) as answer,
        ):
            async for line in answer.aiter_lines():
                if '"item"' in line:
                    arrived.append(time.monotonic())
    assert late(clock, arrived) < AT_ONCE


async def test_the_client_has_them_as_soon(harness: Harness, clock: Clock) -> None:
    arrived = []
    with nginx_before(address(harness)) as proxy:
        async with AsyncClient(proxy) as client:
            async for event in client.stream("reader", "pages"):
                if isinstance(event, Item):
                    arrived.append(time.monotonic())
    assert late(clock, arrived) < AT_ONCE


async def test_lines_of_a_followed_log_and_events_arrive_as_they_happen(harness: Harness, clock: Clock) -> None:
    with nginx_before(address(harness)) as proxy:
        async with AsyncClient(proxy) as client, asyncio.timeout(20):
            async with aclosing(client.logs("reader", follow=True)) as lines:
                harness.instance("reader").handle.log("first")
                await anext(lines)
                sent = time.monotonic()
                harness.instance("reader").handle.log("second")
                assert (await anext(lines)).endswith("second")
                assert time.monotonic() - sent < 5 * AT_ONCE
            async with aclosing(client.events("reader", limit=1, follow=True)) as events:
                await anext(events)
                following = asyncio.ensure_future(anext(events))
                await harness.until("reader", lambda _: harness.app.state.context.feed.readers == 1)  # type: ignore[union-attr]
                sent = time.monotonic()
                await harness.client.post("/v1/plugins/reader/stop")
                assert (await following)["reason_code"] == "STOPPED"


# What is silent for longer than nginx waits


async def test_a_run_that_takes_longer_than_the_proxy_waits_comes_back(
    harness: Harness, clock: Clock, patience: str
) -> None:
    with nginx_before(address(harness), patience) as proxy:
        async with AsyncClient(proxy) as client:
            handle = await client.run_async("reader", "think", seconds=LONGER)

            async def streamed() -> Any:
                *_, end = [event async for event in client.stream("reader", "think", seconds=LONGER)]
                assert isinstance(end, End)
                return end.envelope["result"]

            found = await asyncio.gather(client.run("reader", "think", seconds=LONGER), handle.result(), streamed())
    assert found == ["thought", "thought", "thought"]


async def test_a_generator_that_thinks_for_longer_lives(harness: Harness, clock: Clock, patience: str) -> None:
    with nginx_before(address(harness), patience) as proxy:
        async with AsyncClient(proxy) as client:

            async def streamed() -> list[Any]:
                events = client.stream("reader", "think_twice", seconds=LONGER)
                return [event.data async for event in events if isinstance(event, Item)]

            found = await asyncio.gather(streamed(), client.run("reader", "think_twice", seconds=LONGER))
    assert found == [["first", "second"], ["first", "second"]]


async def test_so_do_a_log_and_events_of_which_nothing_comes(harness: Harness, clock: Clock, patience: str) -> None:
    with nginx_before(address(harness), patience) as proxy:
        async with httpx.AsyncClient(base_url=proxy, trust_env=False, timeout=30) as client:

            async def lived(path: str) -> bool:
                async with client.stream("GET", path, headers={"accept": "text/event-stream"}) as answer:
                    began = time.monotonic()
                    async for _ in answer.aiter_bytes():
                        if time.monotonic() - began > LONGER:
                            return True
                return False

            assert await asyncio.gather(lived("/v1/plugins/reader/logs?follow=true"), lived("/v1/events")) == [
                True,
                True,
            ]


async def test_an_upload_that_waits_in_the_queue_for_longer_is_made(
    harness: Harness, clock: Clock, patience: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nginx gives up a body that nobody takes from it, so the orchestrator stores it meanwhile."""
    monkeypatch.setattr(body, "SPOOL_AFTER", 1.0)
    harness.add("single", tools=tools(clock), concurrency=1)
    with nginx_before(address(harness), f"{patience} client_max_body_size 0;") as proxy:
        async with AsyncClient(proxy, retries=0) as client:
            await client.start("single")
            first = asyncio.create_task(client.run("single", "think", seconds=LONGER))
            await harness.until("single", lambda health: health["in_flight"] == 1)
            assert await client.run("single", "weigh", file=io.BytesIO(b"x" * 30_000_000)) == 30_000_000
            assert await first == "thought"


async def test_a_start_that_takes_longer_is_waited_for(harness: Harness, clock: Clock, patience: str) -> None:
    with nginx_before(address(harness), patience) as proxy:
        async with AsyncClient(proxy, retries=0) as client:
            assert (await client.start("slow", wait=30))["state"] == "INITIALIZED"
            assert (await client.restart("slow", wait=30))["state"] == "INITIALIZED"


# What nginx itself answers


async def test_a_body_that_nginx_refuses_is_told_from_one_that_the_orchestrator_refuses(
    harness: Harness, clock: Clock
) -> None:
    with nginx_before(address(harness)) as proxy:
        async with AsyncClient(proxy) as client:
            with pytest.raises(UnexpectedAnswer, match=r"413.*A proxy before it refuses.*client_max_b") as caught:
                await client.run("reader", "weigh", file=io.BytesIO(b"x" * 20_000_000))
    assert caught.value.status == 413


async def test_that_no_orchestrator_is_there_is_the_word_of_nginx() -> None:
    with nginx_before("http://127.0.0.1:9") as proxy:  # a port that nobody listens at: 502
        async with AsyncClient(proxy, retries=0) as client:
            with pytest.raises(UnexpectedAnswer, match=r"502.*A proxy may have answered in its stead"):
                await client.plugins()


# As nginx is, by default


@pytest.mark.timeout(400)
async def test_a_run_of_90_seconds_and_a_silence_of_70(
    harness: Harness, clock: Clock, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--proxy-patience"):
        pytest.skip("takes two minutes and a half: --proxy-patience")
    harness.add("patient", tools=tools(Clock()), concurrency=8, limits={"timeout": "300s"})
    with nginx_before(address(harness)) as proxy:
        async with AsyncClient(proxy) as client:
            await client.start("patient")

            async def streamed() -> list[Any]:
                events = client.stream("patient", "think_twice", seconds=70)
                return [event.data async for event in events if isinstance(event, Item)]

            handle = await client.run_async("patient", "think", seconds=90)
            run, result, stream = await asyncio.gather(
                client.run("patient", "think", seconds=90), handle.result(), streamed()
            )
    assert (run, result, stream) == ("thought", "thought", ["first", "second"])
