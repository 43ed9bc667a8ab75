"""Several instances of one plugin: one queue, ends of their own, commands for all of them."""

import asyncio
import random
import shutil
from typing import Any

import httpx
import pytest
from plugin_runtime.shared.limits import runs_let_in
from support.gpus import FakeGpus, device
from support.harness import Harness, eventually

GPU = {"requires_gpu": True, "gpu": {"count": 1}}


class Gate:
    """A tool whose calls wait until the test lets them go on."""

    def __init__(self) -> None:
        self.inside = 0
        self.peak = 0
        self.open = asyncio.Event()

    async def read(self) -> str:
        self.inside += 1
        self.peak = max(self.peak, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return "text"


def states(health: dict[str, Any]) -> list[str]:
    return [instance["state"] for instance in health["instances"]]


def generations(health: dict[str, Any]) -> list[int]:
    return [instance["generation"] for instance in health["instances"]]


async def whole(harness: Harness, name: str = "reader") -> dict[str, Any]:
    """The plugin's health once as many instances are ready as are wanted, and no others are left."""

    def is_whole(health: dict[str, Any]) -> bool:
        replicas = health["replicas"]
        return replicas["ready"] == replicas["wanted"] == len(health["instances"])

    return await harness.until(name, is_whole)


async def opened(harness: Harness, replicas: int = 3, **manifest: Any) -> Gate:
    gate = Gate()
    harness.add("reader", tools={"read": gate.read}, replicas=replicas, **manifest)
    await harness.open()
    await whole(harness)
    return gate


async def post(harness: Harness, action: str, **options: Any) -> httpx.Response:
    return await harness.client.post(f"/v1/plugins/reader/{action}", **options)


async def kill(harness: Harness, generation: int) -> None:
    """End the container of this instance from outside."""
    health = await harness.health("reader")
    (name,) = [i["container"]["name"] for i in health["instances"] if i["generation"] == generation]
    (found,) = [c for c in await harness.engine.list({}) if c.name == name]
    await harness.engine.kill_outside(found.id)


async def test_all_come_up_and_share_the_runs(harness: Harness) -> None:
    """Three at once where each takes one; the fourth waits for the plugin."""
    gate = await opened(harness)
    health = await harness.health("reader")
    assert (health["state"], health["replicas"], health["degraded"]) == (
        "INITIALIZED",
        {"wanted": 3, "ready": 3, "in_manifest": 3},
        False,
    )
    assert generations(health) == [1, 2, 3]
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(4)]
    busy = await harness.until("reader", lambda health: health["in_flight"] == 3 and health["queued"] == 1)
    assert [instance["in_flight"] for instance in busy["instances"]] == [1, 1, 1]
    await eventually(lambda: gate.inside == 3, "three that execute at once")
    gate.open.set()
    assert [answer.status_code for answer in await asyncio.gather(*runs)] == [200] * 4
    assert gate.peak == 3
    assert (await harness.health("reader"))["success_count"] == 4


async def test_one_that_ends_ends_alone(harness: Harness) -> None:
    """The plugin goes on, says what is missing and why; nothing begins in its stead, and `only=failed` replaces it."""
    await opened(harness)
    await kill(harness, 2)
    health = await harness.until("reader", lambda health: health["degraded"])
    assert health["state"] == "INITIALIZED"
    assert health["reason_code"] is None
    assert health["replicas"] == {"wanted": 3, "ready": 2, "in_manifest": 3}
    assert states(health) == ["INITIALIZED", "FAILED", "INITIALIZED"]
    assert "2 of 3" in health["degraded_reason"]
    assert "KILLED" in health["degraded_reason"]
    assert "restart reader --only failed" in health["degraded_reason"]
    assert "then restart the plugin" not in health["degraded_reason"]
    # Why it ended is in the plugin's health while the others live, and its log is there by its number.
    reported = await harness.until("reader", lambda health: health["post_mortem"] is not None)
    assert reported["post_mortem"]["container"] == health["instances"][1]["container"]["name"]
    assert (await harness.client.get("/v1/plugins/reader/logs", params={"generation": 2})).status_code == 200
    await asyncio.sleep(0.2)
    assert generations(await harness.health("reader")) == [1, 2, 3]
    answer = await post(harness, "restart", params={"only": "failed", "wait": 5})
    assert answer.status_code == 200
    assert generations(await whole(harness)) == [1, 3, 4]
    assert not (await harness.health("reader"))["degraded"]


