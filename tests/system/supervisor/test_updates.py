"""Updates of a plugin that serves: proven beside it, taken over in one step, reverted; and whatever goes wrong."""

import asyncio
import time
from collections.abc import Callable

import httpx
import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness
from support.scripted_runtime import ScriptedRuntime
from support.versions import Versions, gone_at

from orchestrator.supervisor import rollout_driver
from orchestrator.supervisor.release_store import ReleaseStore, ReleaseStoreError
from orchestrator.supervisor.releases import PluginReleases

CALLS = b"- tool: read\n  arguments: {}\n  expect: {equals: v2}\n"


def at(step: str) -> Callable[[PluginReleases], bool]:
    return lambda state: state.update is not None and state.update.step == step


def results(answers: list[httpx.Response]) -> list[str]:
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    return [answer.json()["result"] for answer in answers]


@pytest.mark.parametrize("replicas", [1, 3])
async def test_an_update_loses_no_call(harness: Harness, replicas: int) -> None:
    """All runs are answered, first by the old version and in the end by the new one."""
    plugin = await Versions(harness, replicas=replicas).serve()
    plugin.write(2, calls=CALLS)
    async with plugin.callers() as answers:
        found = await plugin.update()
    assert (found["step"], found["strategy"], found["replicas_updated"]) == ("SETTLED", "overlap", replicas)
    assert found["proof"] == "1 call of samples/calls.yaml passed."
    assert list(found["step_times"]) == ["PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED"]
    texts = results(answers)
    assert texts[0] == "v1"
    assert texts[-1] == "v2"
    health = await plugin.whole()
    assert (health["version"], health["state"], health["degraded"]) == ("2.0.0", "RUNNING", False)
    assert {instance["version"] for instance in health["instances"]} == {"2.0.0"}
    assert health["success_count"] == len(texts), "the calls of a proof are no runs"
    assert len(await harness.containers("reader")) == replicas


async def test_runs_under_way_end_where_they_began(harness: Harness) -> None:
    """They have `update.drain` for it, and the old instance lives as long."""
    gate = asyncio.Event()

    async def read() -> str:
        await gate.wait()
        return "v1, slowly"

    plugin = Versions(harness, concurrency=4)
    plugin.runtimes[1].tools["read"] = read
    await plugin.serve()
    plugin.write(2)
    slow = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    found = await plugin.update(wait=0)
    assert found["step"] == "PROPOSED"
    found = await plugin.until_step("SWITCHED")
    assert await plugin.read() == "v2"
    assert found["draining"] == 1
    assert not slow.done()
    gate.set()
    assert (await slow).json()["result"] == "v1, slowly"
    await plugin.until_step("SETTLED")


async def test_a_run_that_outlasts_the_drain_is_ended(harness: Harness) -> None:
    async def read() -> str:
        await asyncio.sleep(60)
        return "never"

    plugin = Versions(harness, concurrency=4, update={"drain": "1s"})
    plugin.runtimes[1].tools["read"] = read
    await plugin.serve()
    plugin.write(2)
    slow = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    found = await plugin.update()
    assert found["step"] == "SETTLED"
    answer = await slow
    envelope = answer.json()
    assert (answer.status_code, envelope["error_type"], envelope["reason_code"]) == (503, "InstanceEnded", "STOPPED")
    assert f"The update {found['id']} replaced it by 2.0.0" in answer.json()["error"]


async def test_replace_drains_first_and_runs_wait(harness: Harness) -> None:
    """There is never more than one container, and no call fails in between."""
    plugin = await Versions(harness).serve()
    new = plugin.write(2)
    new.start = [(0.3, {"phase": "ready"})]
    most = 0

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, len(await harness.containers("reader")))
            await asyncio.sleep(0.001)

    counting = asyncio.create_task(count())
    async with plugin.callers() as answers:
        found = await plugin.update(strategy="replace")
    counting.cancel()
    assert (found["step"], found["strategy_reason"]) == ("SETTLED", "the operator asked for it")
    assert results(answers)[-1] == "v2"
    assert most == 1


