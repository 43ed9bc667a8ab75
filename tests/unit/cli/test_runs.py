"""`runs`: a run is named by its `run_id` or its first digits; sentences name commands, not routes."""

from __future__ import annotations

import json

import pytest

RUN = {
    "id": 68,
    "run_id": "7f3a0c1d2e3f405162738495a6b7c8d9",
    "plugin": "echo",
    "tool": "say",
    "state": "running",
    "accepted_at": "2026-01-01T00:00:00+00:00",
    "reason_code": None,
    "outcome": None,
    "execution_time_ms": None,
    "progress": None,
    "started_at": None,
}
OTHER = {**RUN, "id": 69, "run_id": "680c1d2e3f405162738495a6b7c8d97f"}


@pytest.mark.parametrize("command", [("runs",), ("runs", "show", "7f3a")])
def test_the_id_that_commands_take_is_the_first_field(api, command):
    api.says("/v1/runs", [RUN])
    api.says(f"/v1/runs/{RUN['run_id']}", RUN)
    printed = json.loads(api.call(*command, "--json").stdout)
    run = printed[0] if isinstance(printed, list) else printed
    assert next(iter(run)) == "run_id"
    assert run == RUN


@pytest.mark.parametrize("command", ["show", "cancel", "result"])
@pytest.mark.parametrize("listed", [[RUN], [RUN, OTHER]])
def test_a_position_in_the_list_is_refused_with_the_id_that_is_meant(api, command, listed):
    """Also where another run's id begins with these digits: that one must not be cancelled in its stead."""
    api.says("/v1/runs", listed)
    result = api.call("runs", command, "68")
    assert result.exit_code == 1
    assert result.stderr == f"68 is the `id` of a run in the list. Give its `run_id`, which is {RUN['run_id']}.\n"


def test_the_first_digits_are_enough(api):
    api.says("/v1/runs", [RUN])
    api.says(f"/v1/runs/{RUN['run_id']}", RUN)
    assert api.call("runs", "show", "7f").exit_code == 0


@pytest.mark.parametrize(
    ("command", "path", "sentence", "shown"),
    [
        (
            ("run", "tiped", "say"),
            "/v1/plugins/tiped/tools/say/run",
            "No plugin named 'tiped'. GET /v1/plugins lists all plugins.",
            "No plugin named 'tiped'. `orchestrator plugins` lists all plugins.",
        ),
        (
            ("runs", "show", "7" * 32),
            "/v1/runs/" + "7" * 32,
            "No such run, or its record has expired. GET /v1/runs lists all runs.",
            "No such run, or its record has expired. `orchestrator runs` lists all runs.",
        ),
        (("tools", "x"), "/v1/plugins/x/tools", "GET /v2/else lists nothing.", "GET /v2/else lists nothing."),
    ],
)
def test_a_sentence_names_the_command_in_place_of_the_route(api, command, path, sentence, shown):
    api.says(path, {"ok": False, "error": sentence, "error_type": "Unknown"}, 404)
    assert api.call(*command).stderr == f"Unknown: {shown}\n"
