"""More GPU plugins than GPUs: a run, or an operator's command, parks an idle one to make room. Whole orchestrator."""

import asyncio
import contextlib
import random
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from support.gpu_traffic import best_swaps
from support.gpus import GIB, FakeGpus, device
from support.harness import Harness, eventually
from support.reliability import ReliabilityTable

from orchestrator.gpus import GpuDevice
from orchestrator.gpus.inventory import FaultKind, GpuFault
from orchestrator.supervisor import gpu_planner, parking
from orchestrator.tools.tool_runner import ToolRunner

RUN = "/v1/plugins/{}/tools/run/run"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times in the proportion that starts in memory have to real ones."""
    monkeypatch.setattr(parking, "MIN_RESIDENCE", 0.05)
    monkeypatch.setattr(parking, "UNKNOWN_START", 0.1)
    monkeypatch.setattr(gpu_planner, "LOOK_INTERVAL", 0.1)
    monkeypatch.setattr(gpu_planner, "DRAIN_INTERVAL", 0.02)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits has a busy one's GPU after a moment."""
    monkeypatch.setattr(parking, "PATIENCE", 0.2)


class Gate:
    """A tool that waits until it is opened, and counts."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.runs = 0

    async def run(self) -> int:
        self.runs += 1
        await self.open.wait()
        return self.runs


def on(harness: Harness, *devices: GpuDevice) -> None:
    harness.gpus = FakeGpus(*devices)
    harness.engine.device_drivers = ("nvidia",)


def add(harness: Harness, *names: str, tool: Any = lambda: 1, **manifest: Any) -> None:
    for name in names:
        harness.add(name, tools={"run": tool}, requires_gpu=True, **manifest)


async def opened(harness: Harness, *names: str) -> list[str]:
    """Those that have their GPUs, once all have them or have none."""
    await harness.open()
    return [name for name in names if (await harness.settled(name))["state"] == "INITIALIZED"]


async def run(harness: Harness, name: str, timeout: float = 20.0) -> httpx.Response:
    return await harness.client.post(RUN.format(name), json={}, timeout=timeout)


async def post(harness: Harness, name: str, action: str, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = (await harness.client.post(f"/v1/plugins/{name}/{action}", timeout=20, **options)).json()
    return answer


def uuids(harness: Harness, name: str) -> tuple[str, ...]:
    grant = harness.instance(name).spec.devices
    assert grant is not None
    return grant.uuids


async def waiting(harness: Harness) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await harness.client.get("/v1/gpus")).json()["waiting"]
    return listed


async def first_busy_and_second_waiting(harness: Harness) -> tuple[Gate, asyncio.Task[Any], asyncio.Task[Any]]:
    """On one GPU: a run of `first` that does not end by itself, and one of `second` that waits for its GPU."""
    on(harness, device(0))
    gate = Gate()
    add(harness, "first", tool=gate.run)
    await opened(harness, "first")
    add(harness, "second")
    running = asyncio.create_task(run(harness, "first"))
    await harness.until("first", lambda health: health["in_flight"] == 1)
    # It is known from here on; nobody waits for it, so it is parked until its run.
    await harness.client.post("/v1/plugins/second/start")
    await harness.until("second", lambda health: health["activity"] is not None)
    wanting = asyncio.create_task(run(harness, "second"))
    await harness.until("second", lambda health: health["in_flight"] + health["queued"] > 0 or bool(health["activity"]))
    await eventually(lambda: supervisor(harness, "second").runs_waiting == 1, "its run waits")
    return gate, running, wanting


def supervisor(harness: Harness, name: str) -> Any:
    assert harness.app is not None
    return harness.app.state.context.fleet.get(name)


async def test_a_run_makes_room_and_nobody_else_does(harness: Harness) -> None:
    """At the orchestrator's own start the one without a GPU is parked, not broken; its first run starts it."""
    on(harness, device(0))
    add(harness, "first", "second")
    (up,) = await opened(harness, "first", "second")
    (other,) = {"first", "second"} - {up}
    parked = await harness.health(other)
    assert (parked["state"], parked["reason_code"]) == ("UNAVAILABLE", "PARKED")
    assert f"held by the plugin {up}" in parked["reason"]
    assert "next run makes room" in parked["reason"]
    assert (await harness.health(up))["state"] == "INITIALIZED"
    assert (await run(harness, other)).status_code == 200
    parked = await harness.health(up)
    assert (parked["state"], parked["reason_code"]) == ("UNAVAILABLE", "PARKED")
    assert parked["reason"] == f"It was parked to make room for {other} on GPU 0. The next run starts it again."
    assert (await run(harness, up)).status_code == 200
    assert uuids(harness, up) == uuids(harness, other) == (device(0).uuid,)


