"""A restart of a plugin that serves: what is broken before the stop costs no call, and a build costs no time."""

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.checkout import PROJECT
from support.harness import TIMEOUT, Harness, eventually
from support.slow_builds import SlowBuilds

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor

FIXTURES = PROJECT / "tests" / "fixtures"
EXPECTATIONS = yaml.safe_load((FIXTURES / "expectations.yaml").read_text())
KNOWN_BEFORE = [ReasonCode.MODEL_MISSING, ReasonCode.MODEL_CORRUPT]
"""Reason codes of fixtures whose fault is on the host and not in the container."""

Break = Callable[[Harness], None]


def replaced_by(source: Path) -> Break:
    """The plugin's folder has the content of another one."""

    def break_it(harness: Harness) -> None:
        target = harness.plugins / "reader"
        shutil.copytree(source, target, dirs_exist_ok=True)
        manifest = target / "plugin.yaml"
        name = f"name: {source.name}"
        manifest.write_text(manifest.read_text().replace(name, "name: reader"))

    return break_it


def manifest(**fields: Any) -> Break:
    return lambda harness: harness.write("reader", **{"image": "base", **fields})


def removed(harness: Harness) -> None:
    shutil.rmtree(harness.plugins / "reader")


def twice(harness: Harness) -> None:
    shutil.copytree(harness.plugins / "reader", harness.plugins / "copy")
    with (harness.plugins / "copy" / "plugin.yaml").open("a") as copy:
        copy.write("name: reader\n")


def unbuildable(harness: Harness) -> None:
    (harness.plugins / "reader" / "requirements.txt").write_text("no-such-package==1\n")
    harness.engine.image_store.build_error = "ERROR: No matching distribution found for no-such-package==1"


def links_away(harness: Harness) -> None:
    (harness.plugins / "reader" / "elsewhere").symlink_to("/etc/passwd")


def without_gpu(harness: Harness) -> None:
    harness.gpus.devices = ()
    manifest(requires_gpu=True)(harness)


def without_engine(harness: Harness) -> None:
    (harness.plugins / "reader" / "new.py").write_text("x = 1\n")
    harness.engine.refuse = {"build": "no space left on device"}


FAULTS: dict[str, tuple[Break, str, str]] = {
    **{
        f"fixture {case['plugin']}": (
            replaced_by(FIXTURES / "plugins" / case["plugin"]),
            case["reason_code"],
            case["phrase"],
        )
        for case in EXPECTATIONS["plugins"]
        if case["reason_code"] in KNOWN_BEFORE
    },
    **{
        f"manifest {case['folder']}": (
            replaced_by(FIXTURES / "bad_manifests" / case["folder"]),
            "MANIFEST_INVALID",
            case["phrase"],
        )
        for case in EXPECTATIONS["bad_manifests"]
        if not case["folder"].startswith("duplicate")
    },
    "a name that two folders have": (twice, "MANIFEST_INVALID", "reader"),
    "a folder that is gone": (removed, "MANIFEST_INVALID", "removed"),
    "a misspelt limit": (manifest(limits={"memory": "128MBi"}), "MANIFEST_INVALID", "128MBi"),
    "a secret that nobody provides": (manifest(secrets=["TOKEN"]), "SECRET_MISSING", "TOKEN"),
    "an image that cannot be pulled": (manifest(image="nowhere/reader:1"), "IMAGE_MISSING", "nowhere/reader"),
    "a requirement that no index has": (unbuildable, "BUILD_FAILED", "no-such-package"),
    "a link out of the folder": (links_away, "BUILD_FAILED", "leads out"),
    "no GPU on this host": (without_gpu, "GPU_NOT_FOUND", "GPU"),
    "an engine that refuses to build": (without_engine, "INIT_ERROR", "no space left"),
}


@asynccontextmanager
async def calls_without_pause(harness: Harness) -> AsyncIterator[list[httpx.Response]]:
    """The answers to calls of the plugin, one after the other for as long as the block runs."""
    answers: list[httpx.Response] = []

    async def call() -> None:
        while True:
            answers.append(await harness.run("reader", "read"))

    calling = asyncio.create_task(call())
    try:
        yield answers
        seen = len(answers)
        await eventually(lambda: len(answers) > seen + 1 or calling.done(), "calls after the block")
    finally:
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)


