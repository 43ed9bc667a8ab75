"""Commands that meet each other, a run, a build, a folder that is gone: one defined answer, and nothing left behind."""

import asyncio
import json
import random
import uuid
from typing import Any

import httpx
import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness, eventually
from support.slow_builds import SlowBuilds

from orchestrator.sandbox.call import Outcome, ToolCall
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor

INTERLEAVINGS = 1000


async def post(harness: Harness, action: str, **options: Any) -> httpx.Response:
    return await harness.client.post(f"/v1/plugins/reader/{action}", **options)


async def whole(harness: Harness, wanted: int) -> dict[str, Any]:
    """The plugin's health once it has so many ready instances, as wanted, and no other container."""

    def is_whole(health: dict[str, Any]) -> bool:
        numbers = health["replicas"]["ready"], health["replicas"]["wanted"], len(health["instances"])
        return numbers == (wanted, wanted, wanted)

    health = await harness.until("reader", is_whole)
    assert len(await harness.containers("reader")) == wanted
    return health


async def opened(harness: Harness, **manifest: Any) -> None:
    harness.add("reader", tools={"read": lambda: "text"}, **manifest)
    await harness.open()
    await harness.settled("reader")


async def test_a_scale_while_a_restart_builds(harness: Harness) -> None:
    """It counts at once, from what serves; the restart then replaces as many as are wanted by then."""
    await opened(harness, image="base")
    builds = SlowBuilds(harness)
    harness.write("reader", image="base", version="2.0.0")
    (harness.plugins / "reader" / "requirements.txt").write_text("torch\n")
    assert (await post(harness, "restart")).status_code == 202
    await eventually(lambda: bool(builds.begun), "a build")
    assert (await post(harness, "scale", json={"replicas": 3}, params={"wait": 5})).status_code == 200
    before = await whole(harness, 3)
    assert {instance["version"] for instance in before["instances"]} == {"1.0.0"}
    builds.go_on()
    await harness.until("reader", lambda health: health["version"] == "2.0.0")
    after = await whole(harness, 3)
    assert {instance["version"] for instance in after["instances"]} == {"2.0.0"}


async def test_two_scales_at_once(harness: Harness) -> None:
    """One after the other: the number that stands is one of them, on file too."""
    await opened(harness)
    chosen = random.Random(3)
    for _ in range(15):
        numbers = chosen.sample(range(1, 6), 2)
        answers = await asyncio.gather(*(post(harness, "scale", json={"replicas": number}) for number in numbers))
        assert [answer.status_code for answer in answers] == [200, 200]
        wanted = (await harness.health("reader"))["replicas"]["wanted"]
        assert wanted in numbers
        await whole(harness, wanted)
    await harness.shut(containers_stay=True)
    await harness.open()
    await whole(harness, wanted)


@pytest.mark.parametrize("first", ["scale", "stop"])
async def test_a_stop_while_it_is_scaled(harness: Harness, first: str) -> None:
    """It is stopped whatever came first. The number is noted, for its next start."""
    await opened(harness)
    commands = {"scale": {"json": {"replicas": 4}}, "stop": {}}
    order = sorted(commands, key=lambda name: name != first)
    answers = await asyncio.gather(*(post(harness, name, **commands[name]) for name in order))
    assert [answer.status_code for answer in answers] == [200, 200]
    stopped = await harness.health("reader")
    assert (stopped["state"], stopped["reason_code"]) == ("UNAVAILABLE", "STOPPED")
    assert stopped["replicas"]["wanted"] == 4
    await asyncio.sleep(0.1)
    assert await harness.containers("reader") == []
    await post(harness, "start", params={"wait": 5})
    await whole(harness, 4)