def fails_to_start(new: ScriptedRuntime) -> None:
    failed = {"phase": "failed", "reason_code": "IMPORT_ERROR", "reason": "No module named 'cv3'."}
    new.start = [(0, failed)]


def hangs_in_its_start(new: ScriptedRuntime) -> None:
    new.start = [(600, {"phase": "ready"})]


def answers_otherwise(new: ScriptedRuntime) -> None:
    new.tools["read"] = lambda: "something else"


def raises(new: ScriptedRuntime) -> None:
    def read() -> str:
        raise ValueError("the lens is broken")

    new.tools["read"] = read


def hangs_in_its_proof(new: ScriptedRuntime) -> None:
    new.tools["read"] = lambda: asyncio.sleep(600)


BAD = [
    (fails_to_start, "IMPORT_ERROR", "cv3"),
    (hangs_in_its_start, "STARTUP_TIMEOUT", "3 s"),
    (answers_otherwise, "INVALID_OUTPUT", "something else"),
    (raises, "TOOL_ERROR", "the lens is broken"),
    (hangs_in_its_proof, "TIMEOUT", "3 s"),
]


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
@pytest.mark.parametrize(("spoil", "code", "text"), BAD, ids=[case[0].__name__ for case in BAD])
async def test_a_candidate_that_fails_is_rejected(
    harness: Harness, spoil: Callable[[ScriptedRuntime], None], code: str, text: str, strategy: str
) -> None:
    """The plugin is what it was: no call is lost, nothing is left, and the candidate's post-mortem says why."""
    limits = {"limits": {"timeout": "3s"}, "startup_timeout": "3s"}  # also for one that is well
    plugin = await Versions(harness, **limits).serve()
    spoil(plugin.write(2, calls=CALLS))
    async with plugin.callers() as answers:
        found = await plugin.update(strategy=strategy)
        assert (found["step"], found["reason_code"]) == ("REJECTED", code), found
        assert text in found["reason"]
        assert "restart" not in found["reason"]
        health = await plugin.whole()
    assert (health["state"], health["version"], health["reason_code"]) == ("RUNNING", "1.0.0", None)
    assert set(results(answers)) == {"v1"}
    assert found["post_mortem"]["container"]
    assert len(await harness.containers("reader")) == 1


