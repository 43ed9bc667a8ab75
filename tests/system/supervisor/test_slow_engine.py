"""An engine that answers late or never, and refuses to kill what is dead: the cause of an end stands all the same."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness, eventually
from support.scripted_runtime import READY

from orchestrator.containers.spec import ContainerSpec
from orchestrator.errors import EngineRefusedError, EngineUnreachableError
from orchestrator.supervisor.container_policy import LABEL_CONTENT

PODMAN_43 = "can only kill running containers. 2f1b is in state exited: container state improper"
PODMAN_54 = "container 2f1b is in state stopping: can only kill running containers"
DOCKER = "Cannot kill container: 2f1b: Container 2f1b is not running"


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Harness]:
    """Half of two seconds is the patience with a stop, and the other half that with a kill."""
    async with Harness(tmp_path, engine_timeout=timedelta(seconds=2)) as harness:
        yield harness


async def _hangs() -> None:
    await asyncio.sleep(60)


async def never_answers(*_: Any, **__: Any) -> None:
    await asyncio.sleep(3600)


class Silence:
    """A call that is not answered until the test breaks it off: the orchestrator's own end need not wait for it."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def __call__(self, *_: Any, **__: Any) -> None:
        await self.over.wait()
        raise EngineUnreachableError("no answer")


def done_without_answer(call: Callable[..., Any]) -> Callable[..., Any]:
    """The engine does what it was told, and its answer does not come."""

    async def answered_never(*arguments: Any, **options: Any) -> None:
        await call(*arguments, **options)
        await asyncio.sleep(3600)

    return answered_never


def refused(words: str) -> Callable[..., Any]:
    async def refuse(*_: Any, **__: Any) -> None:
        raise EngineRefusedError(words)

    return refuse


