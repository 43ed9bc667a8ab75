"""Every way to fail, in a real container: the right state, code and sentence, and no other plugin is affected."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.checkout import TESTS
from support.live import HEALTH_ROUTES_ANSWER, LiveOrchestrator, health_watch, live_orchestrator
from support.waiting import PATIENCE

FIXTURES = TESTS / "fixtures"
EXPECTED = yaml.safe_load((FIXTURES / "expectations.yaml").read_text())
CASES = EXPECTED["plugins"]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]  # an engine that has built nothing builds forty images


@pytest.fixture(scope="module")
def live() -> Iterator[LiveOrchestrator]:
    with live_orchestrator([FIXTURES / "plugins", FIXTURES / "bad_manifests"]) as orchestrator:
        orchestrator.wait_ready(600)
        yield orchestrator


def _one_of(expected: Any) -> list[Any]:
    return expected if isinstance(expected, list) else [expected]


def test_every_fixture_folder_is_in_the_table() -> None:
    """A fixture without expectations proves nothing."""
    assert {case["plugin"] for case in CASES} == {folder.name for folder in (FIXTURES / "plugins").iterdir()}
    assert {case["folder"] for case in EXPECTED["bad_manifests"]} == {
        f.name for f in (FIXTURES / "bad_manifests").iterdir()
    }


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['plugin']}-{c['call']['tool'] if c['call'] else 'start'}")
def test_a_fixture_plugin_ends_as_the_contract_says(live: LiveOrchestrator, case: dict[str, Any]) -> None:
    """State, reason code, sentence and HTTP status; the echo plugin still works, health answers only 200 and 404."""
    name, call = case["plugin"], case["call"]
    with health_watch(live, [name, "no-such-plugin"]):
        response = live.run(name, call["tool"] if call else "run", call["arguments"] if call else {})
        health = live.wait_for(name, case["state"])
    envelope = response.json()
    assert response.status_code in _one_of(case["http_status"]), envelope
    assert health["reason_code"] in _one_of(case["reason_code"]), health
    text = health["reason"] if case["reason_code"] else response.text
    assert case["phrase"].lower() in text.lower()
    assert envelope["ok"] is (response.status_code == 200)
    assert "traceback" not in response.text.lower()
    assert str(FIXTURES) not in response.text
    assert live.run("echo", "echo", {"text": "still here"}).json()["ok"] is True
    assert live.statuses <= HEALTH_ROUTES_ANSWER


@pytest.mark.parametrize("case", EXPECTED["bad_manifests"], ids=lambda c: c["folder"])
def test_a_bad_manifest_is_reported_and_hides_no_other(live: LiveOrchestrator, case: dict[str, Any]) -> None:
    """FAILED with MANIFEST_INVALID and a reason that names the fault."""
    broken = [p for p in live.client.get("/v1/plugins").json() if p["reason_code"] == "MANIFEST_INVALID"]
    assert all(plugin["state"] == "FAILED" for plugin in broken)
    assert any(case["folder"] in plugin["reason"] and case["phrase"] in plugin["reason"] for plugin in broken), broken


def test_a_hang_is_reported_with_its_stacks(live: LiveOrchestrator) -> None:
    """The post-mortem has the stacks of a timed-out worker's threads, even when it held the GIL."""
    for name in ("hangs", "holds-gil"):
        if live.health(name)["reason_code"] != "TIMEOUT":
            live.run(name, "run")
        live.wait_for(name, "FAILED")
        stacks = _post_mortem(live, name)["stacks"]
        assert "plugin.py" in stacks and "in run" in stacks, stacks


def test_a_failed_plugin_works_again_after_a_restart(live: LiveOrchestrator) -> None:
    """The new instance has the next generation; the counters stay."""
    live.run("tool-raises", "run")
    before = live.wait_for("tool-raises", "FAILED")
    after = live.restart("tool-raises")
    assert (after["state"], after["reason_code"], after["generation"]) == (
        "INITIALIZED",
        None,
        before["generation"] + 1,
    )
    assert after["error_count"] == before["error_count"] >= 1


def test_ended_instances_leave_nothing_behind(live: LiveOrchestrator) -> None:
    """Only living plugins have a container and a socket folder."""
    alive = [p["name"] for p in live.client.get("/v1/plugins").json() if p["state"] in ("INITIALIZED", "RUNNING")]
    for name in [case["plugin"] for case in CASES if case["state"] in ("FAILED", "UNAVAILABLE")]:
        if name not in alive:
            _post_mortem(live, name)
    assert len(live.containers()) == len(alive)
    assert len(list((live.run_dir / live.deployment).iterdir())) == len(alive)


def _post_mortem(live: LiveOrchestrator, name: str) -> dict[str, Any]:
    import time

    end = time.monotonic() + 20 * PATIENCE
    while (health := live.health(name))["post_mortem"] is None:
        assert time.monotonic() < end, f"no post-mortem of {name}: {health}"
        time.sleep(0.05)
    return health["post_mortem"]
