"""Parked: a plugin that nobody calls has no instance, and its next run starts one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness, eventually
from support.slow_builds import SlowBuilds

SOON = {"idle": {"after": "1s"}}


async def opened(harness: Harness, **manifest: Any) -> None:
    harness.add("reader", tools={"read": lambda: "text", "fail": lambda: 1 / 0}, **manifest)
    await harness.open()
    await harness.settled("reader")


async def post(harness: Harness, action: str, **options: Any) -> httpx.Response:
    return await harness.client.post(f"/v1/plugins/reader/{action}", **options)


async def until_parked(harness: Harness) -> dict[str, Any]:
    return await harness.until("reader", lambda health: health["reason_code"] == "PARKED")


async def test_an_idle_plugin_is_parked_and_its_next_run_starts_it(harness: Harness) -> None:
    """UNAVAILABLE, PARKED, no container left, no fault; then a new instance answers."""
    await opened(harness, **SOON)
    assert (await harness.health("reader"))["parked_since"] is None
    parked = await until_parked(harness)
    assert parked["state"] == "UNAVAILABLE"
    assert "idle.after" in parked["reason"]
    assert parked["parked_since"] is not None
    assert parked["start_estimate_seconds"] > 0
    assert not parked["degraded"]
    await harness.until_removed("reader")
    assert await harness.containers("reader") == []
    answer = await harness.run("reader", "read")
    assert (answer.status_code, answer.json()["result"]) == (200, "text")
    health = await harness.health("reader")
    assert (health["state"], health["generation"]) == ("RUNNING", 2)
    assert health["parked_since"] is None
    assert [instance["generation"] for instance in health["instances"]] == [2]


async def test_one_start_for_all_who_wait(harness: Harness) -> None:
    await opened(harness)
    assert (await post(harness, "park")).json()["reason_code"] == "PARKED"
    answers = await asyncio.gather(*(harness.run("reader", "read") for _ in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert (await harness.health("reader"))["generation"] == 2


async def test_one_that_is_called_is_not_parked(harness: Harness) -> None:
    """Nor one whose run takes longer than that."""
    harness.add("reader", tools={"read": lambda: asyncio.sleep(0.9, "text")}, **SOON)
    await harness.open()
    await harness.settled("reader")
    assert (await harness.run("reader", "read")).status_code == 200
    assert (await harness.health("reader"))["generation"] == 1
    await until_parked(harness)


async def test_a_busy_plugin_is_not_parked(harness: Harness) -> None:
    """A 409 that says why; the run goes on."""
    reading = asyncio.Event()
    harness.add("reader", tools={"read": reading.wait})
    await harness.open()
    await harness.settled("reader")
    run = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    refused = await post(harness, "park")
    assert (refused.status_code, refused.json()["error_type"]) == (409, "NotParked")
    assert "run" in refused.json()["error"]
    reading.set()
    assert (await run).status_code == 200


async def test_only_what_is_parked_is_started_by_a_run(harness: Harness) -> None:
    """FAILED and STOPPED are started by an operator alone; parking them is refused, or leaves them what they are."""
    await opened(harness)
    await harness.run("reader", "fail")
    assert (await post(harness, "park")).status_code == 409
    assert (await harness.run("reader", "read")).status_code == 503
    await post(harness, "restart", params={"wait": 5})
    await post(harness, "stop")
    assert (await post(harness, "park")).status_code == 409
    assert (await harness.run("reader", "read")).json()["reason_code"] == "STOPPED"


async def test_a_tool_that_it_does_not_have_starts_nothing(harness: Harness) -> None:
    await opened(harness)
    await post(harness, "park")
    assert (await harness.run("reader", "nosuch")).status_code == 404
    assert (await harness.health("reader"))["reason_code"] == "PARKED"


async def test_a_stop_of_a_parked_plugin_is_a_stop(harness: Harness) -> None:
    """No run starts it then; a start does."""
    await opened(harness)
    await post(harness, "park")
    stopped = (await post(harness, "stop")).json()
    assert (stopped["state"], stopped["reason_code"], stopped["parked_since"]) == ("UNAVAILABLE", "STOPPED", None)
    assert (await harness.run("reader", "read")).json()["reason_code"] == "STOPPED"
    assert (await post(harness, "start", params={"wait": 5})).json()["state"] == "INITIALIZED"


@pytest.mark.parametrize("command", ["start", "restart"])
async def test_a_command_starts_what_is_parked(harness: Harness, command: str) -> None:
    await opened(harness)
    await post(harness, "park")
    assert (await post(harness, command, params={"wait": 5})).json()["state"] == "INITIALIZED"


async def test_a_start_that_fails_is_the_answer_of_the_runs_that_wait(harness: Harness) -> None:
    """With its cause, and it is not tried again by the next run."""
    runtime = harness.add("reader", tools={"read": lambda: "text"})
    await harness.open()
    await harness.settled("reader")
    await post(harness, "park")
    await harness.until_removed("reader")
    runtime.start = [(0, {"phase": "failed", "failure": {"code": "INIT_ERROR", "reason": "It broke."}})]
    answers = await asyncio.gather(*(harness.run("reader", "read") for _ in range(3)))
    assert {(answer.status_code, answer.json()["reason_code"]) for answer in answers} == {(503, "INIT_ERROR")}
    assert (await harness.run("reader", "read")).status_code == 503
    assert (await harness.health("reader"))["generation"] == 2


async def test_parked_replicas_come_back_as_a_whole(harness: Harness) -> None:
    """One that had failed before is not what the plugin is remembered by."""
    await opened(harness, replicas=3)
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 3)
    await harness.engine.kill_outside((await harness.containers("reader"))[0])
    await harness.until("reader", lambda health: health["degraded"])
    parked = (await post(harness, "park")).json()
    assert (parked["state"], parked["reason_code"]) == ("UNAVAILABLE", "PARKED")
    assert (await harness.run("reader", "read")).status_code == 200
    health = await harness.until("reader", lambda health: health["replicas"]["ready"] == 3)
    assert [instance["generation"] for instance in health["instances"]] == [4, 5, 6]


async def test_a_parked_plugin_gives_its_gpu_back(harness: Harness) -> None:
    harness.gpus = FakeGpus(device(0))
    harness.engine.device_drivers = ("nvidia",)
    await opened(harness, requires_gpu=True)
    await post(harness, "park")
    harness.add("writer", tools={"read": lambda: "text"}, requires_gpu=True)
    started = await harness.client.post("/v1/plugins/writer/start", params={"wait": 9})
    assert started.json()["state"] == "INITIALIZED", started.text


async def test_a_park_and_a_run_in_the_same_instant(harness: Harness) -> None:
    """Whichever comes first: every run is answered."""
    await opened(harness)
    for _ in range(15):
        park, run = await asyncio.gather(post(harness, "park"), harness.run("reader", "read"))
        assert park.status_code in (200, 409)
        assert run.status_code == 200, run.text
        assert (await harness.run("reader", "read")).status_code == 200


async def test_nothing_is_started_before_it_is_called(tmp_path: Path) -> None:
    """With ORCHESTRATOR_PARKED, of what may be parked; the rest starts."""
    async with Harness(tmp_path, parked=True) as harness:
        harness.add("reader", tools={"read": lambda: "text"}, idle={"after": "1h"})
        harness.add("writer", tools={"read": lambda: "text"})
        await harness.open()
        await harness.until_state("writer", "INITIALIZED")
        parked = await harness.health("reader")
        assert (parked["reason_code"], await harness.containers("reader")) == ("PARKED", [])
        answers = await asyncio.gather(*(harness.run("reader", "read") for _ in range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4
        assert len(await harness.containers("reader")) == 1


async def test_a_plugin_that_was_never_called_can_be_stopped(tmp_path: Path) -> None:
    async with Harness(tmp_path, parked=True) as harness:
        harness.add("reader", tools={"read": lambda: "text"}, idle={"after": "1h"})
        await harness.open()
        await until_parked(harness)
        assert (await post(harness, "stop")).json()["reason_code"] == "STOPPED"
        assert (await harness.run("reader", "read")).json()["reason_code"] == "STOPPED"
        await post(harness, "start", params={"wait": 5})
        assert (await harness.run("reader", "read")).status_code == 200


async def test_numbers_of_one_that_was_never_called(tmp_path: Path) -> None:
    """The manifest's number of instances, and beside it the one that it was scaled to."""
    async with Harness(tmp_path, parked=True) as harness:
        harness.add("reader", tools={"read": lambda: "text"}, idle={"after": "1h"}, replicas=2)
        await harness.open()
        parked = await until_parked(harness)
        assert parked["replicas"] == {"wanted": 2, "ready": 0, "in_manifest": 2}
        scaled = (await post(harness, "scale", json={"replicas": 3})).json()
        assert scaled["replicas"] == {"wanted": 3, "ready": 0, "in_manifest": 2}
        assert (await harness.run("reader", "read")).status_code == 200
        await harness.until("reader", lambda health: health["replicas"]["ready"] == 3)


