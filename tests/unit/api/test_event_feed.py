"""EventFeed and its subscriptions: no event is lost or sent twice, and a slow reader holds no memory."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.types import Message

from orchestrator.api.event_feed import EventFeed, Subscription, TooManyReadersError
from orchestrator.api.sse import UntilShutdownResponse
from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.registry import LifecycleEvent, PluginRecord, PluginRegistry

ROUNDS = 100


def registry_with(*names: str) -> PluginRegistry:
    registry = PluginRegistry()
    for name in names:
        registry.register(PluginRecord(name, "1", "", PluginLifecycleState.LOADED, datetime.now(UTC)))
    return registry


async def nothing() -> AsyncIterator[LifecycleEvent]:
    for event in ():
        yield event


async def retained(registry: PluginRegistry, after: int) -> AsyncIterator[LifecycleEvent]:
    for event in registry.events(after=after):
        yield event


def ids(frames: list[bytes]) -> list[int]:
    return [int(line[4:]) for frame in frames for line in frame.splitlines() if line.startswith(b"id: ")]


async def read(subscription: Subscription, registry: PluginRegistry, until: int) -> list[int]:
    """The ids that a reader is sent, up to `until`."""
    seen: list[int] = []
    async with asyncio.timeout(10):
        async for frame in subscription.frames(retained(registry, subscription.after)):
            seen += ids([frame])
            if seen and seen[-1] >= until:
                break
    return seen


async def test_events_of_many_threads_are_sent_once_and_in_order() -> None:
    """To a reader from the start and to one that resumes in the middle."""
    names = [f"plugin-{number}" for number in range(8)]
    registry = registry_with(*names)
    feed = EventFeed(registry, max_readers=10)
    last = len(names) * ROUNDS
    with feed.running(), ThreadPoolExecutor(len(names)) as threads:
        first = asyncio.create_task(read(feed.subscribe(sees=bool, after=0, health=False), registry, last))
        writing = [threads.submit(lambda n=name: [registry.renew(n) for _ in range(ROUNDS)]) for name in names]
        await asyncio.sleep(0.01)
        second = asyncio.create_task(read(feed.subscribe(sees=bool, after=5, health=False), registry, last))
        for work in writing:
            await asyncio.wrap_future(work)
        assert await first == list(range(1, last + 1))
        assert await second == list(range(6, last + 1))


async def test_a_slow_reader_is_cut_with_a_reason() -> None:
    """Its backlog is freed at once; what was sent before stays sent."""
    registry = registry_with("reader")
    feed = EventFeed(registry, max_readers=1)
    with feed.running():
        subscription = feed.subscribe(sees=bool, after=None, health=True)
        stream = subscription.frames(nothing())
        await anext(stream)
        for _ in range(1200):
            registry.renew("reader")
        await asyncio.sleep(0.01)
        assert not subscription._events and not subscription._health
        (last,) = [frame async for frame in stream]
        assert last.startswith(b"event: cut\ndata: {")
        assert b"Last-Event-ID" in last


async def test_a_reader_of_one_plugin_gets_no_events_of_others() -> None:
    """However busy they are: a reader of one plugin is not cut because of another."""
    registry = registry_with("busy", "quiet")
    feed = EventFeed(registry, max_readers=1)
    with feed.running():
        subscription = feed.subscribe(sees="quiet".__eq__, after=None, health=False)
        for _ in range(1200):
            registry.renew("busy")
        registry.renew("quiet")
        assert await read(subscription, registry_with(), 1201) == [1201]


async def test_readers_are_bounded_and_a_closed_one_makes_room() -> None:
    feed = EventFeed(registry_with(), max_readers=1)
    with feed.running():
        subscription = feed.subscribe(sees=bool, after=None, health=True)
        with pytest.raises(TooManyReadersError):
            feed.subscribe(sees=bool, after=None, health=False)
        subscription.close()
        subscription.close()
        feed.subscribe(sees=bool, after=None, health=False)
    assert feed._health_task is None


async def test_a_write_after_the_loop_ended_harms_nobody() -> None:
    """Writing an event never fails because of its readers."""
    registry = registry_with("reader")

    def other_loop() -> Any:
        async def follow() -> Any:
            context = EventFeed(registry, max_readers=1).running()
            context.__enter__()
            return context

        return asyncio.run(follow())

    left_open = await asyncio.to_thread(other_loop)
    registry.renew("reader")
    assert registry.last_event_id == 1
    left_open.__exit__(None, None, None)


async def test_a_reader_that_takes_nothing_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    """After the write timeout; its subscription is closed then."""
    ended: list[bool] = []

    async def unbounded() -> AsyncIterator[bytes]:
        while True:
            yield b"x"

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    response = UntilShutdownResponse(
        unbounded(), asyncio.Event(), write_timeout=0.05, on_end=lambda: ended.append(True)
    )
    async with asyncio.timeout(2):
        await response({"type": "http"}, receive, send)
    assert ended == [True]
