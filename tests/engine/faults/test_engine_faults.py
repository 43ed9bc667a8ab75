"""The engine is frozen, killed, restarted: runs continue, the API answers from the last known state and catches up."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine.faults.conftest import ECHOES, Watched, nothing_left_but
from simulated_nvidia.dockerd import OwnDockerd, own_dockerd
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
]

SETTINGS = {"engine_timeout": "2s", "stop_grace": "500ms"}


@pytest.fixture(scope="module")
def live(on_own_dockerd: OwnDockerd, echoes: Path) -> Iterator[LiveOrchestrator]:
    with live_orchestrator([echoes], **SETTINGS) as orchestrator:
        orchestrator.wait_ready(60)
        yield orchestrator


def until(live: LiveOrchestrator, plugin: str, holds: Callable[[dict[str, Any]], bool], seconds: float) -> float:
    """Returns the seconds until `holds` was true of the plugin's health."""
    started = time.monotonic()
    while not holds(health := live.health(plugin)):
        assert time.monotonic() - started < seconds, health
        time.sleep(0.02)
    return time.monotonic() - started


def all_stale(live: LiveOrchestrator, *, stale: bool, seconds: float) -> None:
    end = time.monotonic() + seconds
    while {plugin["stale"] for plugin in live.client.get("/v1/plugins").json()} != {stale}:
        assert time.monotonic() < end, f"not all plugins have stale: {stale}"
        time.sleep(0.05)


def sleeping(live: LiveOrchestrator, pool: ThreadPoolExecutor, seconds: float = 1.5) -> list[Any]:
    """Returns runs in flight, one on every plugin."""
    runs = [pool.submit(live.run, name, "sleep", {"seconds": seconds}) for name in ECHOES]
    for name in ECHOES:
        until(live, name, lambda health: health["in_flight"] == 1, 10)
    return runs


def test_a_frozen_engine_holds_up_no_run(live: LiveOrchestrator, on_own_dockerd: OwnDockerd, watched: Watched) -> None:
    """Runs in flight and new ones are answered, deadlines hold; what needs the engine is done once it responds."""
    before = {name: live.health(name)["generation"] for name in ECHOES}
    with watched(live, ECHOES), ThreadPoolExecutor(8) as pool:
        runs = sleeping(live, pool)
        on_own_dockerd.freeze()
        try:
            assert [run.result().status_code for run in runs] == [200] * len(ECHOES)
            assert live.run("ada", "echo", {"text": "on"}).json()["result"] == "on"
            all_stale(live, stale=True, seconds=10)
            started = time.monotonic()
            assert live.run("ben", "sleep", {"seconds": 60}).status_code == 504
            assert time.monotonic() - started < 2.5
            assert live.health("ben")["reason_code"] == "TIMEOUT"
            assert live.run("cleo", "echo", {"text": "on"}).json()["result"] == "on"
        finally:
            on_own_dockerd.thaw()
        all_stale(live, stale=False, seconds=10)
        assert {name: live.health(name)["generation"] for name in ECHOES} == before
    nothing_left_but(live, len(ECHOES) - 1, seconds=40)
    assert live.restart("ben")["state"] == "INITIALIZED"


def test_after_the_engine_was_killed_the_orchestrator_catches_up(
    live: LiveOrchestrator, on_own_dockerd: OwnDockerd, watched: Watched
) -> None:
    """Its containers run on; those that ended meanwhile, or end later, are detected."""
    with watched(live, ECHOES), ThreadPoolExecutor(8) as pool:
        runs = sleeping(live, pool)
        on_own_dockerd.kill()
        assert [run.result().status_code for run in runs] == [200] * len(ECHOES)
        all_stale(live, stale=True, seconds=10)
        assert live.run("ada", "echo", {"text": "on"}).json()["result"] == "on"
        on_own_dockerd.start()
        all_stale(live, stale=False, seconds=10)
        assert {live.health(name)["state"] for name in ECHOES} == {"RUNNING"}
        on_own_dockerd.docker("kill", _container(live, "ada"))
        until(live, "ada", lambda health: health["state"] == "FAILED", 5)
        assert live.health("ada")["reason_code"] == "KILLED"
        assert live.restart("ada")["state"] == "INITIALIZED"
    nothing_left_but(live, len(ECHOES))


def test_an_engine_that_ends_its_containers_with_itself(
    echo_image: str, echoes: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It restarts in the middle of runs: their callers are answered, every plugin is FAILED as killed, and restarts."""
    with own_dockerd() as dockerd:
        dockerd.load_image(echo_image)
        monkeypatch.setenv("DOCKER_HOST", dockerd.environment["DOCKER_HOST"])
        with live_orchestrator([echoes], **SETTINGS) as live, ThreadPoolExecutor(8) as pool:
            live.wait_ready(60)
            with watched(live, ECHOES):
                runs = sleeping(live, pool, seconds=30)
                dockerd.stop()
                dockerd.start()
                answers: list[httpx.Response] = [run.result() for run in runs]
                assert {answer.status_code for answer in answers} == {502}
                assert {answer.json()["reason_code"] for answer in answers} == {"KILLED"}
                all_stale(live, stale=False, seconds=10)
                for health in (live.health(name) for name in ECHOES):
                    # KILL_FAILED as long as the engine could not confirm that the container is removed
                    assert health["reason_code"] in ("KILLED", "KILL_FAILED")
                    assert "killed by SIGTERM, by the plugin itself or from outside" in health["reason"]
            for name in ECHOES:
                assert live.restart(name)["state"] == "INITIALIZED"
            nothing_left_but(live, len(ECHOES))


def _container(live: LiveOrchestrator, plugin: str) -> str:
    return str(live.health(plugin)["container"]["id"])
