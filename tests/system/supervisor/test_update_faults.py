"""Updates in the way of other things: starts of the orchestrator, drains, full disks, an engine that is away."""

import asyncio
from typing import Any

import httpx
import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness
from support.versions import Versions, gone_at

from orchestrator.containers.spec import ContainerStatus
from orchestrator.errors import EngineUnreachableError
from orchestrator.lifecycle import ReasonCode
from orchestrator.supervisor.instance_set import InstanceSet
from orchestrator.supervisor.release_store import ReleaseStore, ReleaseStoreError
from orchestrator.supervisor.releases import PluginReleases

CALLS = b"- tool: read\n  arguments: {}\n  expect: {equals: v2}\n"


async def test_what_was_only_proposed_is_not_begun_by_the_next_orchestrator(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has proven it; and the events say what became of the update. The same update later is as any."""
    plugin = await Versions(harness).serve()
    plugin.write(2, calls=CALLS)
    await gone_at(plugin, monkeypatch, lambda state: state.under_way is not None)
    for containers_stay in (True, False):
        await harness.open()
        health = await plugin.whole()
        assert (health["version"], health["restart"], await plugin.read()) == ("1.0.0", None, "v1")
        await harness.shut(containers_stay=containers_stay)
    await harness.open()
    (found,) = await plugin.updates()
    assert (found["step"], found["reason_code"]) == ("REJECTED", "STOPPED")
    events = (await harness.client.get("/v1/plugins/reader/events")).json()
    said = [each["reason"] for each in events if (each["reason"] or "").startswith(f"update {found['id']}")]
    assert said[-1].endswith("REJECTED: The orchestrator ended while the update was PROPOSED.")
    assert (await plugin.update())["step"] == "SETTLED"


async def test_starts_after_a_drain_that_was_broken_off(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance that was to make room for a candidate serves, at each of them."""
    plugin = await Versions(harness).serve()
    plugin.write(2)
    await gone_at(
        plugin, monkeypatch, lambda state: state.update is not None and state.update.draining == 1, strategy="replace"
    )
    for _ in range(2):
        await harness.open()
        await asyncio.sleep(0.3)
        health = await plugin.whole()
        assert (health["generation"], health["version"]) == (1, "1.0.0")
        await harness.shut(containers_stay=True)
    await harness.open()


@pytest.mark.parametrize("step", ["PROPOSED", "STARTING", "SWITCHED"])
async def test_an_engine_that_is_away_at_the_next_start(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The update has ended, and commands are obeyed again."""
    plugin = await Versions(harness).serve()
    plugin.write(2).start = [(0.3, {"phase": "ready"})]
    await gone_at(plugin, monkeypatch, lambda state: state.update is not None and state.update.step == step)
    there, away = harness.engine.list, True

    async def listed(*arguments: Any, **named: Any) -> list[ContainerStatus]:
        if away:
            raise EngineUnreachableError("it is away")
        return await there(*arguments, **named)

    monkeypatch.setattr(harness.engine, "list", listed)
    await harness.open()
    away = False
    (found,) = await plugin.updates()
    assert found["ended"]
    assert (await plugin.post("start", params={"wait": 10})).status_code == 200
    await plugin.whole()


async def test_a_stop_whose_end_of_the_update_cannot_be_written(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin is stopped; once there is room the next stop ends the update too."""
    plugin = await Versions(harness).serve()
    new = plugin.write(2, calls=CALLS)
    new.tools["read"] = lambda: asyncio.sleep(600)
    full, write = False, ReleaseStore.write

    def write_if_room(store: ReleaseStore, name: str, state: PluginReleases) -> None:
        if full:
            raise ReleaseStoreError("No space is left.")
        write(store, name, state)

    monkeypatch.setattr(ReleaseStore, "write", write_if_room)
    await plugin.update(wait=0)
    await plugin.until_step("PROVING")
    full = True
    assert (await plugin.post("stop")).json()["reason_code"] == "STOPPED"
    full = False
    assert (await plugin.post("stop")).status_code == 200
    assert (await plugin.updates())[0]["step"] == "REJECTED"
    assert (await plugin.post("start", params={"wait": 10})).status_code == 200


async def test_a_candidate_gets_the_gpu_of_an_instance_that_drains_already(harness: Harness) -> None:
    """One that was scaled away before the update ends in its time, and does not hold it up for ever."""
    harness.gpus = FakeGpus(device(0), device(1))
    harness.engine.device_drivers = ("nvidia",)
    gate = asyncio.Event()

    async def read() -> str:
        await gate.wait()
        return "v1"

    plugin = Versions(harness, replicas=2, requires_gpu=True, gpu={"count": 1})
    plugin.runtimes[1].tools["read"] = read
    await plugin.serve()
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(2)]
    await harness.until("reader", lambda health: health["in_flight"] == 2)
    await plugin.post("scale", json={"replicas": 1})
    plugin.write(2)
    await plugin.update(wait=0, strategy="overlap")
    await plugin.until_step("STARTING")
    gate.set()
    assert [(await run).status_code for run in runs] == [200, 200]
    await plugin.until_step("SETTLED")
    assert (await plugin.whole())["version"] == "2.0.0"


async def test_an_instance_has_no_more_runs_than_its_own_manifest_allows(harness: Harness) -> None:
    """After a rollout that raised `concurrency` and stopped with one of each release."""
    gate, proven = asyncio.Event(), 0

    async def read() -> str:
        await gate.wait()
        return "text"

    def probe() -> str:
        nonlocal proven
        proven += 1
        return "well" if proven == 1 else "bad"

    plugin = Versions(harness, replicas=2)
    plugin.runtimes[1].tools["read"] = read
    await plugin.serve()
    new = plugin.write(2, concurrency=4, calls=b"- tool: probe\n  arguments: {}\n  expect: {equals: well}\n")
    new.tools |= {"read": read, "probe": probe}
    found = await plugin.update()
    assert (found["step"], found["reason_code"]) == ("SETTLED", "INVALID_OUTPUT")
    await plugin.whole()
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(8)]
    await harness.until("reader", lambda health: (health["in_flight"], health["queued"]) == (5, 3))
    health = await harness.health("reader")
    assert {each["version"]: each["in_flight"] for each in health["instances"]} == {"1.0.0": 1, "2.0.0": 4}
    gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*runs)] == [200] * 8