async def test_a_closed_orchestrator_parks_nothing(harness: Harness) -> None:
    """Also where a restart was under way at its end: the next one has the instances."""
    await opened(harness, image="base", idle={"after": "1s"})
    builds = SlowBuilds(harness)
    (harness.plugins / "reader" / "requirements.txt").write_text("torch\n")
    await post(harness, "restart")
    await eventually(lambda: bool(builds.begun), "a build")
    await harness.shut(containers_stay=True)
    await asyncio.sleep(1.5)
    assert len([c for c in harness.engine._containers.values() if c.running]) == 1


async def test_a_wake_waits_until_all_that_ended_are_removed(harness: Harness) -> None:
    """Also one that had failed before the others were parked: it may have a GPU still."""
    harness.gpus = FakeGpus(device(0), device(1))
    harness.engine.device_drivers = ("nvidia",)
    await opened(harness, replicas=2, requires_gpu=True, gpu={"count": 1})
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    remove, go_on = harness.engine.remove, asyncio.Event()

    async def slow(container: str, **options: Any) -> None:
        await go_on.wait()
        await remove(container, **options)

    harness.engine.remove = slow  # type: ignore[method-assign]
    await harness.engine.kill_outside((await harness.containers("reader"))[0])
    await harness.until("reader", lambda health: health["degraded"])
    harness.engine.remove = remove  # type: ignore[method-assign]
    await post(harness, "park")
    run = asyncio.create_task(harness.run("reader", "read"))
    await asyncio.sleep(0.3)
    go_on.set()
    assert (await run).status_code == 200
    health = await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    assert not health["degraded"]