@pytest.mark.parametrize("command", ["start", "restart"])
async def test_an_operators_command_makes_room(harness: Harness, command: str) -> None:
    on(harness, device(0))
    add(harness, "first", "second")
    (up,) = await opened(harness, "first", "second")
    (other,) = {"first", "second"} - {up}
    assert (await post(harness, other, command, params={"wait": 15}))["state"] == "INITIALIZED"
    assert (await harness.health(up))["reason_code"] == "PARKED"


async def test_nobody_is_parked_for_a_further_replica(harness: Harness) -> None:
    """Where a run begins them: it waits for the first. An operator's command parks somebody for each."""
    on(harness, device(0), device(1))
    add(harness, "other")
    await opened(harness, "other")
    add(harness, "reader", replicas=2)
    await post(harness, "reader", "start", params={"wait": 15})
    assert (await harness.health("reader"))["replicas"]["ready"] == 2
    assert (await harness.health("other"))["reason_code"] == "PARKED"
    await post(harness, "reader", "park")
    assert (await run(harness, "other")).status_code == 200
    assert (await run(harness, "reader")).status_code == 200
    health = await harness.until("reader", lambda health: health["degraded"])
    assert "GPU_BUSY" in health["degraded_reason"]
    assert (await harness.health("other"))["state"] == "RUNNING"
    await post(harness, "reader", "restart", params={"only": "failed", "wait": 15})
    assert (await harness.health("reader"))["replicas"]["ready"] == 2
    assert (await harness.health("other"))["reason_code"] == "PARKED"


async def test_what_a_plugin_waits_for_is_shown(harness: Harness) -> None:
    """A busy plugin is never parked before the patience of who waits is over."""
    gate, running, wanting = await first_busy_and_second_waiting(harness)
    health = await harness.health("second")
    assert health["state"] == "LOADED"
    assert health["activity"]["what"] == "waiting for a GPU"
    await harness.until("second", lambda health: "first has it, and executes 1 run" in (health["reason"] or ""))
    (listed,) = await waiting(harness)
    assert (listed["plugin"], listed["gpus"], listed["behind"]) == ("second", 1, ["first"])
    await asyncio.sleep(0.5)
    assert (await harness.health("first"))["state"] == "RUNNING"
    gate.open.set()
    assert [(await each).status_code for each in (running, wanting)] == [200, 200]
    assert (await harness.health("first"))["reason_code"] == "PARKED"
    assert await waiting(harness) == []


@pytest.mark.usefixtures("impatient")
async def test_a_busy_one_makes_room_after_a_while(harness: Harness) -> None:
    """Its runs end, those that come later wait for its next start; each is answered."""
    gate, running, wanting = await first_busy_and_second_waiting(harness)
    health = await harness.until("first", lambda health: health["instances"][0]["role"] == "draining")
    assert health["state"] == "RUNNING"
    later = asyncio.create_task(run(harness, "first"))
    await asyncio.sleep(0.1)
    assert not running.done() and not wanting.done() and gate.runs == 1
    gate.open.set()
    assert [(await each).status_code for each in (running, wanting, later)] == [200, 200, 200]
    assert (await harness.health("first"))["generation"] > 1


@pytest.mark.usefixtures("impatient")
async def test_one_that_is_killed_while_it_makes_room_leaves_its_gpu(harness: Harness) -> None:
    """FAILED, as any that is killed; who waits for its GPU has it."""
    _, running, wanting = await first_busy_and_second_waiting(harness)
    await harness.until("first", lambda health: health["instances"][0]["role"] == "draining")
    await harness.engine.kill_outside((await harness.containers("first"))[0])
    assert (await running).status_code == 502
    assert (await wanting).status_code == 200
    assert (await harness.health("first"))["reason_code"] == "KILLED"
    assert (await run(harness, "first")).status_code == 503


