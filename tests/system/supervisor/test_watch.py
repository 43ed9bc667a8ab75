"""Liveness: a control socket that reports every few seconds is not probed; one that falls silent is."""

import asyncio
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from support.harness import Harness, eventually
from support.scripted_runtime import ScriptedInstance

from orchestrator.containers.memory.engine import MemoryEngine
from orchestrator.containers.spec import ContainerStatus
from orchestrator.errors import EngineUnreachableError, NotFoundError
from orchestrator.loader.manifest import Manifest
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import InstanceIdentity, effective_limits
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.watch import Watch

FOUND_WITHIN = 10.0
"""Seconds from the last status."""


async def _report_every_second(instance: ScriptedInstance, seconds: int) -> None:
    for _ in range(seconds):
        instance.set_status()
        await asyncio.sleep(1)


async def test_one_that_reports_by_itself_is_probed_only_when_it_falls_silent(harness: Harness) -> None:
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    instance = harness.instance("reader")
    await _report_every_second(instance, 6)
    assert instance.questions == 0
    instance.deaf = True
    instance.set_status()
    started = time.monotonic()
    health = await harness.until("reader", lambda health: health["state"] == "FAILED", timeout=2 * FOUND_WITHIN)
    assert health["reason_code"] == "UNRESPONSIVE"
    assert time.monotonic() - started < FOUND_WITHIN
    assert instance.questions == 3


async def test_one_that_never_reports_by_itself_is_probed_every_few_seconds(harness: Harness) -> None:
    """As a runtime in another language may do, or of an older version."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    instance = harness.instance("reader")
    instance.status = {**instance.status, "cpu_seconds": 4.5}  # without a report
    health = await harness.until("reader", lambda health: health["container"]["cpu_seconds"] == 4.5, timeout=8)
    assert health["state"] == "INITIALIZED"
    assert instance.questions >= 1


async def test_one_whose_removal_is_under_way_has_ended(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker rm --force` from outside, on a slow disk: the engine reports `removing` for seconds."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    inspect = harness.engine.inspect

    async def slowly_removed(container_id: str) -> ContainerStatus:
        status = await inspect(container_id)
        return replace(status, state="removing") if status.state == "exited" else status

    monkeypatch.setattr(harness.engine, "inspect", slowly_removed)
    harness.instance("reader").leave(137)
    health = await harness.until("reader", lambda health: health["state"] == "FAILED")
    assert health["reason_code"] == "KILLED"


@pytest.mark.parametrize("state", ["dead", "removing"])
async def test_one_whose_end_no_event_reported_is_found_in_the_list(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, state: Literal["dead", "removing"]
) -> None:
    """The engine lists it as what is left of a container. Its connections may still be open."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    (container,) = await harness.containers("reader")
    find = harness.engine._find(container)
    find.status = replace(find.status, state=state, exit_code=137)
    harness.engine.break_streams()  # after which the containers are listed
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "KILLED"


async def test_one_that_is_paused_is_found_by_the_event_of_it(harness: Harness) -> None:
    """At once: its control socket need not fall silent first."""
    harness.add("reader", tools={"read": lambda: "text"})
    await harness.open()
    await harness.settled("reader")
    (container,) = await harness.containers("reader")
    harness.engine.pause_outside(container)
    health = await harness.until_state("reader", "FAILED")
    assert (health["reason_code"], harness.instance("reader").questions) == ("UNRESPONSIVE", 0)
    assert health["reason"] == "The container was paused from outside. Unpause it, then restart."
    health = await harness.until_removed("reader")
    assert health["post_mortem"]["evidence"]["container_state"] == "paused"


async def test_one_that_is_paused_while_it_starts_is_found_too(harness: Harness) -> None:
    harness.add("reader", start=[(60.0, {"phase": "ready"})])
    await harness.open()
    await eventually(lambda: bool(harness.runtimes["reader"].instances), "its container runs")
    (container,) = await harness.containers("reader")
    harness.engine.pause_outside(container)
    assert (await harness.until_state("reader", "FAILED"))["reason_code"] == "UNRESPONSIVE"


async def test_one_that_was_paused_while_no_event_came_is_found_in_the_list(harness: Harness) -> None:
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    (container,) = await harness.containers("reader")
    find = harness.engine._find(container)
    find.status = replace(find.status, state="paused")
    harness.engine.break_streams()
    assert (await harness.until_state("reader", "FAILED"))["reason_code"] == "UNRESPONSIVE"


