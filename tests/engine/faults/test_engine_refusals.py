"""An engine that answers 500, garbage or nothing to stop and kill: reported in time, and the other plugins run on."""

import os
import time

import pytest
from engine.faults.conftest import ECHOES, Watched, nothing_left_but
from support.engine_proxy import GARBAGE, REFUSED, SILENCE, EngineProxy, EngineRequest
from support.live import LiveOrchestrator
from support.reliability import ReliabilityTable

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="a Docker Engine of its own needs root"),
]

MAX_REPORT_DELAY = 15.0  # seconds from the end of the instance to KILL_FAILED


@pytest.mark.parametrize("answer", [REFUSED, GARBAGE, SILENCE], ids=["500", "garbage", "nothing"])
def test_an_engine_that_ends_no_container(
    answer: bytes, live: LiveOrchestrator, proxy: EngineProxy, watched: Watched, reliability: ReliabilityTable
) -> None:
    """The caller is answered at its deadline, the plugin is FAILED with KILL_FAILED, and the container is removed once
    the engine obeys again.
    """
    victim, *others = ECHOES
    live.restart(victim)

    def ends(request: EngineRequest) -> bool:
        return request.method == "DELETE" or request.path.endswith(("/stop", "/kill"))

    with watched(live, ECHOES):
        proxy.refuse = lambda request: answer if ends(request) else None
        started = time.monotonic()
        assert live.run(victim, "sleep", {"seconds": 60}).status_code == 504
        assert time.monotonic() - started < 2.5
        ended = time.monotonic()
        while (health := live.health(victim))["reason_code"] != "KILL_FAILED":
            assert time.monotonic() < ended + MAX_REPORT_DELAY * 2, health
            time.sleep(0.05)
        took = time.monotonic() - ended
        reliability.at_most("engine ends no container: KILL_FAILED after", took, limit=MAX_REPORT_DELAY, unit="s")
        assert "docker rm" in health["reason"]
        assert all(live.run(name, "echo", {"text": "on"}).json()["ok"] for name in others)
        assert live.run(victim, "echo", {"text": "on"}).status_code == 503
        proxy.refuse = lambda _: None
    nothing_left_but(live, len(others), seconds=60)
    assert live.restart(victim)["state"] == "INITIALIZED"