async def test_the_last_end_is_the_plugins(harness: Harness) -> None:
    """FAILED, with the first cause; a run is refused with it, and a restart begins as many as are wanted."""
    harness.add("reader", tools={"read": lambda: 1 / 0, "hold": Gate().read}, replicas=2)
    await harness.open()
    await whole(harness)
    assert (await harness.run("reader", "read")).status_code == 502
    assert (await harness.health("reader"))["state"] in ("INITIALIZED", "LOADED")
    left = (await harness.until("reader", lambda health: health["degraded"]))["instances"]
    await kill(harness, next(each["generation"] for each in left if each["state"] == "INITIALIZED"))
    failed = await harness.until_state("reader", "FAILED")
    assert failed["reason_code"] == "TOOL_ERROR"
    assert not failed["degraded"]
    refused = await harness.run("reader", "read")
    assert (refused.status_code, refused.json()["reason_code"]) == (503, "TOOL_ERROR")
    assert (await post(harness, "restart", params={"wait": 5})).status_code == 200
    assert generations(await whole(harness)) == [3, 4]


async def test_a_run_whose_instance_died_is_sent_to_no_other(harness: Harness) -> None:
    gate = await opened(harness, 2)
    run = asyncio.create_task(harness.run("reader", "read"))
    busy = await harness.until("reader", lambda health: health["in_flight"] == 1)
    await kill(harness, next(each["generation"] for each in busy["instances"] if each["in_flight"]))
    answer = await run
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "KILLED")
    assert gate.peak == 1


@pytest.mark.parametrize(
    ("idempotent", "preference", "status", "calls"),
    [(True, "retry", 200, 2), (True, "", 502, 1), (False, "retry", 502, 1)],
)
async def test_an_idempotent_run_whose_instance_died(
    harness: Harness, idempotent: bool, preference: str, status: int, calls: int
) -> None:
    """It is sent again, once, where its caller asks for it and its tool may be."""
    gate, called = Gate(), 0

    async def read() -> str:
        nonlocal called
        called += 1
        return await gate.read()

    read.idempotent = idempotent  # type: ignore[attr-defined]
    harness.add("reader", tools={"read": read}, replicas=2)
    await harness.open()
    await whole(harness)
    run = asyncio.create_task(post(harness, "tools/read/run", json={}, headers={"Prefer": preference}))
    busy = await harness.until("reader", lambda health: health["in_flight"] == 1)
    await kill(harness, next(each["generation"] for each in busy["instances"] if each["in_flight"]))
    await harness.until("reader", lambda health: health["degraded"])
    await asyncio.sleep(0.1)
    gate.open.set()
    assert (await run).status_code == status
    assert called == calls
    # One run, however often it was sent; where it was before is told.
    recorded = (await harness.client.get("/v1/runs")).json()[0]
    assert (recorded["retried_from"] is not None) == (calls == 2)
    assert recorded["retried_from"] != recorded["generation"]
    counted = await harness.health("reader")
    assert (counted["success_count"], counted["error_count"]) == ((1, 0) if status == 200 else (0, 1))


async def test_an_idempotent_run_without_another_instance(harness: Harness) -> None:
    """The end of its own instance is its answer."""
    gate = Gate()

    async def read() -> str:
        return await gate.read()

    read.idempotent = True  # type: ignore[attr-defined]
    harness.add("reader", tools={"read": read})
    await harness.open()
    await whole(harness)
    run = asyncio.create_task(post(harness, "tools/read/run", json={}, headers={"Prefer": "retry"}))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    await kill(harness, 1)
    answer = await run
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "KILLED")
    assert (await harness.health("reader"))["error_count"] == 1


