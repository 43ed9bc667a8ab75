"""An engine that answers 500, garbage or nothing to stop and kill: reported in time, and the other plugins run on."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine.faults.conftest import ECHOES, Watched, nothing_left_but
from support.engine_proxy import GARBAGE, REFUSED, SILENCE, EngineProxy, EngineRequest
from support.live import LiveOrchestrator
from support.reliability import ReliabilityTable

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
]

MAX_REPORT_DELAY = 15.0  # seconds from the end of the instance to KILL_FAILED


ANSWERS = {"ada": REFUSED, "ben": GARBAGE, "cleo": SILENCE}
"""Plugin → what the engine answers to whatever would end its container."""


def test_an_engine_that_ends_no_container(
    live: LiveOrchestrator, proxy: EngineProxy, watched: Watched, reliability: ReliabilityTable
) -> None:
    """Each caller is answered at its deadline, its plugin is FAILED with KILL_FAILED, and the container is removed once
    the engine obeys again.
    """
    others = [name for name in ECHOES if name not in ANSWERS]
    containers = {live.health(name)["container"]["id"]: answer for name, answer in ANSWERS.items()}

    def refuse(request: EngineRequest) -> bytes | None:
        if request.method == "DELETE" or request.path.endswith(("/stop", "/kill")):
            return next((answer for id_, answer in containers.items() if f"/{id_}" in request.path), None)
        return None

    with watched(live, ECHOES), ThreadPoolExecutor(len(ANSWERS)) as pool:
        proxy.refuse = refuse
        for seconds in pool.map(lambda name: _time_out(live, name), ANSWERS):
            assert seconds < 2.5
        ended = time.monotonic()
        for name in ANSWERS:
            while (health := live.health(name))["reason_code"] != "KILL_FAILED":
                assert time.monotonic() < ended + MAX_REPORT_DELAY * 2, health
                time.sleep(0.05)
            assert "docker rm" in health["reason"]
        took = time.monotonic() - ended
        reliability.at_most("engine ends no container: KILL_FAILED after", took, limit=MAX_REPORT_DELAY, unit="s")
        assert all(live.run(name, "echo", {"text": "on"}).json()["ok"] for name in others)
        assert {live.run(name, "echo", {"text": "on"}).status_code for name in ANSWERS} == {503}
        proxy.refuse = lambda _: None
    nothing_left_but(live, len(others), seconds=60)
    assert {live.restart(name)["state"] for name in ANSWERS} == {"INITIALIZED"}


def _time_out(live: LiveOrchestrator, plugin: str) -> float:
    """Seconds that the caller of a run without end waited."""
    started = time.monotonic()
    assert live.run(plugin, "sleep", {"seconds": 60}).status_code == 504
    return time.monotonic() - started