async def test_one_that_is_scaled_loses_its_folder(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves goes on, and begins anew from its image; once it is stopped the plugin leaves the list."""
    monkeypatch.setattr("orchestrator.supervisor.fleet._FOLDERS_INTERVAL", 0.02)
    await opened(harness, replicas=2)
    await whole(harness, 2)
    harness.remove("reader")
    await post(harness, "scale", json={"replicas": 3})
    await whole(harness, 3)
    await harness.engine.kill_outside((await harness.containers("reader"))[0])
    await harness.until("reader", lambda health: health["degraded"])
    assert (await post(harness, "restart", params={"only": "failed", "wait": 5})).status_code == 200
    await whole(harness, 3)
    assert (await post(harness, "restart")).json()["reason_code"] == "MANIFEST_INVALID"
    assert (await harness.run("reader", "read")).status_code == 200
    await post(harness, "scale", json={"replicas": 1})
    await whole(harness, 1)
    await post(harness, "stop")

    async def left() -> bool:
        return (await harness.client.get("/v1/plugins/reader/health")).status_code == 404

    async with asyncio.timeout(5):
        while not await left():
            await asyncio.sleep(0.01)
    assert await harness.containers("reader") == []
    assert (await post(harness, "scale", json={"replicas": 2})).status_code == 404


@pytest.mark.slow
async def test_a_park_and_a_run_in_the_same_instant(harness: Harness) -> None:
    """Every run is answered, whichever comes first and however far the other is; a park is done or refused."""
    calls: list[str] = []

    def read(number: str) -> None:
        calls.append(number)

    harness.add("reader", tools={"read": read})
    await harness.open()
    await harness.settled("reader")
    assert harness.app is not None
    context, chosen = harness.app.state.context, random.Random(7)
    supervisor = context.fleet.get("reader")
    assert isinstance(supervisor, PluginSupervisor)
    parked = 0

    async def after(turns: int, work: Any) -> Any:
        for _ in range(turns):  # of the event loop
            await asyncio.sleep(0)
        return await work

    for number in range(INTERLEAVINGS):
        body = json.dumps({"number": str(number)}).encode()
        call = ToolCall("read", uuid.UUID(int=number).hex, "application/json", body)
        run = after(chosen.randint(0, 30), context.tool_runner.run("reader", call))
        answer, done = await asyncio.gather(run, after(chosen.randint(0, 60), supervisor.park()))
        assert answer.outcome is Outcome.OK, (number, answer)
        parked += done
    assert calls == [str(number) for number in range(INTERLEAVINGS)]
    assert INTERLEAVINGS // 20 < parked < INTERLEAVINGS, "they have hardly met"


async def test_a_start_while_the_last_one_drains(harness: Harness) -> None:
    """It serves again, from what it was made of: a new one would find its GPU leased."""
    harness.engine.device_drivers = ("nvidia",)
    harness.gpus = FakeGpus(device(0), device(1))
    release = asyncio.Event()
    harness.add("reader", tools={"read": release.wait}, replicas=2, requires_gpu=True, gpu={"count": 1})
    await harness.open()
    await whole(harness, 2)
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(2)]
    await harness.until("reader", lambda health: health["in_flight"] == 2)
    await post(harness, "scale", json={"replicas": 1})
    drained = await harness.until("reader", lambda h: [i["role"] for i in h["instances"]].count("draining") == 1)
    (serving,) = [each["container"]["name"] for each in drained["instances"] if each["role"] == "serving"]
    (found,) = [c for c in await harness.engine.list({}) if c.name == serving]
    await harness.engine.kill_outside(found.id)
    await harness.until("reader", lambda health: any(each["reason_code"] for each in health["instances"]))
    harness.write("reader", image="harness/reader", version="2.0.0", replicas=2, requires_gpu=True, gpu={"count": 1})
    await post(harness, "start", params={"wait": 5})
    health = await whole(harness, 1)
    assert (health["version"], health["degraded"]) == ("1.0.0", False)
    # What the next ones are made of, too.
    await post(harness, "scale", json={"replicas": 2})
    assert {each["version"] for each in (await whole(harness, 2))["instances"]} == {"1.0.0"}
    release.set()
    assert sorted(answer.status_code for answer in await asyncio.gather(*runs)) == [200, 502]


async def test_runs_that_wait_start_as_soon_as_one_serves_again(harness: Harness) -> None:
    """Of an instance that drained: no other event is needed."""
    release, inside = asyncio.Event(), 0

    async def read() -> str:
        nonlocal inside
        inside += 1
        await release.wait()
        return "text"

    harness.add("reader", tools={"read": read}, replicas=2, concurrency=2)
    await harness.open()
    await whole(harness, 2)
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(3)]
    await eventually(lambda: inside == 3, "three execute")
    await post(harness, "scale", json={"replicas": 1})
    runs += [asyncio.create_task(harness.run("reader", "read")) for _ in range(2)]
    # Two in the one that serves, one or two in the one that drains.
    await harness.until("reader", lambda health: health["queued"] > 0)
    await post(harness, "scale", json={"replicas": 2})
    await eventually(lambda: inside == 4, "the place in the other one is taken")
    release.set()
    assert [answer.status_code for answer in await asyncio.gather(*runs)] == [200] * 5