async def test_more_and_fewer(harness: Harness) -> None:
    """More begin from what the others were made from. Of too many, one with a run ends when the run has ended."""
    gate = await opened(harness, 1)
    harness.write("reader", image="harness/reader", version="2.0.0")
    grown = await post(harness, "scale", json={"replicas": 3}, params={"wait": 5})
    assert (grown.status_code, grown.json()["replicas"]) == (200, {"wanted": 3, "ready": 3, "in_manifest": 1})
    assert {instance["version"] for instance in grown.json()["instances"]} == {"1.0.0"}
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(3)]
    await harness.until("reader", lambda health: health["in_flight"] == 3)
    assert (await post(harness, "scale", json={"replicas": 1})).json()["replicas"]["wanted"] == 1
    draining = await harness.until("reader", lambda h: [i["role"] for i in h["instances"]].count("draining") == 2)
    assert draining["in_flight"] == 3
    assert not draining["degraded"]
    waiting = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["queued"] == 1)
    gate.open.set()
    assert [answer.status_code for answer in await asyncio.gather(*runs, waiting)] == [200] * 4
    assert generations(await whole(harness)) == [1]
    assert len(await harness.containers("reader")) == 1


async def test_a_run_that_outlasts_the_drain_is_cut_off(harness: Harness) -> None:
    await opened(harness, 2, update={"drain": "200ms"})
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(2)]
    await harness.until("reader", lambda health: health["in_flight"] == 2)
    await post(harness, "scale", json={"replicas": 1})
    done, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED, timeout=5)
    answer = done.pop().result()
    assert (answer.status_code, answer.json()["reason_code"]) == (503, "STOPPED"), answer.text
    assert (await harness.health("reader"))["state"] == "RUNNING"


@pytest.mark.parametrize("body", [{"replicas": n} for n in (0, 65, -1, "2", 1.5, True, None)] + [{}, {"n": 1}, [], 3])
async def test_a_number_that_cannot_be(harness: Harness, body: Any) -> None:
    """It is refused, and changes nothing."""
    await opened(harness, 2)
    answer = await post(harness, "scale", json=body)
    assert answer.status_code == 422, answer.text
    assert "replicas" in answer.text or "object" in answer.text
    assert (await harness.health("reader"))["replicas"] == {"wanted": 2, "ready": 2, "in_manifest": 2}


async def test_a_number_that_cannot_be_stored(harness: Harness) -> None:
    """It is on file first, so it does not take effect; the answer says what to see to, without a path of the host."""
    await opened(harness, 1)
    folder = harness.settings.state_dir / "releases"
    shutil.rmtree(folder, ignore_errors=True)  # what the start wrote
    folder.write_text("in the way")
    answer = await post(harness, "scale", json={"replicas": 2})
    assert (answer.status_code, answer.json()["error_type"]) == (503, "NotStored")
    assert str(harness.settings.state_dir) not in answer.text
    assert (await harness.health("reader"))["replicas"]["wanted"] == 1


async def test_scaling_what_is_not_there(harness: Harness) -> None:
    """An unknown plugin is 404; of a stopped one the number is noted, and counts at its start."""
    await opened(harness, 1)
    assert (await harness.client.post("/v1/plugins/nobody/scale", json={"replicas": 2})).status_code == 404
    await post(harness, "stop")
    stopped = (await post(harness, "scale", json={"replicas": 2})).json()
    assert (stopped["state"], stopped["replicas"]) == ("UNAVAILABLE", {"wanted": 2, "ready": 0, "in_manifest": 1})
    await post(harness, "start", params={"wait": 5})
    assert len((await whole(harness))["instances"]) == 2


async def test_a_stop_ends_all(harness: Harness) -> None:
    await opened(harness)
    stopped = (await post(harness, "stop")).json()
    assert (stopped["state"], stopped["reason_code"], stopped["degraded"]) == ("UNAVAILABLE", "STOPPED", False)
    assert await harness.containers("reader") == []


async def test_a_stop_of_a_degraded_plugin_is_a_stop(harness: Harness) -> None:
    """The one that had failed is not what the plugin is remembered by."""
    await opened(harness)
    await kill(harness, 2)
    await harness.until("reader", lambda health: health["degraded"])
    stopped = (await post(harness, "stop")).json()
    assert (stopped["state"], stopped["reason_code"]) == ("UNAVAILABLE", "STOPPED")