async def test_a_stop_of_one_that_waits(harness: Harness) -> None:
    """Its runs have the reason, nobody is parked for it, and it waits no longer."""
    gate, running, wanting = await first_busy_and_second_waiting(harness)
    assert (await post(harness, "second", "stop"))["reason_code"] == "STOPPED"
    answer = await wanting
    assert (answer.status_code, answer.json()["reason_code"]) == (503, "STOPPED")
    assert await waiting(harness) == []
    gate.open.set()
    assert (await running).status_code == 200
    assert (await harness.health("first"))["state"] == "RUNNING"


async def test_one_that_nobody_waits_for_any_more_waits_no_longer(harness: Harness) -> None:
    """Its callers went away: it is parked again, and nobody for it."""
    gate, running, wanting = await first_busy_and_second_waiting(harness)
    supervisor(harness, "second").demand.asked = False  # the start was only to have it waiting
    wanting.cancel()
    health = await harness.until("second", lambda health: health["reason_code"] is not None)
    assert health["reason_code"] == "PARKED"
    gate.open.set()
    assert (await running).status_code == 200
    assert (await harness.health("first"))["state"] == "RUNNING"


async def test_a_shutdown_while_one_waits(harness: Harness) -> None:
    """It takes no longer for it, and leaves no container of it."""
    gate, running, wanting = await first_busy_and_second_waiting(harness)
    gate.open.set()  # in the same moment
    began = time.monotonic()
    await harness.shut()
    assert time.monotonic() - began < 10
    for task in (running, wanting):
        with contextlib.suppress(httpx.HTTPError):
            assert (await task).status_code in (200, 503)

    def plans() -> bool:
        return any(task.get_name() == "plan of the GPUs" for task in asyncio.all_tasks())

    await eventually(lambda: not plans(), "the plan of the GPUs has ended")


async def test_a_gpu_that_is_lost_while_another_waits_for_it(harness: Harness) -> None:
    """One that needs both is told which is out of order; the other's run goes on."""
    on(harness, device(0), device(1))
    gate = Gate()
    add(harness, "first", tool=gate.run)
    await opened(harness, "first")
    running = asyncio.create_task(run(harness, "first"))
    await harness.until("first", lambda health: health["in_flight"] == 1)
    add(harness, "both", gpu={"count": 2})
    await post(harness, "both", "start")
    await harness.until("both", lambda health: health["activity"] is not None)
    wanting = asyncio.create_task(run(harness, "both"))
    free = next(each for each in harness.gpus.devices if each.uuid not in uuids(harness, "first"))
    lost = replace(free, fault=GpuFault(FaultKind.GPU_LOST, "GPU is lost"))
    harness.gpus.devices = tuple(lost if each.uuid == free.uuid else each for each in harness.gpus.devices)
    answer = await wanting
    assert answer.status_code == 503
    assert "GPU is lost" in answer.json()["error"]
    gate.open.set()
    assert (await running).status_code == 200
    assert (await harness.health("first"))["state"] == "RUNNING"


async def test_a_gpu_that_is_found_while_another_waits(harness: Harness) -> None:
    gate, running, wanting = await first_busy_and_second_waiting(harness)
    harness.gpus.devices = (device(0), device(1))
    assert (await wanting).status_code == 200
    assert uuids(harness, "second") == (device(1).uuid,)
    gate.open.set()
    assert (await running).status_code == 200
    assert (await harness.health("first"))["state"] == "RUNNING"


async def test_two_that_need_both_gpus_take_turns(harness: Harness) -> None:
    on(harness, device(0), device(1))
    add(harness, "one", "two", gpu={"count": 2})
    await opened(harness, "one", "two")
    for _ in range(5):
        answers = await asyncio.gather(*(run(harness, name) for name in ("one", "two", "one")))
        assert [answer.status_code for answer in answers] == [200] * 3


async def test_nothing_is_parked_where_that_would_not_do(harness: Harness) -> None:
    """What is kept is named; one that needs more than a GPU has is told at once."""
    on(harness, device(0))
    add(harness, "kept", idle={"keep": True})
    await opened(harness, "kept")
    add(harness, "second")
    add(harness, "large", gpu={"count": 1, "memory": "80GiB"})
    busy = await post(harness, "second", "start", params={"wait": 15})
    assert (busy["state"], busy["reason_code"]) == ("UNAVAILABLE", "GPU_BUSY")
    assert "held by the plugin kept" in busy["reason"]
    assert busy["reason"].endswith("Never parked for another (`idle.keep`): kept.")
    large = await post(harness, "large", "start", params={"wait": 15})
    assert (large["reason_code"], "idle.keep" in large["reason"]) == ("GPU_BUSY", False)
    assert (await harness.health("kept"))["state"] == "INITIALIZED"