async def test_what_a_manifest_says_of_the_set_counts_with_an_update(harness: Harness) -> None:
    """It makes no other release: nothing begins for it."""
    plugin = await Versions(harness, replicas=3).serve()
    plugin.write(1, replicas=1, idle={"after": "1s"})
    found = await plugin.update()
    assert (found["step"], found["reason"]) == ("SETTLED", "Every instance is of this release already.")
    await harness.until("reader", lambda health: health["reason_code"] == "PARKED")
    assert await plugin.read() == "v1"
    health = await plugin.whole()
    assert health["replicas"] == {"wanted": 1, "ready": 1, "in_manifest": 1}


async def test_an_update_while_the_plugin_starts_for_the_first_time(harness: Harness) -> None:
    """What it started with can be reverted to."""
    plugin = Versions(harness)
    plugin.runtimes[1].start = [(0.5, {"phase": "ready"})]
    await harness.open()
    plugin.write(2).start = [(1.0, {"phase": "ready"})]
    assert (await plugin.update(strategy="overlap"))["step"] == "SETTLED"
    assert (await plugin.post("revert", params={"wait": 10})).json()["step"] == "SETTLED"
    assert (await plugin.whole())["version"] == "1.0.0"


async def test_a_revert_after_a_restart_that_failed(harness: Harness) -> None:
    """To what served before the restart, and not to what served before that; then on to that, and back."""
    plugin = await Versions(harness).serve()
    plugin.write(2)
    assert (await plugin.update())["step"] == "SETTLED"
    plugin.write(3).start = [(0, {"phase": "failed", "reason_code": "IMPORT_ERROR", "reason": "No module 'cv3'."})]
    await plugin.post("restart", params={"wait": 10})
    await harness.until_removed("reader")
    for version in ("2.0.0", "1.0.0", "2.0.0"):
        found = (await plugin.post("revert", params={"wait": 10})).json()
        assert (found["step"], found["to_release"]["version"]) == ("SETTLED", version)
        assert (await plugin.whole())["version"] == version