async def serving(harness: Harness) -> dict[str, Any]:
    """The health of a plugin with an image that was built, once it has executed a run."""
    harness.add("reader", image="base", tools={"read": lambda: "text"}, files={"code.py": b"x = 0\n"})
    await harness.open()
    await harness.settled("reader")
    assert (await harness.run("reader", "read")).status_code == 200
    return await harness.health("reader")


async def restart(harness: Harness, wait: float = 0) -> httpx.Response:
    return await harness.client.post(f"/v1/plugins/reader/restart?wait={wait}")


def edit(harness: Harness, text: str = "x = 1\n") -> None:
    (harness.plugins / "reader" / "code.py").write_text(text)


async def notes(harness: Harness) -> list[tuple[str, str | None, str | None]]:
    """State, reason code and reason of the events that changed no state."""
    events = (await harness.client.get("/v1/plugins/reader/events")).json()
    return [(e["state"], e["reason_code"], e["reason"]) for e in events if e["state"] == e["previous"]]


def test_the_fixtures_have_such_faults() -> None:
    """Else the cases below would be fewer than they look."""
    assert len([name for name in FAULTS if name.startswith("fixture")]) >= 2
    assert len([name for name in FAULTS if name.startswith("manifest")]) >= 4


@pytest.mark.parametrize(("break_it", "code", "phrase"), FAULTS.values(), ids=FAULTS.keys())
async def test_what_is_broken_before_the_stop_costs_no_call(
    harness: Harness, break_it: Break, code: str, phrase: str
) -> None:
    """The command says what is broken, health, checks and events too, and the instance serves on as if nothing were."""
    before = await serving(harness)
    containers = await harness.containers("reader")
    async with calls_without_pause(harness) as answers:
        break_it(harness)
        answer = await restart(harness, wait=5)
    assert {each.status_code for each in answers} == {200}
    refusal = answer.json()
    assert (answer.status_code, refusal["error_type"], refusal["reason_code"]) == (409, "RestartRefused", code)
    assert phrase in refusal["error"]
    after = await harness.health("reader")
    assert (after["state"], after["reason_code"], after["generation"]) == ("RUNNING", None, before["generation"])
    assert (after["version"], after["limits"]) == (before["version"], before["limits"])
    assert after["reason"].startswith("Its restart was refused, so instance 1 goes on.")
    assert (after["restart"]["state"], after["restart"]["reason_code"]) == ("refused", code)
    assert phrase in after["restart"]["reason"]
    assert [c["detail"] for c in after["checks"] if c["name"] == "restart"] == [f"{code}: {after['restart']['reason']}"]
    assert (await notes(harness))[-1] == ("RUNNING", code, f"The restart was refused: {refusal['error']}")
    assert await harness.containers("reader") == containers


async def test_once_it_is_fixed_it_restarts(harness: Harness) -> None:
    """And what was refused before is no longer in its health."""
    await serving(harness)
    manifest(secrets=["TOKEN"])(harness)
    assert (await restart(harness)).status_code == 409
    harness.write("reader", image="base", version="2.0.0")
    answer = await restart(harness, wait=5)
    assert answer.status_code == 200
    after = await harness.settled("reader")
    assert (after["generation"], after["version"]) == (2, "2.0.0")
    assert (after["reason"], after["restart"]) == (None, None)
    assert "restart" not in {check["name"] for check in after["checks"]}


async def test_a_plugin_that_does_not_serve_restarts_into_its_new_reason(harness: Harness) -> None:
    """Nothing can be saved there, and the newest reason is the one to act on."""
    await serving(harness)
    await harness.client.post("/v1/plugins/reader/stop")
    manifest(secrets=["TOKEN"])(harness)
    assert (await restart(harness)).status_code == 200
    after = await harness.settled("reader")
    assert (after["state"], after["reason_code"], after["generation"]) == ("UNAVAILABLE", "SECRET_MISSING", 2)