async def test_runs_that_wake_a_batched_tool_are_batched(harness: Harness) -> None:
    """Though nobody knew that it is one when they came."""
    release = asyncio.Event()

    async def read() -> str:
        await release.wait()
        return "text"

    read.batch = {"max_size": 4, "max_wait_ms": 1.0}  # type: ignore[attr-defined]
    harness.add("reader", tools={"read": read})
    await harness.open()
    await harness.settled("reader")
    await post(harness, "park")
    await harness.until_removed("reader")
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(4)]
    await harness.until("reader", lambda health: health["in_flight"] == 4)
    release.set()
    assert [answer.status_code for answer in await asyncio.gather(*runs)] == [200] * 4


# Closed for another plugin: `close_for` is what the plan of the GPUs calls.


def close(harness: Harness, generation: int = 1) -> None:
    assert harness.app is not None
    supervisor = harness.app.state.context.fleet.get("reader")
    supervisor.close_for(generation, "Parked to make room.")


async def busy_reader(harness: Harness, release: asyncio.Event, runs: int, **manifest: Any) -> list[asyncio.Task[Any]]:
    """With one run in each instance, and the others waiting."""

    async def read() -> str:
        await release.wait()
        return "text"

    harness.add("reader", tools={"read": read}, **manifest)
    await harness.open()
    replicas = manifest.get("replicas", 1)
    await harness.until("reader", lambda health: health["replicas"]["ready"] == replicas)
    started = [asyncio.create_task(harness.run("reader", "read")) for _ in range(runs)]
    await harness.until("reader", lambda health: health["in_flight"] + health["queued"] == runs)
    return started


async def test_an_idle_one_is_parked_at_once(harness: Harness) -> None:
    """In the same step: a run that comes next finds it parked, and starts it."""
    await opened(harness)
    close(harness)
    record = harness.registry.get("reader")
    assert record is not None
    assert (record.reason_code, record.reason) == ("PARKED", "Parked to make room.")
    assert (await harness.run("reader", "read")).status_code == 200
    assert (await harness.health("reader"))["generation"] == 2


async def test_a_busy_one_executes_what_waits_and_nothing_that_comes_later(harness: Harness) -> None:
    """Later runs wait for the plugin's next instance."""
    release = asyncio.Event()
    first = await busy_reader(harness, release, 3)
    close(harness)
    close(harness)  # once is enough
    health = await harness.health("reader")
    assert (health["state"], health["instances"][0]["role"]) == ("RUNNING", "draining")
    later = [asyncio.create_task(harness.run("reader", "read")) for _ in range(3)]
    await harness.until("reader", lambda health: health["in_flight"] + health["queued"] >= 5)
    made = harness.runtimes["reader"].instances  # type: ignore[attr-defined]
    release.set()
    assert [answer.status_code for answer in await asyncio.gather(*first, *later)] == [200] * 6
    assert (await harness.health("reader"))["generation"] == 2
    assert len(made) == 2


async def test_runs_that_wait_no_longer_hold_up_no_park(harness: Harness) -> None:
    """A caller in the queue went away after the instance was closed."""
    release = asyncio.Event()
    running, waiting = await busy_reader(harness, release, 2)
    close(harness)
    waiting.cancel()
    await harness.until("reader", lambda health: health["queued"] == 0)
    release.set()
    assert (await running).status_code == 200
    await until_parked(harness)