@asynccontextmanager
async def no_events(*_: Any, **__: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """A stream of events that stays silent."""

    async def silence() -> AsyncIterator[Any]:
        await asyncio.sleep(3600)
        yield

    yield silence()


async def opened(harness: Harness, timeout: str = "200ms") -> None:
    harness.add("reader", tools={"read": _hangs}, limits={"timeout": timeout})
    await harness.open()
    await harness.settled("reader")


async def codes(harness: Harness) -> list[str]:
    """The reason codes of the end, as events told them."""
    events = (await harness.client.get("/v1/plugins/reader/events")).json()
    return [event["reason_code"] for event in events if event["reason_code"]]


async def test_the_event_of_the_end_will_do(slow: Harness) -> None:
    """A stop that is done and not answered is no failure."""
    await opened(slow)
    slow.engine.stop = done_without_answer(slow.engine.stop)
    slow.engine.kill = never_answers
    assert (await slow.run("reader", "read")).status_code == 504
    await slow.until_removed("reader")
    assert await codes(slow) == ["TIMEOUT"]
    assert await slow.containers("reader") == []


@pytest.mark.parametrize("words", [PODMAN_43, PODMAN_54, DOCKER, "any other words, in any language"])
async def test_a_refusal_to_kill_is_followed_by_a_look(slow: Harness, words: str) -> None:
    """Whatever it says: what has ended is not KILL_FAILED."""
    slow.engine.events = no_events
    await opened(slow)
    slow.engine.stop = done_without_answer(slow.engine.stop)
    slow.engine.kill = refused(words)
    assert (await slow.run("reader", "read")).status_code == 504
    await slow.until_removed("reader")
    assert await codes(slow) == ["TIMEOUT"]


async def test_a_kill_that_is_not_answered_is_looked_after_too(slow: Harness) -> None:
    """Neither stop nor kill is answered, and no event comes."""
    slow.engine.events = no_events
    await opened(slow)
    slow.engine.stop = never_answers
    slow.engine.kill = done_without_answer(slow.engine.kill)
    assert (await slow.run("reader", "read")).status_code == 504
    await slow.until_removed("reader")
    assert await codes(slow) == ["TIMEOUT"]


async def test_a_stop_that_is_answered_while_the_kill_is_on_its_way_counts(slow: Harness) -> None:
    """It is no longer waited for alone after half of the time, and is not forgotten."""
    slow.engine.events = no_events
    await opened(slow)
    stop = slow.engine.stop

    async def late(*arguments: Any, **options: Any) -> None:
        await asyncio.sleep(1.4)
        await stop(*arguments, **options)

    slow.engine.stop, slow.engine.kill = late, never_answers
    assert (await slow.run("reader", "read")).status_code == 504
    await slow.until_removed("reader")
    assert await codes(slow) == ["TIMEOUT"]


async def test_an_end_from_outside_that_cannot_be_looked_at(slow: Harness) -> None:
    """The event of the end has the exit code."""
    await opened(slow)
    slow.engine.refuse = {"inspect": "the database is locked"}
    await slow.engine.kill_outside((await slow.containers("reader"))[0])
    health = await slow.until_state("reader", "FAILED", "UNAVAILABLE")
    assert health["reason_code"] == "KILLED"


@pytest.mark.parametrize(("oom", "code"), [(False, "KILLED"), (True, "OUT_OF_MEMORY")])
async def test_a_run_is_answered_before_a_slow_look_is(slow: Harness, oom: bool, code: str) -> None:
    """With the cause that the engine's events tell, also where the kernel killed for memory."""
    await opened(slow, "30s")
    slow.engine.inspect = silence = Silence()
    (container,) = await slow.containers("reader")
    run = asyncio.create_task(slow.run("reader", "read"))
    await slow.until("reader", lambda health: health["in_flight"] == 1)
    if oom:
        slow.engine.out_of_memory(container)
    await slow.engine.kill_outside(container)
    answer = await run
    assert (answer.status_code, answer.json()["reason_code"]) == (502, code)
    assert (await slow.until_state("reader", "FAILED"))["reason_code"] == code
    silence.over.set()


async def test_the_event_of_an_end_is_not_believed_of_a_plugin_that_answers(slow: Harness) -> None:
    """Not while the engine cannot be asked either."""
    await opened(slow, "30s")
    (container,) = await slow.containers("reader")
    labels = (await slow.engine.inspect(container)).labels
    slow.engine.refuse = {"inspect": "the database is locked"}
    slow.engine._events.emit(container, labels, "die", 137)
    await asyncio.sleep(0.5)
    assert (await slow.health("reader"))["state"] == "INITIALIZED"


async def test_a_flood_of_events_costs_no_flood_of_looks(slow: Harness) -> None:
    """A hundred false reports of an end are looked into together."""
    await opened(slow)
    (container,) = await slow.containers("reader")
    labels = (await slow.engine.inspect(container)).labels
    looks, inspect = 0, slow.engine.inspect

    async def counted(container_id: str) -> Any:
        nonlocal looks
        looks += 1
        return await inspect(container_id)

    slow.engine.inspect = counted
    for _ in range(100):
        slow.engine._events.emit(container, labels, "die", 137)
        slow.engine._events.emit(container, labels, "pause", None)
    await asyncio.sleep(4)  # two rounds of looks for an end take three seconds
    assert (await slow.health("reader"))["state"] == "INITIALIZED"
    assert 2 <= looks <= 20


async def test_a_false_report_of_memory_is_forgotten(slow: Harness) -> None:
    """The plugin's own count of kills, in its next status, is the better witness."""
    await opened(slow, "30s")
    (container,) = await slow.containers("reader")
    slow.engine.out_of_memory(container)
    await asyncio.sleep(2)  # one that comes within a second of the report may be from before it
    slow.instance("reader").set_status(memory={**READY["memory"], "usage_bytes": 5 << 20})
    await eventually(lambda: slow.registry.get("reader").container.memory_usage_bytes == 5 << 20, "a status")
    slow.engine.inspect = silence = Silence()
    await slow.engine.kill_outside(container)
    assert (await slow.until_state("reader", "FAILED"))["reason_code"] == "KILLED"
    silence.over.set()


async def test_what_becomes_of_other_softwares_container_is_none_of_the_plugins(slow: Harness) -> None:
    """It has our plugin's token among its labels, and not all the others."""
    await opened(slow, "30s")
    (container,) = await slow.containers("reader")
    labels = (await slow.engine.inspect(container)).labels
    other = {name: value for name, value in labels.items() if name != LABEL_CONTENT}
    slow.engine._events.emit("other", other, "oom", None)
    await asyncio.sleep(0.1)  # for the event, which nothing shows to be dropped
    slow.engine.inspect = silence = Silence()
    await slow.engine.kill_outside(container)
    assert (await slow.until_state("reader", "FAILED"))["reason_code"] == "KILLED"
    silence.over.set()


async def test_an_operators_stop_that_is_not_answered_is_a_stop(slow: Harness) -> None:
    """STOPPED, since the container has ended."""
    await opened(slow)
    slow.engine.stop, slow.engine.kill = done_without_answer(slow.engine.stop), never_answers
    health = (await slow.client.post("/v1/plugins/reader/stop")).json()
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "STOPPED")


