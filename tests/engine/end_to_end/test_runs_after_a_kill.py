"""SIGKILL of the orchestrator during asynchronous runs, with real containers."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

FIXTURES = TESTS / "fixtures" / "plugins"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(FIXTURES / "echo", folder / "echo")
    manifest = folder / "echo" / "plugin.yaml"
    manifest.write_text(manifest.read_text().replace("timeout: 2s", "timeout: 60s").replace("concurrency: 4\n", ""))
    with live_orchestrator([folder]) as live:
        live.wait_ready(180)
        yield live


def start_run(live: LiveOrchestrator, seconds: float) -> str:
    answer = live.run("echo", "sleep", {"seconds": seconds}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


def get_run(live: LiveOrchestrator, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = live.client.get(f"/v1/runs/{run_id}").json()
    return run


def kill_and_restart(live: LiveOrchestrator) -> None:
    live.kill()
    live.start()
    live.wait_until_serving()


def test_an_executing_run_is_delivered_and_a_queued_one_is_interrupted(live: LiveOrchestrator) -> None:
    """The container stays the same; the run is counted once."""
    before = live.health("echo")
    first, second = start_run(live, 5), start_run(live, 0)
    time.sleep(0.5)
    kill_and_restart(live)
    assert get_run(live, second)["state"] == "interrupted"
    answer = live.client.get(f"/v1/runs/{first}/result", params={"wait": 30})
    assert (answer.status_code, answer.json()["ok"]) == (200, True)
    assert answer.json()["execution_time_ms"] > 4900
    after = live.health("echo")
    assert after["container"]["id"] == before["container"]["id"]
    assert after["success_count"] == before["success_count"] + 1


def test_no_run_is_lost_or_stuck_whenever_the_kill_comes(live: LiveOrchestrator, reliability: ReliabilityTable) -> None:
    """From right after 202 to long after the tool's end: its result is available, and it is counted once."""
    before = live.health("echo")["success_count"]
    delivered = {}
    for moment in (0.0, 0.1, 0.3, 0.6):
        run_id = start_run(live, 0.5)
        time.sleep(moment)
        kill_and_restart(live)
        answer = live.client.get(f"/v1/runs/{run_id}/result", params={"wait": 30})
        state = get_run(live, run_id)["state"]
        assert state in {"finished", "interrupted"}, state
        assert (answer.status_code == 200) is (state == "finished")
        delivered[moment] = state == "finished"
    assert live.health("echo")["success_count"] == before + sum(delivered.values())
    del delivered[0.0]  # its call may not have reached the container
    found = sum(delivered.values())
    reliability.count("asynchronous run found again after SIGKILL", right=found, of=len(delivered))
