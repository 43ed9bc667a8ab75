"""Faults set on the memory engine: it fails as Docker does."""

import asyncio
import time

import pytest
from support.waiting import eventually

from orchestrator.containers.memory import MemoryEngine
from orchestrator.containers.spec import ContainerSpec, DeviceGrant
from orchestrator.errors import EngineRefusedError, EngineUnreachableError


@pytest.fixture
async def engine():
    engine = MemoryEngine(bound=0.2, device_drivers=("nvidia",))

    async def program(spec, handle):
        await handle.terminated()
        return 0

    engine.add_image("i", program)
    yield engine
    await engine.close()


def spec(**changes):
    return ContainerSpec(
        **{"name": "n", "image": "i", "labels": {}, "environment": {}, "memory": 1, "pids": 1} | changes
    )


async def until_ended(engine, container):
    """Wait until the container has ended."""

    async def has_ended():
        return (await engine.inspect(container)).state == "exited"

    await eventually(has_ended)


async def test_while_unreachable_every_call_fails_and_containers_continue(engine):
    container = await engine.create(spec())
    await engine.start(container)
    engine.set_reachable(False)
    for call in (engine.info(), engine.list({}), engine.kill(container), engine.image("i")):
        with pytest.raises(EngineUnreachableError):
            await call
    engine.set_reachable(True)
    assert (await engine.inspect(container)).state == "running"


async def test_a_limit_that_it_discards_is_a_warning_and_no_limit(engine):
    engine.discards = frozenset({"memory"})
    said = []
    container = await engine.create(spec(pids=7), on_warning=said.append)
    assert ["memory limit" in text for text in said] == [True]
    held = await engine.isolation(container)
    assert (held.memory, held.memory_and_swap, held.pids) == (None, None, 7)


async def test_an_unreachable_engine_breaks_streams_of_events(engine):
    async with engine.events({}) as events:
        engine.set_reachable(False)
        with pytest.raises(EngineUnreachableError):
            await anext(events)


async def test_frozen_calls_last_as_long_as_their_bound(engine):
    engine.set_frozen(True)
    started = time.monotonic()
    with pytest.raises(EngineUnreachableError, match=r"within 0\.2 s"):
        await engine.list({})
    assert 0.15 < time.monotonic() - started < 1
    engine.set_frozen(False)
    assert await engine.list({}) == []


async def test_a_call_made_while_frozen_is_answered_on_thawing(engine):
    engine.set_frozen(True)
    call = asyncio.create_task(engine.list({}))
    await asyncio.sleep(0.02)
    engine.set_frozen(False)
    assert await call == []


async def test_events_of_a_frozen_engine_are_delivered_on_thawing(engine):
    container = await engine.create(spec())
    await engine.start(container)
    async with engine.events({}) as events:
        engine.set_frozen(True)
        await engine.kill_outside(container)
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        engine.set_frozen(False)
        assert (await waiting).action == "die"


async def test_a_refused_call_has_no_effect(engine):
    container = await engine.create(spec())
    await engine.start(container)
    engine.refuse["stop"] = "permission denied"
    with pytest.raises(EngineRefusedError, match="permission denied"):
        await engine.stop(container, grace=1)
    assert (await engine.inspect(container)).state == "running"


async def test_running_out_of_memory_kills_some_process_not_the_container(engine):
    container = await engine.create(spec())
    await engine.start(container)
    async with engine.events({}) as events:
        engine.out_of_memory(container)
        assert (await anext(events)).action == "oom"
    status = await engine.inspect(container)
    assert (status.state, status.oom_killed) == ("running", True)


async def test_devices_it_has_can_be_requested(engine):
    container = await engine.create(spec(devices=DeviceGrant("nvidia", ("GPU-1",))))
    await engine.start(container)
    assert (await engine.inspect(container)).state == "running"


async def test_a_program_that_raises_is_a_process_that_fails(engine):
    async def broken(spec, handle):
        raise ValueError("the reason")

    engine.add_image("broken", broken)
    container = await engine.create(spec(image="broken"))
    await engine.start(container)
    await until_ended(engine, container)
    assert (await engine.inspect(container)).exit_code == 1
    assert "the reason" in await engine.logs(container, tail=1)


async def test_a_program_killed_before_its_first_step_has_ended_too(engine):
    container = await engine.create(spec())
    await engine.start(container)
    await engine.kill(container)
    assert (await engine.inspect(container)).exit_code == 137


async def test_output_beyond_the_bound_is_dropped(engine):
    async def chatty(spec, handle):
        for i in range(1000):
            handle.log(f"line {i}")
        return 0

    engine.add_image("chatty", chatty)
    container = await engine.create(spec(image="chatty", log_bytes=1000))
    await engine.start(container)
    await until_ended(engine, container)
    lines = (await engine.logs(container, tail=1000)).splitlines()
    assert sum(map(len, lines)) <= 1000
    assert lines[-1].endswith("line 999")