async def test_the_patience_is_a_setting(tmp_path: Path) -> None:
    """Grace and ORCHESTRATOR_ENGINE_TIMEOUT: with a short one, a container that lives is KILL_FAILED soon."""
    async with Harness(tmp_path, engine_timeout=timedelta(milliseconds=400)) as harness:
        await opened(harness)
        harness.engine.stop = harness.engine.kill = never_answers
        assert (await harness.run("reader", "read")).status_code == 504
        health = await harness.until("reader", lambda health: health["reason_code"] == "KILL_FAILED")
        assert "no answer within 0.5 s" in health["reason"]
        assert health["reason"].startswith("TIMEOUT: read ran longer than 0.2 s.")


@pytest.mark.parametrize(
    ("ends", "code", "state"),
    [("run", "TIMEOUT", "FAILED"), ("stop", "STOPPED", "UNAVAILABLE")],
)
async def test_once_the_container_is_gone_the_cause_is_the_reason_again(
    slow: Harness, ends: str, code: str, state: str
) -> None:
    """KILL_FAILED stands only as long as it lives; what became of it stays in the post-mortem."""
    await opened(slow)
    slow.engine.refuse = {"stop": "no", "kill": "no", "remove": "no"}
    if ends == "run":
        await slow.run("reader", "read")
    else:
        await slow.client.post("/v1/plugins/reader/stop")
    health = await slow.until("reader", lambda health: health["reason_code"] == "KILL_FAILED")
    assert health["reason"].startswith(f"{code}: ")
    await slow.until_removed("reader")
    slow.engine.refuse = {}
    await slow.engine.kill_outside((await slow.containers("reader"))[0])
    health = await slow.until("reader", lambda health: health["reason_code"] == code)
    assert (health["state"], health["post_mortem"]["evidence"]["ended_for"]) == (state, code)
    assert await slow.containers("reader") == []
    expected = ["KILL_FAILED", code] if ends == "stop" else [code, "KILL_FAILED", code]
    assert await codes(slow) == expected


async def test_a_container_that_was_made_without_an_answer_is_removed(slow: Harness) -> None:
    """Its plugin has ended without its id; the next list shows that nobody has it."""
    slow.add("reader")
    create = slow.engine.create

    async def unanswered(spec: ContainerSpec, **options: Any) -> str:
        await create(spec, **options)
        raise EngineUnreachableError("the container engine gave no answer within 60 s")

    slow.engine.create = unanswered
    await slow.open()
    health = await slow.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "ENGINE_UNREACHABLE")
    await slow.until_removed("reader")
    assert len(await slow.containers("reader")) == 1
    slow.engine.break_streams()  # which is followed by a full list
    async with asyncio.timeout(5):
        while await slow.containers("reader"):
            await asyncio.sleep(0.02)


async def test_a_container_that_was_started_without_an_answer_is_removed(slow: Harness) -> None:
    """Its id is known."""
    slow.add("reader")
    start = slow.engine.start

    async def unanswered(container_id: str) -> None:
        await start(container_id)
        raise EngineUnreachableError("the container engine gave no answer within 60 s")

    slow.engine.start = unanswered
    await slow.open()
    health = await slow.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "ENGINE_UNREACHABLE")
    await slow.until_removed("reader")
    assert await slow.containers("reader") == []