async def test_a_run_that_is_handed_over_outlives_the_drain(harness: Harness) -> None:
    """Its instance drains when the orchestrator stops: it is the next one's to wait for its end."""
    gate = asyncio.Event()

    async def read() -> str:
        await gate.wait()
        return "v1"

    plugin = Versions(harness, concurrency=4)
    plugin.runtimes[1].tools["read"] = read
    await plugin.serve()
    plugin.write(2)
    started: httpx.Response = await harness.client.post(
        "/v1/plugins/reader/tools/read/run", json={}, headers={"Prefer": "respond-async"}
    )
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    old, run_id = plugin.runtimes[1].instance, started.json()["run_id"]
    ends = old.answers[run_id] = asyncio.get_running_loop().create_future()
    old.set_status(runs_begun=1, runs=[{"run_id": run_id, "tool": "read", "seconds": 1.0}])
    await plugin.update(wait=0)
    await plugin.until_step("SWITCHED")
    before = await harness.containers("reader")
    await harness.shut(containers_stay=True)
    assert await harness.containers("reader") == before
    await harness.open()
    health = await harness.health("reader")
    assert (health["replicas"]["wanted"], health["degraded"], health["in_flight"]) == (1, False, 1)
    ends.set_result("v1")
    answer = await harness.client.get(f"/v1/runs/{run_id}/result", params={"wait": 10})
    assert (answer.status_code, answer.json()["result"]) == (200, "v1")
    await plugin.until_step("SETTLED")
    assert (await plugin.whole())["version"] == "2.0.0"


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
@pytest.mark.parametrize("effect", ["hold", "begin_one", "proven", "switch", "drain", "end_one", "forget", "expect"])
async def test_a_defect_ends_the_update_and_costs_no_instance(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, effect: str, strategy: str
) -> None:
    """Of the orchestrator, in whatever the rollout does: the plugin serves on, and the next update is as any."""
    plugin = await Versions(harness, replicas=2).serve()
    plugin.write(2, calls=CALLS)
    right, met = getattr(InstanceSet, effect), False

    def broken(*arguments: Any) -> None:
        nonlocal met
        if not met:
            met = True
            raise ZeroDivisionError
        right(*arguments)

    monkeypatch.setattr(InstanceSet, effect, broken)
    found = await plugin.update(strategy=strategy)
    assert met == (effect != "drain" or strategy == "replace")
    if met and effect != "expect":  # which comes once it has settled
        assert (found["step"] in {"REJECTED", "SETTLED"}, found["reason_code"]) == (True, "INIT_ERROR")
        assert "a defect in the orchestrator; its log has the details. Report it, then update again." in found["reason"]
    health = await plugin.whole()
    assert (health["candidate"], health["degraded"], len(health["instances"])) == (None, False, 2)
    assert await plugin.read() in {"v1", "v2"}
    assert len(await harness.containers("reader")) == 2
    again = await plugin.update(strategy=strategy)
    assert (again["step"], again["reason_code"]) == ("SETTLED", None)
    health = await plugin.whole()
    assert [each["version"] for each in health["instances"]] == ["2.0.0"] * 2


async def test_a_generation_that_is_taken_meanwhile(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidate is the one that is on file, whatever begins while that is written."""
    plugin = await Versions(harness).serve()
    plugin.write(2, calls=CALLS)
    write, taken = ReleaseStore.write, 0

    def write_slowly(store: ReleaseStore, name: str, state: PluginReleases) -> None:
        nonlocal taken
        if state.update is not None and state.update.candidates and not taken:
            taken = harness.registry.renew(name, keep=[1])
            harness.registry.mark_ended(name, taken, ReasonCode.STOPPED, "It was begun, and ended.")
        write(store, name, state)

    monkeypatch.setattr(ReleaseStore, "write", write_slowly)
    found = await plugin.update()
    assert (found["step"], found["reason"], taken) == ("SETTLED", None, 3)
    health = await plugin.whole()
    assert [(each["generation"], each["version"]) for each in health["instances"]] == [(2, "2.0.0")]


@pytest.mark.parametrize("command", ["update", "start", "restart"])
async def test_a_command_that_looks_for_a_new_folder_says_that_there_is_none(harness: Harness, command: str) -> None:
    """The others say nothing of folders: they do not look."""
    plugin = await Versions(harness).serve()
    sentence = "No plugin named 'other'{}. GET /v1/plugins lists all plugins."
    answer = await harness.client.post(f"/v1/plugins/other/{command}")
    assert answer.status_code == 404
    assert answer.json()["error"] == sentence.format(", and no folder of that name among the plugins' folders")
    answer = await harness.client.post("/v1/plugins/other/stop")
    assert answer.json()["error"] == sentence.format("")
    harness.write("other", image="harness/reader:1")
    answer = await harness.client.post(f"/v1/plugins/other/{command}", params={"wait": 10})
    assert answer.status_code == 200
    assert await plugin.read() == "v1"