async def test_what_is_kept_is_there_without_being_called(harness: Harness) -> None:
    """It makes room for itself at the orchestrator's start too."""
    on(harness, device(0))
    add(harness, "first")
    await opened(harness, "first")
    add(harness, "kept", idle={"keep": True})
    await harness.shut(containers_stay=True)
    await harness.open()
    await harness.until("kept", lambda health: health["state"] == "INITIALIZED", timeout=30)
    assert (await harness.health("first"))["reason_code"] == "PARKED"


async def test_an_update_parks_an_idle_plugin_and_leaves_no_gap(harness: Harness) -> None:
    """`auto` counts on it; where all others are busy, the plugin's own instance makes room."""
    on(harness, device(0), device(1))
    gate = Gate()
    gate.open.set()
    add(harness, "reader")
    add(harness, "other", tool=gate.run)
    await opened(harness, "reader", "other")
    await asyncio.sleep(0.2)  # its residence is over
    harness.write("reader", version="2.0.0", image="harness/reader", requires_gpu=True)
    found = await post(harness, "reader", "update", params={"wait": 15})
    assert (found["step"], found["strategy"]) == ("SETTLED", "overlap"), found
    assert found["strategy_reason"] == "other is idle, and parked for a second instance"
    assert (await harness.health("other"))["reason_code"] == "PARKED"
    gate.open.clear()
    busy = asyncio.create_task(run(harness, "other"))
    await harness.until("other", lambda health: health["in_flight"] == 1)
    harness.write("reader", version="3.0.0", image="harness/reader", requires_gpu=True)
    found = await post(harness, "reader", "update", params={"wait": 15})
    assert (found["step"], found["strategy"]) == ("SETTLED", "replace"), found
    gate.open.set()
    assert (await busy).status_code == 200