async def test_a_run_that_leaves_when_its_turn_comes_holds_up_no_park(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance has stayed for it alone, and nothing else happens that would end it."""
    release = asyncio.Event()
    (running,) = await busy_reader(harness, release, 1)
    assert harness.app is not None
    supervisor = harness.app.state.context.fleet.get("reader")
    waiting = asyncio.create_task(supervisor.ready_instance("read"))
    await eventually(lambda: supervisor.runs_waiting == 1, "it waits")
    close(harness)
    with monkeypatch.context() as patched:
        patched.setattr(supervisor, "_wake", lambda: None)  # it is not so far yet
        release.set()
        assert (await running).status_code == 200
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await until_parked(harness)


async def test_one_that_is_killed_while_it_makes_room_has_failed(harness: Harness) -> None:
    """Nothing of a park hides it: no run starts it again."""
    runs = await busy_reader(harness, asyncio.Event(), 1)
    close(harness)
    await harness.engine.kill_outside((await harness.containers("reader"))[0])
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "KILLED"
    assert (await runs[0]).status_code == 502
    assert (await harness.run("reader", "read")).status_code == 503
    await harness.until_removed("reader")
    assert (await harness.run("reader", "read")).json()["reason_code"] == "KILLED"
    assert (await post(harness, "start", params={"wait": 5})).json()["state"] == "INITIALIZED"


@pytest.mark.parametrize(("command", "state"), [("stop", "UNAVAILABLE"), ("restart", "INITIALIZED")])
async def test_a_command_while_it_makes_room(harness: Harness, command: str, state: str) -> None:
    runs = await busy_reader(harness, asyncio.Event(), 1)
    close(harness)
    answer = await post(harness, command, params={"wait": 5} if command == "restart" else {})
    assert answer.json()["state"] == state, answer.text
    assert (await runs[0]).status_code == 503


async def test_a_start_while_it_makes_room_begins_the_next_one_beside_it(harness: Harness) -> None:
    release = asyncio.Event()
    runs = await busy_reader(harness, release, 1)
    close(harness)
    assert (await post(harness, "start", params={"wait": 5})).json()["replicas"]["ready"] == 1
    release.set()
    assert (await runs[0]).status_code == 200
    health = await harness.until("reader", lambda health: health["in_flight"] == 0)
    assert (await harness.run("reader", "read")).status_code == 200, health


async def test_one_of_several_makes_room(harness: Harness) -> None:
    """The others serve, and what is missing is named; it takes no run that waits. Those that are parked say nothing
    against others: one that fails later is the reason.
    """
    release = asyncio.Event()
    runs = await busy_reader(harness, release, 5, replicas=2)
    close(harness)
    release.set()
    assert [answer.status_code for answer in await asyncio.gather(*runs)] == [200] * 5
    health = await harness.until("reader", lambda health: health["degraded"] and health["replicas"]["ready"] == 1)
    assert "instance 1 is UNAVAILABLE PARKED: Parked to make room" in health["degraded_reason"]
    assert (await harness.run("reader", "read")).status_code == 200
    close(harness, 2)
    health = await until_parked(harness)
    assert (await harness.run("reader", "read")).status_code == 200
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)


async def test_one_that_was_parked_hides_no_reason_of_the_others(harness: Harness) -> None:
    await opened(harness, replicas=2)
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    close(harness)
    await harness.until("reader", lambda health: health["degraded"])
    await post(harness, "stop")
    assert (await harness.run("reader", "read")).json()["reason_code"] == "STOPPED"
    assert (await harness.health("reader"))["reason_code"] == "STOPPED"


async def test_a_run_that_waits_for_a_start_says_so(harness: Harness) -> None:
    """In its own record, in a stream by an event of its own; also one that waits behind another."""
    runtime = harness.add("reader", tools={"read": lambda: "text"})
    await harness.open()
    await harness.settled("reader")
    await post(harness, "park")
    await harness.until_removed("reader")
    ready = asyncio.Event()
    runtime.before_ready = ready.wait
    runs = [
        (await post(harness, "tools/read/run", json={}, headers={"Prefer": "respond-async"})).json() for _ in range(2)
    ]

    async def progress(run: dict[str, Any]) -> Any:
        return (await harness.client.get(f"/v1/runs/{run['run_id']}")).json()["progress"]

    assert [await progress(run) for run in runs] == [{"fraction": None, "message": "starting"}] * 2
    lines = []
    async with harness.client.stream(
        "POST", "/v1/plugins/reader/tools/read/run", json={}, headers={"Accept": "application/x-ndjson"}
    ) as stream:
        async for line in stream.aiter_lines():
            lines.append(json.loads(line))
            ready.set()
    assert lines[0] == {"event": "progress", "fraction": None, "message": "starting"}
    assert (lines[-1]["event"], lines[-1]["status"]) == ("end", 200)
    # None where an instance is there.
    answer = await post(harness, "tools/read/run", json={}, headers={"Accept": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/json"
    assert [await progress(run) for run in runs] == [None] * 2
