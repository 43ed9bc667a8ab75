"""`orchestrator update`, `revert` and `updates`: what goes on, how it ended, and what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.cli import updates
from orchestrator.client import operations

STEPS = ("PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(operations, "_POLL_INTERVAL", 0.0)
    monkeypatch.setattr(updates, "_POLL_INTERVAL", 0.0)


def update(step: str, upto: int | None = None, **rest: Any) -> dict[str, Any]:
    """One of `echo` from 1.2.0 to 1.3.0 that has come to this step."""
    reached = [*STEPS[: STEPS.index(step) + 1]] if step in STEPS else [*STEPS[:upto], step]
    built = len(reached) > 1 and reached[1] == "BUILT"
    return {
        "id": "4f2a7c",
        "plugin": "echo",
        "kind": "update",
        "step": step,
        "ended": step in ("SETTLED", "REJECTED", "REVERTED"),
        "requested_at": "2026-03-01T12:00:00Z",
        "step_times": {each: f"2026-03-01T12:00:0{at}Z" for at, each in enumerate(reached)},
        "strategy_asked": "auto",
        "strategy": "overlap" if built else None,
        "strategy_reason": "there is room for a second instance" if built else None,
        "from_release": {"id": "a", "version": "1.2.0"},
        "to_release": {"id": "b", "version": "1.3.0"} if built else None,
        "replicas": 1,
        "replicas_updated": int("SWITCHED" in reached),
        "switch_times": ["2026-03-01T12:00:04Z"] * ("SWITCHED" in reached),
        "candidate": None,
        "draining": None,
        "proof": "3 calls of samples/calls.yaml passed." if "SWITCHED" in reached else None,
        "reason_code": None,
        "reason": None,
        "post_mortem": None,
        **rest,
    }


REJECTED: dict[str, Any] = {
    "reason_code": "INVALID_OUTPUT",
    "reason": "Call 2 of samples/calls.yaml (say, line 7): expected result to be 3, got 4.",
}


@pytest.fixture
def reader(api):
    api.says("/v1/plugins/echo/health", api.plugin(state="RUNNING", reason_code=None, reason=None))
    return api


def lines(text: str) -> list[str]:
    """Without their times of day."""
    return [line.partition("  ")[2] if line[:2].isdigit() else line for line in text.splitlines()]


def test_each_step_is_a_line_and_the_end_a_sentence(reader):
    """Also those that passed between two looks."""
    reader.says("/v1/plugins/echo/update", update("PROPOSED"), status=202)
    reader.says_in_turn("/v1/plugins/echo/updates", [update("PROVING")], [update("SETTLED")])
    result = reader.call("update", "echo", columns=120)
    assert result.exit_code == 0
    assert lines(result.stderr) == [
        "PROPOSED  its folder is checked, its image is built",
        "BUILT     1.3.0: overlap, since there is room for a second instance",
        "STARTING  an instance of 1.3.0 starts",
        "PROVING   1.3.0 is being proven",
        "SWITCHED  1 of 1 instances are of 1.3.0",
        "SETTLED",
    ]
    assert result.stdout == "echo is 1.3.0 now. 3 calls of samples/calls.yaml passed.\n"


def test_the_newest_line_of_its_build_is_shown(reader):
    doing = "building its image for 4 min: Collecting torch"
    activity = {"name": "activity", "ok": True, "detail": doing, "source": "host"}
    reader.says("/v1/plugins/echo/health", reader.plugin(checks=[activity]))
    reader.says("/v1/plugins/echo/update", update("PROPOSED"), status=202)
    reader.says("/v1/plugins/echo/updates", [update("SETTLED")])
    assert f"echo: {doing}" in reader.call("update", "echo", columns=120).stderr


def test_each_instance_that_has_taken_over_is_a_line(reader):
    several = {"replicas": 3}
    reader.says("/v1/plugins/echo/update", update("SWITCHED", **several), status=202)
    reader.says_in_turn(
        "/v1/plugins/echo/updates",
        [update("SWITCHED", **several, replicas_updated=2)],
        [update("SWITCHED", **several, replicas_updated=3)],
        [update("SETTLED", **several, replicas_updated=3)],
    )
    said = reader.call("update", "echo", columns=120).stderr
    assert [number for number in (1, 2, 3) if f"SWITCHED  {number} of 3 instances are of 1.3.0" in said] == [1, 2, 3]
    assert said.count("SWITCHED") == 3


def test_a_rejection_is_an_error_and_names_the_post_mortem(reader):
    end = update("REJECTED", upto=4, **REJECTED, post_mortem={"log_tail": "cannot count\n"})
    reader.says("/v1/plugins/echo/update", end)
    result = reader.call("update", "echo", columns=200)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [
        f"echo stays what it was (1.2.0): the update was rejected. INVALID_OUTPUT: {REJECTED['reason']}",
        "`orchestrator updates echo 4f2a7c` shows its post-mortem.",
    ]
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("code", "advice"), [("BUILD_FAILED", "logs echo --build"), ("MANIFEST_INVALID", "audit"), ("GPU_BUSY", "gpus")]
)
def test_where_there_was_no_candidate_the_advice_fits_the_cause(reader, code, advice):
    reader.says("/v1/plugins/echo/update", update("REJECTED", upto=1, reason_code=code, reason="Why."))
    result = reader.call("update", "echo", columns=200)
    assert result.exit_code == 1
    assert f"`orchestrator {advice}`" in result.stderr


def test_a_rollout_that_stopped_is_an_error_too(reader):
    reader.says("/v1/plugins/echo/update", update("SETTLED", reason_code="KILLED", reason="The rollout stopped."))
    result = reader.call("update", "echo", columns=200)
    assert result.exit_code == 1
    assert "echo: the update to 1.3.0 stopped. KILLED: The rollout stopped." in result.stderr


@pytest.mark.parametrize(
    ("option", "strategy"), [((), "auto"), (("--overlap",), "overlap"), (("--replace",), "replace")]
)
def test_the_strategy_is_the_operators(reader, option, strategy):
    reader.says("/v1/plugins/echo/update", update("SETTLED"))
    assert reader.call("update", "echo", *option).exit_code == 0
    assert json.loads(reader.bodies[0]) == {"strategy": strategy}


def test_both_strategies_are_a_wrong_command_line(reader):
    assert reader.call("update", "echo", "--overlap", "--replace").exit_code == 2
    assert reader.bodies == []


@pytest.mark.parametrize("kind", ["update", "revert"])
def test_without_waiting_it_says_how_to_follow(reader, kind):
    reader.says(f"/v1/plugins/echo/{kind}", update("PROPOSED", kind=kind), status=202)
    result = reader.call(kind, "echo", "--no-wait", columns=200)
    assert result.exit_code == 0
    assert result.stderr.endswith(f"The {kind} 4f2a7c is under way. `orchestrator updates echo -f` follows it.\n")


def test_who_leaves_reads_that_it_goes_on(reader, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    reader.says("/v1/plugins/echo/update", update("PROPOSED"), status=202)
    monkeypatch.setattr(updates, "_doing", interrupt)
    result = reader.call("update", "echo", columns=200)
    assert result.exit_code == 130
    assert "The update goes on. `orchestrator updates echo -f` follows it." in result.stderr


@pytest.mark.parametrize("error_type", ["UpdateUnderWay", "NothingToRevert"])
def test_a_refusal_is_said_with_its_name(reader, error_type):
    reader.says("/v1/plugins/echo/revert", {"ok": False, "error": "No.", "error_type": error_type}, status=409)
    result = reader.call("revert", "echo")
    assert (result.exit_code, result.stderr) == (1, f"{error_type}: No.\n")


def test_as_json_it_is_the_answer(reader):
    end = update("REJECTED", upto=4, **REJECTED)
    reader.says("/v1/plugins/echo/update", end)
    result = reader.call("update", "echo", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == end


def test_a_list_has_a_line_for_each_with_its_reason_below(reader):
    reader.says("/v1/plugins/echo/updates", [update("SETTLED"), update("REJECTED", upto=4, **REJECTED)])
    shown = reader.call("updates", "echo", columns=200).stdout.splitlines()
    assert shown[0].split() == ["UPDATE", "REQUESTED", "FROM", "TO", "STRATEGY", "STEP"]
    assert shown[1].split()[-1] == "SETTLED"
    assert shown[3].strip() == f"INVALID_OUTPUT: {REJECTED['reason']}"
    reader.says("/v1/plugins/echo/updates", [])
    assert reader.call("updates", "echo").stderr == "echo has not been updated yet.\n"


def test_one_is_shown_with_its_steps_and_its_post_mortem(reader):
    end = update("REJECTED", upto=4, **REJECTED, post_mortem={"log_tail": "cannot count\n", "exit_code": 3})
    reader.says("/v1/plugins/echo/updates", [update("SETTLED", id="9c"), end])
    result = reader.call("updates", "echo", "4f", columns=200)
    assert "INVALID_OUTPUT" in result.stdout
    assert "post_mortem.log_tail\ncannot count\n" in result.stdout
    assert "post_mortem.exit_code  3" in result.stdout
    assert "PROVING" in result.stdout
    assert reader.call("updates", "echo", "77").exit_code == 1


def test_one_under_way_is_followed_to_its_end(reader):
    reader.says_in_turn("/v1/plugins/echo/updates", [update("PROVING")], [update("SETTLED")])
    result = reader.call("updates", "echo", "-f", columns=120)
    assert (result.exit_code, result.stderr.count("PROVING"), result.stderr.count("SETTLED")) == (0, 1, 1)
    assert result.stdout.startswith("echo is 1.3.0 now.")
