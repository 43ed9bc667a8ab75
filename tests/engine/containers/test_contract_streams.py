"""Streams of every container engine: logs and events. Runs over Docker and over the memory engine."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from orchestrator.containers.spec import EngineEvent

LIFE = ("create", "start", "die", "destroy")
"""The events of a whole life that every engine reports."""


async def until_removed(events: AsyncIterator[EngineEvent], container: str) -> list[EngineEvent]:
    """The events of `container` up to its removal."""
    seen = []
    async with asyncio.timeout(20):
        async for event in events:
            if event.container_id == container:
                seen.append(event)
                if event.action == "destroy":
                    break
    return seen


async def test_logs_are_the_last_lines_with_their_times(kit):
    container = await kit.started("count")
    await kit.ended(container)
    lines = (await kit.engine.logs(container, tail=2)).splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["line 3", "line 4"]
    time_of_line = datetime.fromisoformat(lines[0].split(" ", 1)[0])
    assert abs(datetime.now(UTC) - time_of_line) < timedelta(minutes=1)
    assert len((await kit.engine.logs(container, tail=100)).splitlines()) == 5
    assert await kit.engine.logs(container, tail=0) == ""


async def test_a_long_line_is_one_line_with_one_time(kit):
    """Longer than the pieces in which an engine stores it."""
    container = await kit.started("long")
    await kit.ended(container)
    async with kit.engine.follow_logs(container, tail=100) as lines:
        followed = [line.split(" ", 1)[1] async for line in lines]
    assert followed == ["x" * 50_000, "y"]
    listed = (await kit.engine.logs(container, tail=100)).splitlines()
    assert [line.split(" ", 1)[1] for line in listed] == followed


async def test_followed_logs_start_with_the_tail_and_end_with_the_container(kit):
    container = await kit.started("count")
    await kit.ended(container)
    async with kit.engine.follow_logs(container, tail=3) as lines:
        assert [line.split(" ", 1)[1] async for line in lines] == ["line 2", "line 3", "line 4"]


async def test_followed_logs_continue_while_it_prints(kit):
    container = await kit.started("chatter")
    seen = []
    async with kit.engine.follow_logs(container, tail=0) as lines, asyncio.timeout(15):
        async for line in lines:
            seen.append(int(line.rsplit(" ", 1)[1]))
            if len(seen) == 5:
                await kit.engine.kill(container)
    assert seen == list(range(seen[0], seen[0] + len(seen)))


async def test_leaving_followed_logs_takes_no_time(kit):
    container = await kit.started("wait")
    async with kit.engine.follow_logs(container, tail=0):
        await asyncio.sleep(0.1)
        left = time.monotonic()
    assert time.monotonic() - left < 2  # not until its next event or line


async def test_events_of_a_whole_life_come_in_order(kit):
    async with kit.engine.events(kit.labels) as events:
        container = await kit.started("fail")
        await kit.ended(container)
        await kit.engine.remove(container)
        seen = await until_removed(events, container)
    seen = [event for event in seen if event.action in LIFE]
    assert [event.action for event in seen] == [*LIFE]
    assert [event.exit_code for event in seen][2] == 3
    assert all(event.labels.items() >= kit.labels.items() for event in seen)
    assert [event.time for event in seen] == sorted(event.time for event in seen)


async def test_a_stop_differs_from_an_exit_by_its_events(kit):
    async with kit.engine.events(kit.labels) as events:
        container = await kit.started("deaf")
        await kit.engine.stop(container, grace=1)
        await kit.engine.remove(container)
        seen = await until_removed(events, container)
    actions = [event.action for event in seen]
    if (await kit.engine.info()).product == "Podman":
        assert [action for action in actions if action in {*LIFE, "kill"}] == [*LIFE]
    else:
        assert actions[:4] == ["create", "start", "kill", "kill"]
        assert sorted(actions[4:6]) == ["die", "stop"]
    assert [event.exit_code for event in seen if event.action == "die"] == [137]


async def test_a_kill_from_outside_has_no_kill_event(kit):
    async with kit.engine.events(kit.labels) as events:
        container = await kit.started("deaf")
        await kit.kill_outside(container)
        await kit.ended(container)
        await kit.engine.remove(container)
        seen = await until_removed(events, container)
    assert [event.action for event in seen if event.action in {*LIFE, "kill"}] == [*LIFE]
    assert [event.exit_code for event in seen if event.action == "die"] == [137]


async def test_events_of_other_labels_are_not_delivered(kit):
    async with kit.engine.events({**kit.labels, "whose": "mine"}) as events:
        other = await kit.started("fail")
        await kit.ended(other)
        mine = await kit.engine.create(kit.spec(labels={**kit.labels, "whose": "mine"}))
        async with asyncio.timeout(10):
            first = await anext(events)
    assert (first.container_id, first.action) == (mine, "create")


async def test_events_since_a_time_are_replayed(kit):
    since = datetime.now(UTC)
    container = await kit.started("fail")
    await kit.ended(container)
    await kit.engine.remove(container)
    async with kit.engine.events(kit.labels, since=since) as events:
        seen = [event.action for event in await until_removed(events, container)]
    assert [action for action in seen if action in LIFE] == [*LIFE]


async def test_events_without_a_time_start_now(kit):
    await kit.engine.create(kit.spec())
    await asyncio.sleep(0.05)
    async with kit.engine.events(kit.labels) as events:
        await asyncio.sleep(0.1)
        container = await kit.engine.create(kit.spec())
        async with asyncio.timeout(10):
            assert (await anext(events)).container_id == container


async def test_leaving_events_takes_no_time(kit):
    async with kit.engine.events(kit.labels):
        await asyncio.sleep(0.1)
        left = time.monotonic()
    assert time.monotonic() - left < 2  # not until its next event or line