async def test_one_that_was_paused_for_a_moment_goes_on(harness: Harness) -> None:
    """By the time that its event is read it runs again, as after a `docker commit`."""
    harness.add("reader", tools={"read": lambda: "text"})
    await harness.open()
    await harness.settled("reader")
    (container,) = await harness.containers("reader")
    find = harness.engine._find(container)
    find._emit("pause")
    find._emit("unpause")
    assert (await harness.run("reader", "read")).status_code == 200
    assert (await harness.health("reader"))["state"] == "RUNNING"


async def test_one_that_reports_again_is_not_ended(harness: Harness) -> None:
    """Any status of its runtime is a sign of life."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    instance = harness.instance("reader")
    instance.deaf = True
    await harness.until("reader", lambda health: not _answers(health), timeout=8)
    instance.set_status()
    await harness.until("reader", _answers)
    await _report_every_second(instance, 6)
    assert (await harness.health("reader"))["state"] == "INITIALIZED"


def _answers(health: dict[str, object]) -> bool:
    checks = health["checks"]
    assert isinstance(checks, list)
    return all(check["ok"] for check in checks if check["name"] == "control socket")


RUNNING = ContainerStatus("c", "plugin-reader-0", "sha256:1", {}, "running")


@pytest.mark.parametrize(
    ("engine_answer", "give_up", "code"),
    [
        (replace(RUNNING, state="exited", exit_code=3), False, "EXITED"),
        (replace(RUNNING, state="exited", exit_code=139), False, "CRASHED"),
        (replace(RUNNING, state="exited", exit_code=137), False, "KILLED"),
        (replace(RUNNING, state="exited", exit_code=137, oom_killed=True), False, "OUT_OF_MEMORY"),
        (NotFoundError("no such container"), False, "KILLED"),
        (EngineUnreachableError("no answer"), False, None),
        (EngineUnreachableError("no answer"), True, "ENGINE_UNREACHABLE"),
        (RUNNING, False, None),
        (RUNNING, True, "UNRESPONSIVE"),
    ],
)
async def test_the_end_of_a_container_whose_connection_broke(
    monkeypatch: pytest.MonkeyPatch, engine_answer: ContainerStatus | Exception, give_up: bool, code: str | None
) -> None:
    """By what the engine reports; no verdict on one that runs, or may run, unless it is given up."""

    async def inspect(_: str) -> ContainerStatus:
        if isinstance(engine_answer, Exception):
            raise engine_answer
        return engine_answer

    monkeypatch.setattr("orchestrator.supervisor.watch._EXIT_INSPECTIONS", (0.0, 0.001))
    engine = MemoryEngine()
    monkeypatch.setattr(engine, "inspect", inspect)
    manifest = Manifest(name="reader", version="1", description="Reads.", entrypoint="reader.plugin:Reader")
    identity = InstanceIdentity("00000000", "reader", 1, "00000000")
    instance = Instance(manifest, effective_limits(manifest, Settings()), identity, Path("run"))
    verdict = await Watch(engine, instance).find_end(give_up=give_up)
    assert (verdict.code if verdict else None) == code


async def test_one_whose_sockets_were_removed_from_the_host_is_said_to_be_that(harness: Harness) -> None:
    """As logind removes XDG_RUNTIME_DIR at the end of the last session: its connections have ended, and none can be
    made.
    """
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    instance = harness.instance("reader")
    shutil.rmtree(harness.run_dir)
    instance.deaf = True
    health = await harness.until("reader", lambda health: health["state"] == "FAILED", timeout=2 * FOUND_WITHIN)
    assert health["reason_code"] == "UNRESPONSIVE"
    assert "has vanished from the host" in health["reason"] and "loginctl enable-linger" in health["reason"]
    assert str(harness.run_dir) not in health["reason"]


async def test_one_that_starts_after_its_users_last_session_says_so(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of "Permission denied": only logind can make that folder again."""
    monkeypatch.setattr(
        "orchestrator.supervisor.bring_up.session_ended", lambda folder: folder.parent == harness.run_dir
    )
    harness.add("reader")
    await harness.open()
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "INIT_ERROR"
    assert "loginctl enable-linger" in health["reason"]
