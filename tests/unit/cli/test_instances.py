"""`orchestrator plugins` and `orchestrator health` of a plugin with several instances, and of one with a single one."""

from __future__ import annotations

import re

import pytest

from orchestrator.cli import plugins

WHY = "2 of 3 instances serve: instance 5 is FAILED OUT_OF_MEMORY: It used more than 1 GiB."
UP = {"state": "RUNNING", "reason": None, "reason_code": None, "uptime_seconds": 75.0}


def instance(generation: int, **rest: object) -> dict[str, object]:
    return {
        "generation": generation,
        "role": "serving",
        "version": "1.2.0",
        "in_flight": generation,
        "container": {"name": f"detector-{generation}"},
        "gpus": [{"uuid": f"GPU-{generation}", "index": generation - 4}],
        "checks": [],
        **UP,
        **rest,
    }


@pytest.fixture
def several(api):
    ended = {"state": "FAILED", "reason_code": "OUT_OF_MEMORY", "reason": "It used more than 1 GiB."}
    candidate = instance(7, role="candidate", version="1.3.0", state="LOADED", uptime_seconds=None, gpus=[])
    plugin = api.plugin(
        name="detector",
        replicas={"wanted": 3, "ready": 2, "in_manifest": 1},
        degraded=True,
        degraded_reason=WHY,
        instances=[instance(4), instance(5, **ended), instance(6), candidate],
        candidate=candidate,
        **UP,
    )
    api.says("/v1/plugins", [plugin])
    api.says("/v1/plugins/detector/health", plugin)
    return api


def test_the_list_has_the_number_that_serves_and_what_is_missing(several):
    """Behind the state, and below the row."""
    lines = several.call("plugins", columns=120).stdout.splitlines()
    assert lines[1].split()[:4] == ["detector", "0.1.0", "RUNNING", "2/3"]
    assert lines[2] == f"    degraded: {WHY}"


def test_health_has_a_row_for_each_instance(several):
    """State, GPU, runs in flight and reason; the candidate once."""
    result = several.call("health", "detector", columns=120)
    rows = [re.sub(r"\s+", " ", line).strip() for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert "replicas 2/3 ready (the manifest says 1)" in rows
    assert f"degraded_reason {WHY}" in rows
    assert "instance 4 RUNNING up 1m15s, GPU 0, 4 in flight, version 1.2.0, detector-4" in rows
    at = rows.index("instance 5 FAILED GPU 1, 5 in flight, version 1.2.0, detector-5")
    assert rows[at + 1] == "OUT_OF_MEMORY: It used more than 1 GiB."
    assert "instance 7 LOADED candidate, 7 in flight, version 1.3.0, detector-7" in rows
    assert not [row for row in rows if row.startswith(("candidate", "instances", "degraded True"))]


def test_a_single_instance_is_shown_as_ever(api):
    """Its fields are the plugin's; nothing stands twice."""
    plain = api.plugin(name="reader", **UP)
    more = {
        "replicas": {"wanted": 1, "ready": 1, "in_manifest": 1},
        "degraded": False,
        "degraded_reason": None,
        "candidate": None,
    }
    shown = []
    for plugin in (plain, {**plain, **more, "instances": [instance(1)]}):
        api.says("/v1/plugins", [plugin])
        api.says("/v1/plugins/reader/health", plugin)
        shown.append((api.call("plugins").stdout, api.call("health", "reader").stdout))
    assert shown[0] == shown[1]


def test_watched_without_a_terminal_a_line_has_them_too(several, capsys):
    """A change of the number that serves is a line."""
    plugin = several.answers["/v1/plugins"][1][0] | {"observed_at": "2026-03-01T12:00:00Z"}
    plugins._watch([plugin], as_json=False)
    assert capsys.readouterr().out == f"2026-03-01T12:00:00Z  detector  RUNNING 2/3  {WHY}\n"


@pytest.mark.parametrize("code", ["STOPPED", "PARKED"])
def test_a_number_that_is_noted_is_no_failure(api, code):
    """Nothing begins where none serves: that is what the command says it does."""
    plugin = api.plugin(name="reader", **{**UP, "state": "UNAVAILABLE", "reason_code": code, "reason": "Why."})
    api.says("/v1/plugins/reader/scale", plugin)
    assert api.call("scale", "reader", "3").exit_code == 0