async def test_calls_are_answered_while_the_image_is_built(harness: Harness) -> None:
    """By the old instance with its old limits; health says what goes on, and the command is answered at once."""
    before = await serving(harness)
    builds = SlowBuilds(harness)
    async with calls_without_pause(harness) as answers:
        harness.write("reader", image="base", version="2.0.0", limits={"timeout": "7s"})
        edit(harness)
        answer = await restart(harness)
        during = await harness.health("reader")
    assert {each.status_code for each in answers} == {200}
    assert answer.status_code == 202
    assert answer.json()["restart"]["state"] == "preparing"
    assert (during["state"], during["version"], during["limits"]) == ("RUNNING", "1.0.0", before["limits"])
    assert during["reason"].startswith("building its image for ")
    assert during["activity"]["what"] == "building its image"
    builds.go_on()
    after = await harness.until("reader", lambda health: health["generation"] == 2 and health["state"] != "LOADED")
    assert (after["version"], after["limits"]["timeout_seconds"]) == ("2.0.0", 7)
    assert (after["restart"], after["activity"], after["reason"]) == (None, None, None)
    assert [reason for _, _, reason in await notes(harness)][-2:] == ["building its image", "built its image in 0 s"]


async def test_the_log_of_the_orchestrator_has_it_too(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """Else it is silent for as long as a build takes."""
    with caplog.at_level(logging.INFO, "orchestrator"):
        await serving(harness)
        builds = SlowBuilds(harness)
        edit(harness)
        await restart(harness)
        assert caplog.messages[-1] == "reader: building its image"
        builds.go_on()
        await harness.until("reader", lambda health: health["generation"] == 2 and health["state"] != "LOADED")
    assert "reader: instance 1 is ready" in caplog.messages
    assert caplog.messages[-1] == "reader: instance 2 is ready"
    assert "reader: built its image in 0 s" in caplog.messages


async def test_a_wait_is_answered_once_the_new_instance_is_ready(harness: Harness) -> None:
    await serving(harness)
    builds = SlowBuilds(harness)
    edit(harness)
    restarting = asyncio.create_task(restart(harness, wait=30))
    await eventually(lambda: len(builds.begun) == 1, "a build")
    builds.go_on()
    answer = await restarting
    assert (answer.status_code, answer.json()["state"], answer.json()["generation"]) == (200, "INITIALIZED", 2)


async def test_a_second_restart_of_the_same_files_joins_the_first(harness: Harness) -> None:
    """One build, one new instance, for both."""
    await serving(harness)
    builds = SlowBuilds(harness)
    edit(harness)
    assert (await restart(harness)).status_code == 202
    assert (await restart(harness)).json()["restart"]["state"] == "preparing"
    builds.go_on()
    await harness.until("reader", lambda health: health["generation"] == 2 and health["state"] != "LOADED")
    assert len(builds.begun) == 1
    assert [event.generation for event in harness.registry.events() if event.state == "INITIALIZED"] == [1, 2]


async def test_a_restart_of_newer_files_takes_the_place_of_the_first(harness: Harness) -> None:
    """The newest files are in the new instance; who waits for the first restart is answered with that one."""
    await serving(harness)
    builds = SlowBuilds(harness)
    edit(harness, "first = 1\n")
    first = asyncio.create_task(restart(harness, wait=30))
    await eventually(lambda: len(builds.begun) == 1, "the first build")
    edit(harness, "second = 1\n")
    assert (await restart(harness)).status_code == 202
    await eventually(lambda: len(builds.begun) == 2, "the second build")
    builds.go_on()
    answer = await first
    assert (answer.status_code, answer.json()["generation"]) == (200, 2)
    tags = {build.tag for build in harness.engine.image_store.builds}
    assert builds.begun[0].tag not in tags - {builds.begun[1].tag}


async def test_a_stop_wins_over_a_restart_that_prepares(harness: Harness) -> None:
    await serving(harness)
    builds = SlowBuilds(harness)
    edit(harness)
    restarting = asyncio.create_task(restart(harness, wait=30))
    await eventually(lambda: len(builds.begun) == 1, "a build")
    assert (await harness.client.post("/v1/plugins/reader/stop")).status_code == 200
    answer = await restarting
    assert (answer.status_code, answer.json()["reason_code"]) == (409, "STOPPED")
    after = await harness.health("reader")
    assert (after["state"], after["reason_code"], after["generation"]) == ("UNAVAILABLE", "STOPPED", 1)
    assert (after["activity"], after["restart"]) == (None, None)
    assert ("RUNNING", "STOPPED", f"The restart was refused: {answer.json()['error']}") in await notes(harness)
    assert await harness.containers("reader") == []


async def test_a_stop_wins_over_a_restart_whose_files_are_still_read(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which begins to prepare while the stop waits for it."""
    await serving(harness)
    SlowBuilds(harness)
    edit(harness)
    reading, read_on = threading.Event(), threading.Event()
    reload = PluginLoader.reload

    def slowly(loader: PluginLoader, plugin: DiscoveredPlugin) -> DiscoveredPlugin:
        reading.set()
        read_on.wait(TIMEOUT)
        return reload(loader, plugin)

    monkeypatch.setattr(PluginLoader, "reload", slowly)
    stop, stops = PluginSupervisor.stop, asyncio.Event()

    async def noted(*arguments: Any, **options: Any) -> None:
        stops.set()
        await stop(*arguments, **options)

    monkeypatch.setattr(PluginSupervisor, "stop", noted)
    restarting = asyncio.create_task(restart(harness, wait=30))
    await eventually(reading.is_set, "a restart that reads the files")
    stopping = asyncio.create_task(harness.client.post("/v1/plugins/reader/stop"))
    await eventually(stops.is_set, "the stop begins")
    read_on.set()
    assert (await stopping).status_code == 200
    answer = await restarting
    assert (answer.status_code, answer.json()["reason_code"]) == (409, "STOPPED")
    after = await harness.health("reader")
    assert (after["state"], after["generation"], after["restart"]) == ("UNAVAILABLE", 1, None)


async def test_a_start_during_it_changes_nothing(harness: Harness) -> None:
    await serving(harness)
    builds = SlowBuilds(harness)
    edit(harness)
    await restart(harness)
    answer = await harness.client.post("/v1/plugins/reader/start")
    assert (answer.status_code, answer.json()["state"], answer.json()["generation"]) == (200, "RUNNING", 1)
    builds.go_on()
    await harness.until("reader", lambda health: health["generation"] == 2)


async def test_an_instance_that_ends_meanwhile_is_replaced_and_its_callers_wait_for_the_new_one(
    harness: Harness,
) -> None:
    await serving(harness)
    builds = SlowBuilds(harness)
    edit(harness)
    await restart(harness)
    await harness.engine.kill_outside((await harness.containers("reader"))[0])
    await harness.until_state("reader", "FAILED")
    call = asyncio.create_task(harness.run("reader", "read"))
    builds.go_on()
    assert (await call).status_code == 200
    assert (await harness.health("reader"))["generation"] == 2


async def test_a_build_that_fails_after_the_answer_is_seen_in_health_and_events(harness: Harness) -> None:
    """As who did not wait for it learns of it."""
    await serving(harness)
    builds = SlowBuilds(harness)
    unbuildable(harness)
    assert (await restart(harness)).status_code == 202
    builds.go_on()
    after = await harness.until("reader", lambda health: health["restart"]["state"] == "refused")
    assert (after["state"], after["restart"]["reason_code"], after["activity"]) == ("RUNNING", "BUILD_FAILED", None)
    assert (await notes(harness))[-1][1] == "BUILD_FAILED"
    assert (await harness.run("reader", "read")).status_code == 200


async def test_an_orchestrator_that_stops_meanwhile_leaves_the_instance_running(harness: Harness) -> None:
    """And no task of it behind."""
    await serving(harness)
    SlowBuilds(harness)
    edit(harness)
    await restart(harness)
    containers = await harness.containers("reader")
    await harness.shut(containers_stay=True)
    assert [each.state for each in await harness.engine.list({})] == ["running"]
    assert await harness.containers("reader") == containers