async def test_nobody_is_parked_before_the_runs_of_an_earlier_orchestrator_are_counted(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adopted plugin looks idle until then, and may execute a run all the same."""
    on(harness, device(0))
    add(harness, "first")
    await opened(harness, "first")
    add(harness, "kept", idle={"keep": True})
    await harness.shut(containers_stay=True)
    resume, before = ToolRunner.resume, ""

    async def late(*arguments: Any) -> None:
        nonlocal before
        await asyncio.sleep(0.5)  # the GPUs are planned several times
        (instance,) = supervisor(harness, "first").record.instances
        before = f"{instance.role}, {instance.reason_code}"
        await resume(*arguments)

    monkeypatch.setattr(ToolRunner, "resume", late)
    await harness.open()
    assert before == "serving, None"
    await harness.until("kept", lambda health: health["state"] == "INITIALIZED", timeout=30)
    assert (await harness.health("first"))["reason_code"] == "PARKED"


async def test_on_gpus_of_unlike_kinds_the_one_that_suits_is_emptied(harness: Harness) -> None:
    """However cheap the plugin on the other one is to bring back."""
    on(harness, device(0), device(1, memory_total=48 * GIB))
    add(harness, "large", gpu={"count": 1, "memory": "24GiB"})
    await opened(harness, "large")
    add(harness, "small")
    assert (await post(harness, "small", "start", params={"wait": 15}))["state"] == "INITIALIZED"
    add(harness, "huge", gpu={"count": 1, "memory": "40GiB"})
    assert (await post(harness, "huge", "start", params={"wait": 15}))["state"] == "INITIALIZED"
    assert (await harness.health("large"))["reason_code"] == "PARKED"
    assert (await harness.health("small"))["state"] == "INITIALIZED"
    assert uuids(harness, "huge") == (device(1).uuid,)


async def test_mig_instances_are_gpus_as_others_are(harness: Harness) -> None:
    whole = device(0, mig_enabled=True)
    parts = [replace(device(0), uuid=f"MIG-{n}", parent_uuid=whole.uuid, mig_index=n) for n in (0, 1)]
    on(harness, whole, *parts)
    add(harness, "one", "two")
    assert await opened(harness, "one", "two") == ["one", "two"]
    add(harness, "three")
    assert (await post(harness, "three", "start", params={"wait": 15}))["state"] == "INITIALIZED"
    states = [(await harness.health(name))["reason_code"] for name in ("one", "two")]
    assert sorted(states, key=str) == [None, "PARKED"]
    add(harness, "both", gpu={"count": 2})
    assert (await post(harness, "both", "start", params={"wait": 15}))["reason_code"] == "GPU_BUSY"


async def test_of_a_shared_gpu_only_as_much_is_freed_as_is_needed(harness: Harness) -> None:
    on(harness, device(0))

    def shared(gib: int) -> dict[str, Any]:
        return {"gpu": {"sharing": "shared", "memory": f"{gib}GiB"}}

    add(harness, "six", **shared(6))
    add(harness, "eight", **shared(8))
    assert await opened(harness, "six", "eight") == ["six", "eight"]
    for _ in range(3):
        await run(harness, "eight")  # dearer to bring back
    add(harness, "seven", **shared(7))
    assert (await post(harness, "seven", "start", params={"wait": 15}))["state"] == "INITIALIZED"
    await harness.until("six", lambda health: health["reason_code"] == "PARKED")
    assert (await harness.health("eight"))["state"] == "RUNNING"


async def test_a_run_and_a_park_for_another_in_the_same_instant(harness: Harness) -> None:
    """Whichever comes first: every run is answered."""
    on(harness, device(0))
    add(harness, "one", "two")
    await opened(harness, "one", "two")
    for _ in range(15):
        answers = await asyncio.gather(*(run(harness, name) for name in ("one", "two")))
        assert [answer.status_code for answer in answers] == [200, 200]
        await asyncio.sleep(0.1)


CALLS, CALLERS = 2000, 64
PLUGINS = [f"p{n}" for n in range(6)]


@pytest.mark.slow
async def test_six_plugins_on_two_gpus(
    harness: Harness, reliability: ReliabilityTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 calls in random order by 64 callers. Every one is answered; no GPU has two; swaps as in
    `test_gpu_traffic.py`, compared with the best order that is known afterwards.
    """
    monkeypatch.setattr(parking, "PATIENCE", 10.0)
    monkeypatch.setattr(parking, "MAX_RESIDENCE", 0.3)  # a loaded machine's starts are slow
    on(harness, device(0), device(1))
    served: list[str] = []
    came: list[str] = []
    for name in PLUGINS:

        async def tool(name: str = "") -> int:
            served.append(name)
            return 1

        harness.add(name, tools={"run": tool}, start=[(0.03, {"phase": "ready"})], requires_gpu=True, queue=CALLERS)
    await opened(harness, *PLUGINS)
    overlaps = watch_grants(harness)
    order = random.Random(1).choices(PLUGINS, k=CALLS)
    statuses: list[int] = []

    async def caller(number: int) -> None:
        for name in order[number::CALLERS]:
            came.append(name)
            answer = await harness.client.post(RUN.format(name), json={"name": name}, timeout=60)
            statuses.append(answer.status_code)

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    assert statuses == [200] * CALLS
    assert len(served) == CALLS
    starts = sum(len(harness.runtimes[name].instances) for name in PLUGINS)  # type: ignore[attr-defined]
    reliability.at_most("GPU plugins, 6 on 2 GPUs through the orchestrator: double grants", len(overlaps), limit=0)
    case = "GPU plugins, 6 on 2 GPUs through the orchestrator: swaps for each of the best"
    reliability.at_most(f"{case} in the order of arrival", starts / best_swaps(came, 2), limit=1.2)
    reliability.at_most(f"{case} in the order of execution", starts / best_swaps(served, 2), limit=1.25)


def watch_grants(harness: Harness) -> list[tuple[str, ...]]:
    """Filled with each GPU that a container is started on while another one has it."""
    found: list[tuple[str, ...]] = []
    start = harness.engine.start

    async def watched(container: str, **options: Any) -> None:
        await start(container, **options)
        held: dict[str, list[str]] = {}
        for each in harness.engine._containers.values():
            if each.running and each.spec.devices is not None:
                for uuid in each.spec.devices.uuids:
                    held.setdefault(uuid, []).append(each.id)
        found.extend(tuple(ids) for ids in held.values() if len(ids) > 1)

    harness.engine.start = watched  # type: ignore[method-assign]
    return found