async def test_a_restart_replaces_all(harness: Harness) -> None:
    """From the manifest as it is now, its number of instances too."""
    await opened(harness, 2)
    harness.write("reader", image="harness/reader", version="2.0.0", replicas=3)
    await post(harness, "restart", params={"wait": 5})
    health = await whole(harness)
    assert generations(health) == [3, 4, 5]
    assert {instance["version"] for instance in health["instances"]} == {"2.0.0"}


async def test_a_start_begins_those_that_are_missing(harness: Harness) -> None:
    await opened(harness, 3)
    await kill(harness, 1)
    await harness.until("reader", lambda health: health["degraded"])
    await post(harness, "start", params={"wait": 5})
    assert generations(await whole(harness)) == [2, 3, 4]


async def test_the_next_orchestrator_adopts_all(harness: Harness) -> None:
    """And starts the one that had ended: an orchestrator's start is a command."""
    await opened(harness, 3)
    await kill(harness, 2)
    await harness.until_state("reader", "INITIALIZED")
    await harness.until("reader", lambda health: health["instances"][1]["state"] == "FAILED")
    await harness.shut(containers_stay=True)
    await harness.open()
    assert generations(await whole(harness)) == [1, 3, 4]


async def test_a_scaled_number_outlives_the_orchestrator(harness: Harness) -> None:
    await opened(harness, 1)
    await post(harness, "scale", json={"replicas": 2}, params={"wait": 5})
    await harness.shut(containers_stay=True)
    await harness.open()
    assert generations(await whole(harness)) == [1, 2]
    await harness.shut()
    await harness.open()
    assert len((await whole(harness))["instances"]) == 2


async def test_eight_on_eight_gpus(harness: Harness) -> None:
    """Each has a GPU of its own. Killed in any order, what is missing is named; no GPU is granted twice."""
    harness.engine.device_drivers = ("nvidia",)
    harness.gpus = FakeGpus(*(device(index) for index in range(8)))
    await opened(harness, 8, **GPU)
    health = await harness.health("reader")
    uuids = [gpu["uuid"] for instance in health["instances"] for gpu in instance["gpus"]]
    assert len(set(uuids)) == 8
    assert len(health["gpus"]) == 8
    order = list(range(1, 9))
    random.Random(5).shuffle(order)
    for killed, generation in enumerate(order, 1):
        await kill(harness, generation)
        health = await harness.until("reader", lambda health, n=killed: sum(s == "FAILED" for s in states(health)) == n)
        if killed < 8:
            assert health["degraded"]
            assert f"{8 - killed} of 8" in health["degraded_reason"]
            assert health["state"] == "INITIALIZED"
    assert (health["state"], health["reason_code"], health["degraded"]) == ("FAILED", "KILLED", False)


async def test_more_replicas_than_gpus(harness: Harness) -> None:
    """Those that found none are UNAVAILABLE, the others serve, and `degraded_reason` says it."""
    harness.engine.device_drivers = ("nvidia",)
    harness.gpus = FakeGpus(device(0), device(1))
    harness.add("reader", tools={"read": lambda: "text"}, replicas=3, **GPU)
    await harness.open()
    health = await harness.until("reader", lambda health: health["degraded"] and health["replicas"]["ready"] == 2)
    assert sorted(states(health)) == ["INITIALIZED", "INITIALIZED", "UNAVAILABLE"]
    assert "GPU_BUSY" in health["degraded_reason"]
    assert (await harness.run("reader", "read")).status_code == 200


@pytest.mark.parametrize(("spread", "expected"), [("gpu", [1, 1, 2]), ("pack", [1, 3])])
async def test_where_instances_share_gpus(harness: Harness, spread: str, expected: list[int]) -> None:
    """One GPU each before any gets two, or as few GPUs as the budgets allow."""
    harness.engine.device_drivers = ("nvidia",)
    harness.gpus = FakeGpus(*(device(index) for index in range(3)))
    shared = {"requires_gpu": True, "gpu": {"sharing": "shared", "memory": "5GiB"}, "spread": spread}
    await opened(harness, 4, **shared)
    devices = (await harness.client.get("/v1/gpus")).json()["devices"]
    assert sorted(len(each["holders"]) for each in devices if each["holders"]) == expected