@pytest.mark.parametrize("command", ["start", "scale", "park", "update"])
async def test_a_command_right_after_a_rejection(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The former release is about to begin again in the place that it had made: the command finds it there."""
    write = ReleaseStore.write

    def write_slowly(store: ReleaseStore, name: str, state: PluginReleases) -> None:
        if state.update is not None and state.update.step == "REJECTED" and not state.update.restores:
            time.sleep(0.3)
        write(store, name, state)

    monkeypatch.setattr(ReleaseStore, "write", write_slowly)
    plugin = await Versions(harness).serve()
    answers_otherwise(plugin.write(2, calls=CALLS))
    assert (await plugin.update(strategy="replace"))["step"] == "REJECTED"
    body = {"replicas": 2} if command == "scale" else None
    answer = await plugin.post(command, params={"wait": 10} if command != "park" else {}, json=body)
    assert answer.status_code in {200, 409}, answer.text  # 409: it starts, and cannot be parked yet
    health = await plugin.whole()
    assert (health["version"], health["replicas"]["wanted"]) == ("1.0.0", 2 if command == "scale" else 1)
    assert await plugin.read() == "v1"
    assert (await plugin.post("park")).status_code == 200, "nothing is owed any more"


async def test_what_cannot_even_be_prepared_is_rejected_before_anything_begins(harness: Harness) -> None:
    plugin = await Versions(harness).serve()
    harness.write_raw("reader", "name: [")
    assert ((found := await plugin.update())["step"], found["reason_code"]) == ("REJECTED", "MANIFEST_INVALID")
    plugin.write(2, calls=b"- tool: read\n  files: {image: missing.png}\n")
    assert ((found := await plugin.update())["step"], found["reason_code"]) == ("REJECTED", "MANIFEST_INVALID")
    assert "missing.png" in found["reason"]
    plugin.write(2, calls=CALLS, models={"weights": "weights.onnx"})
    assert ((found := await plugin.update())["step"], found["reason_code"]) == ("REJECTED", "MODEL_MISSING")
    assert [each["step"] for each in await plugin.updates()] == ["REJECTED"] * 3
    health = await plugin.whole()
    assert (health["generation"], await plugin.read()) == (1, "v1")


async def test_a_candidate_that_is_killed_while_it_is_proven(harness: Harness) -> None:
    plugin = await Versions(harness).serve()
    hangs_in_its_proof(plugin.write(2, calls=CALLS))
    await plugin.update(wait=0)
    await plugin.until_step("PROVING")
    health = await harness.health("reader")
    assert (health["candidate"]["generation"], health["candidate"]["state"]) == (2, "INITIALIZED")
    assert health["generation"] == 1
    (killed,) = [c for c in await harness.engine.list({}) if c.name == health["candidate"]["container"]["name"]]
    await harness.engine.kill_outside(killed.id)
    found = await plugin.until_step("REJECTED")
    assert found["reason_code"] in {"KILLED", "CRASHED", "OUT_OF_MEMORY"}, found
    assert (await plugin.whole())["generation"] == 1


async def test_a_candidate_that_ends_soon_after_its_calls_is_rejected(harness: Harness) -> None:
    """It is observed for a while before it takes runs; one that stays well takes them after that."""
    plugin = await Versions(harness).serve()
    new = plugin.write(2, calls=CALLS, update={"observe": "30s"})

    def read() -> str:
        asyncio.get_running_loop().call_later(0.2, new.instance.leave, 3)
        return "v2"

    new.tools["read"] = read
    found = await plugin.update()
    assert (found["step"], found["reason_code"]) == ("REJECTED", "EXITED"), found
    assert "exit code 3" in found["reason"]
    plugin.write(3, calls=b"- tool: read\n  arguments: {}\n", update={"observe": "500ms"})
    begun = asyncio.get_running_loop().time()
    assert (await plugin.update())["step"] == "SETTLED"
    assert asyncio.get_running_loop().time() - begun >= 0.5


async def test_commands_during_an_update_have_one_answer_each(harness: Harness) -> None:
    """409, nothing happens; but a stop ends both."""
    plugin = await Versions(harness).serve()
    hangs_in_its_proof(plugin.write(2, calls=CALLS))
    begun = await plugin.update(wait=0)
    await plugin.until_step("PROVING")
    for action in ("update", "revert", "restart", "start", "park", "scale"):
        answer = await plugin.post(action, json={"replicas": 2} if action == "scale" else None)
        assert (answer.status_code, answer.json()["error_type"]) == (409, "UpdateUnderWay"), (action, answer.text)
        assert begun["id"] in answer.json()["error"]
    assert (await plugin.post("stop")).status_code == 200
    (found,) = await plugin.updates()
    assert (found["step"], found["reason_code"]) == ("REJECTED", "STOPPED")
    assert await harness.containers("reader") == []
    assert (await harness.health("reader"))["state"] == "UNAVAILABLE"
    # What it was rejected for is not begun, unproven, by a start.
    await plugin.post("start", params={"wait": 5})
    assert (await plugin.whole())["version"] == "1.0.0"


async def test_a_revert_goes_back_and_stays_there(harness: Harness) -> None:
    """To the former manifest and image, whatever the folder has; also over restarts of the orchestrator."""
    plugin = await Versions(harness).serve()
    answer = await plugin.post("revert")
    assert (answer.status_code, answer.json()["error_type"]) == (409, "NothingToRevert")
    assert [each and each["version"] for each in (await plugin.releases()).values()] == ["1.0.0", None]
    plugin.write(2)
    await plugin.update()
    assert [each and each["version"] for each in (await plugin.releases()).values()] == ["2.0.0", "1.0.0"]
    async with plugin.callers() as answers:
        found = (await plugin.post("revert", params={"wait": 10})).json()
    assert (found["kind"], found["step"], found["to_release"]["version"]) == ("revert", "SETTLED", "1.0.0")
    assert results(answers)[-1] == "v1"
    assert [each["step"] for each in await plugin.updates()] == ["SETTLED", "REVERTED"]
    await harness.shut(containers_stay=True)
    await harness.open()
    assert (await plugin.whole())["version"] == "1.0.0", "it is adopted, and not restarted"
    await harness.shut()
    await harness.open()
    assert (await plugin.whole())["version"] == "1.0.0", "it is begun again"
    await plugin.post("restart", params={"wait": 5})
    assert (await plugin.whole())["version"] == "2.0.0", "a restart reads the folder"


async def test_an_update_to_the_same_does_nothing(harness: Harness) -> None:
    plugin = await Versions(harness, replicas=2).serve()
    found = await plugin.update()
    assert (found["step"], found["reason"]) == ("SETTLED", "Every instance is of this release already.")
    assert [each["generation"] for each in (await plugin.whole())["instances"]] == [1, 2]


async def test_an_update_brings_a_plugin_back_that_does_not_serve(harness: Harness) -> None:
    """Proven first: what is broken again is rejected, with the plugin as it was."""
    plugin = Versions(harness)
    fails_to_start(plugin.runtimes[1])
    await harness.open()
    await harness.until_removed("reader")
    spoilt = plugin.write(2, calls=CALLS)
    answers_otherwise(spoilt)
    found = await plugin.update()
    assert (found["step"], found["reason_code"]) == ("REJECTED", "INVALID_OUTPUT")
    health = await harness.health("reader")
    assert (health["state"], health["reason_code"]) == ("FAILED", "IMPORT_ERROR")
    spoilt.tools["read"] = lambda: "v2"
    assert (await plugin.update())["step"] == "SETTLED"
    health = await plugin.whole()
    assert (health["version"], health["reason_code"]) == ("2.0.0", None)


async def test_a_rollout_stops_at_the_first_replica_that_fails(harness: Harness) -> None:
    """Whoever serves goes on, and the same update goes on with the rest."""
    plugin = await Versions(harness, replicas=3).serve()
    new = plugin.write(2, calls=CALLS)
    proven = 0

    def read() -> str:
        nonlocal proven
        proven += 1
        return "v2" if proven != 2 else "something else"

    new.tools["read"] = read
    found = await plugin.update()
    assert (found["step"], found["reason_code"], found["replicas_updated"]) == ("SETTLED", "INVALID_OUTPUT", 1)
    assert "1 of 3 instances are of 2.0.0, 2 of 1.0.0; these serve" in found["reason"]
    health = await plugin.whole()
    assert sorted(each["version"] for each in health["instances"]) == ["1.0.0", "1.0.0", "2.0.0"]
    found = await plugin.update()
    assert (found["step"], found["reason"]) == ("SETTLED", None)
    assert {each["version"] for each in (await plugin.whole())["instances"]} == {"2.0.0"}


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
@pytest.mark.parametrize("step", ["BUILT", "STARTING", "PROVING", "SWITCHED"])
async def test_the_next_orchestrator_finds_one_release_that_serves(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, step: str, strategy: str
) -> None:
    """Wherever the last one ended: before the switch the former release, from then on the new one, as is on file."""
    gate = asyncio.Event()

    async def read() -> str:
        await gate.wait()
        return "v2"

    plugin = await Versions(harness, concurrency=4).serve()
    new = plugin.write(2, calls=CALLS)
    new.start = [(0.5, {"phase": "ready"})]
    new.tools["read"] = read
    if step == "SWITCHED":
        gate.set()
    await gone_at(plugin, monkeypatch, at(step), strategy=strategy)
    gate.set()
    await harness.open()
    (found,) = await plugin.updates()
    version = "2.0.0" if step == "SWITCHED" else "1.0.0"
    if step == "SWITCHED":
        found = await plugin.until_step("SETTLED")
    else:
        assert (found["step"], found["reason_code"]) == ("REJECTED", "STOPPED")
        assert found["reason"] == f"The orchestrator ended while the update was {step}."
    health = await plugin.whole()
    assert health["version"] == version
    assert len(await harness.containers("reader")) == 1
    # What it is now is what it stays, and the next update is as any.
    await harness.shut()
    await harness.open()
    assert (await plugin.whole())["version"] == version
    assert (await plugin.update())["step"] == "SETTLED"
    assert (await plugin.whole())["version"] == "2.0.0"


async def test_a_rejected_release_is_not_begun_by_the_next_orchestrator(harness: Harness) -> None:
    """Neither beside the one that it adopts, nor where it finds no container; once its folder changes it is."""
    plugin = await Versions(harness).serve()
    answers_otherwise(plugin.write(2, calls=CALLS))
    assert (await plugin.update())["step"] == "REJECTED"
    for containers_stay in (True, False):
        await harness.shut(containers_stay=containers_stay)
        await harness.open()
        assert (await plugin.whole())["version"] == "1.0.0"
        assert await plugin.read() == "v1"
    await harness.shut()
    plugin.write(3)
    await harness.open()
    assert (await plugin.whole())["version"] == "3.0.0"


async def test_an_update_waits_for_a_disk_that_is_full(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes effect that is not on file; a command that cannot be written is refused."""
    monkeypatch.setattr(rollout_driver, "_WRITE_AGAIN", 0.05)
    plugin = await Versions(harness).serve()
    plugin.write(2).start = [(0.3, {"phase": "ready"})]
    full, write = False, ReleaseStore.write

    def write_if_room(store: ReleaseStore, name: str, state: PluginReleases) -> None:
        if full:
            raise ReleaseStoreError("The releases of reader cannot be written to the state folder: no space left.")
        write(store, name, state)

    monkeypatch.setattr(ReleaseStore, "write", write_if_room)
    full = True
    answer = await plugin.post("update", json={})
    assert (answer.status_code, answer.json()["error_type"]) == (503, "NotStored")
    assert "no space left" in answer.json()["error"]
    full = False
    await plugin.update(wait=0)
    full = True
    await asyncio.sleep(0.6)
    assert await plugin.read() == "v1"
    full = False
    await plugin.until_step("SETTLED")
    assert await plugin.read() == "v2"


async def test_a_parked_plugin_is_updated(harness: Harness) -> None:
    """It comes up with the new version, proven; a run that comes meanwhile waits for it."""
    plugin = await Versions(harness).serve()
    await plugin.post("park")
    await harness.until("reader", lambda health: health["reason_code"] == "PARKED")
    new = plugin.write(2, calls=CALLS)
    new.start = [(0.3, {"phase": "ready"})]
    await plugin.update(wait=0)
    await plugin.until_step("STARTING")
    assert await plugin.read() == "v2"
    await plugin.until_step("SETTLED")
    assert len((await plugin.whole())["instances"]) == 1


async def test_on_a_full_gpu_the_old_one_makes_room(harness: Harness) -> None:
    """`auto` says so, and where it was in vain the former release begins again on it."""
    harness.gpus = FakeGpus(device(0))
    harness.engine.device_drivers = ("nvidia",)
    plugin = await Versions(harness, requires_gpu=True, gpu={"count": 1}).serve()
    plugin.write(2, calls=CALLS)
    async with plugin.callers(2) as answers:
        found = await plugin.update()
    assert (found["step"], found["strategy"]) == ("SETTLED", "replace"), found
    assert "there is no GPU for a second instance" in found["strategy_reason"]
    assert results(answers)[-1] == "v2"
    answers_otherwise(plugin.write(3, calls=b"- tool: read\n  arguments: {}\n  expect: {equals: v3}\n"))
    async with plugin.callers(2) as answers:
        found = await plugin.update()
    assert (found["step"], found["reason_code"], found["strategy"]) == ("REJECTED", "INVALID_OUTPUT", "replace")
    health = await plugin.whole()
    assert set(results(answers)) == {"v2"}
    assert (health["version"], health["state"], len(health["gpus"])) == ("2.0.0", "RUNNING", 1)


async def test_health_and_events_tell_an_update(harness: Harness) -> None:
    plugin = await Versions(harness).serve()
    plugin.write(2)
    found = await plugin.update()
    events = (await harness.client.get("/v1/plugins/reader/events")).json()
    told = [each["reason"] for each in events if (each["reason"] or "").startswith(f"update {found['id']}")]
    steps = ["PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED"]
    assert [next(step for step in steps if f": {step}" in text) for text in told] == steps