async def test_more_wanted_again_while_one_drains(harness: Harness) -> None:
    """It serves again: a new one would find its GPU leased."""
    harness.engine.device_drivers = ("nvidia",)
    harness.gpus = FakeGpus(device(0), device(1))
    gate = await opened(harness, 2, **GPU)
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(2)]
    await harness.until("reader", lambda health: health["in_flight"] == 2)
    await post(harness, "scale", json={"replicas": 1})
    await harness.until("reader", lambda h: [i["role"] for i in h["instances"]].count("draining") == 1)
    await post(harness, "scale", json={"replicas": 2}, params={"wait": 5})
    gate.open.set()
    assert [answer.status_code for answer in await asyncio.gather(*runs)] == [200] * 2
    health = await whole(harness)
    assert not health["degraded"], health["degraded_reason"]


async def test_a_batch_that_drains_opens_no_places(harness: Harness) -> None:
    """Its runs took less than a place each, and no more runs come in for it than it took."""
    gate = Gate()

    async def read() -> str:
        return await gate.read()

    read.batch = {"max_size": 8, "max_wait_ms": 1.0}  # type: ignore[attr-defined]
    harness.add("reader", tools={"read": read}, replicas=2, queue=4)
    await harness.open()
    await whole(harness)
    let_in = runs_let_in(1, 8)
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(2 * let_in)]
    await harness.until("reader", lambda health: health["in_flight"] == 2 * let_in)
    await post(harness, "scale", json={"replicas": 1})
    more = [asyncio.create_task(harness.run("reader", "read")) for _ in range(10)]
    await eventually(lambda: sum(task.done() for task in more) == 6, "six are refused")
    assert {task.result().status_code for task in more if task.done()} == {429}
    assert (await harness.health("reader"))["queued"] == 4
    gate.open.set()
    answers = await asyncio.gather(*runs, *more)
    assert sum(answer.status_code == 200 for answer in answers) == 2 * let_in + 4


@pytest.mark.parametrize("lost", [False, True])
async def test_an_adopted_surplus_is_drained(harness: Harness, lost: bool) -> None:
    """As after a kill of the orchestrator while it scaled: runs under way have their time, a lost one has none."""
    await opened(harness, 2)
    older, newer = harness.runtimes["reader"].instances  # type: ignore[attr-defined]
    answer = asyncio.get_running_loop().create_future()
    for instance, run_id in ((older, "a" * 32), (newer, "b" * 32)):
        if not lost:
            instance.answers[run_id] = answer
        instance.set_status(runs_begun=1, runs=[{"run_id": run_id, "tool": "read", "seconds": 1.0}])
    await harness.shut(containers_stay=True)
    harness.write("reader", image="harness/reader", replicas=1)
    await harness.open()
    if not lost:
        await harness.until("reader", lambda health: health["in_flight"] == 2)
        await asyncio.sleep(0.2)
        health = await harness.health("reader")
        assert [instance["role"] for instance in health["instances"]] == ["serving", "draining"]
        assert health["in_flight"] == 2
        answer.set_result("text")
    assert generations(await whole(harness)) == [1]


async def test_logs_of_an_instance_that_never_was(harness: Harness) -> None:
    """Not empty ones, as if it had printed nothing."""
    await opened(harness, 2)
    logs = "/v1/plugins/reader/logs"
    assert (await harness.client.get(logs, params={"generation": 1})).status_code == 200
    answer = await harness.client.get(logs, params={"generation": 9})
    assert (answer.status_code, answer.json()["error_type"]) == (404, "NoInstance")


async def test_a_park_while_one_of_several_starts(harness: Harness) -> None:
    """It is refused, with a reason that is so."""
    runtime = harness.add("reader", tools={"read": lambda: "text"})
    await harness.open()
    await harness.settled("reader")
    runtime.start = [(60, {"phase": "ready"})]
    await post(harness, "scale", json={"replicas": 2})
    answer = await post(harness, "park")
    assert (answer.status_code, answer.json()["error_type"]) == (409, "NotParked")
    assert "an instance is on its way" in answer.json()["error"]
