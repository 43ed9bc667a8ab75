"""The recorded answers: one for each reason code, without anything that differs from run to run."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from support.checkout import TESTS

from orchestrator.api.problems import envelope
from orchestrator.client.errors import error_of
from orchestrator.health.health_model import PluginDetailResponse
from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, RunResult
from orchestrator.testing import contract
from orchestrator.testing.contract import answers, normalized


def test_each_code_is_recorded() -> None:
    assert list(answers()) == [code.value for code in ReasonCode]


@pytest.mark.parametrize("code", ReasonCode)
def test_what_is_recorded_is_of_one_piece(code: ReasonCode) -> None:
    """State, code and status belong together, as a client relies on it."""
    found = answers()[code]
    assert (found["state"], found["health"]["state"]) == (code.final_state, code.final_state)
    assert found["health"]["reason_code"] == code
    assert found["health"]["reason"]
    refused = found["refused"]
    if code is not ReasonCode.PARKED:  # a run wakes it
        assert (refused["status"], refused["body"]["ok"]) == (503, False)
        assert refused["body"]["reason_code"] == code
        assert error_of(refused["status"], refused["body"]).reason_code == code


@pytest.mark.parametrize("code", ReasonCode)
def test_what_is_recorded_is_normalized(code: ReasonCode) -> None:
    assert normalized(answers()[code]) == answers()[code]


def test_normalizing_takes_out_what_differs_and_nothing_else() -> None:
    answer = {
        "run_id": "3c5acb83e2002bd2f73ae708a9458ed3",
        "observed_at": "2026-11-28T11:42:25.123+00:00",
        "reason": "Its container plugin-detector-ea0276aa died at 2026-11-28T11:42:25Z.",
        "status": 502,
        "uptime_seconds": None,
        "generation": 7,
        "log_tail": "anything",
        "stacks": "",
        "last_used": "2026-11-28T11:42:25Z",
        "checks": [{"name": "import", "ok": True}, {"name": "init", "ok": False}],
    }
    assert normalized(answer) == {
        "run_id": "0" * 32,
        "observed_at": "2026-01-01T00:00:00+00:00",
        "reason": "Its container plugin-detector-00000000 died at 2026-01-01T00:00:00+00:00.",
        "status": 502,
        "uptime_seconds": None,
        "generation": 1,
        "log_tail": "…",
        "stacks": "",
        "last_used": None,
        "checks": [{"name": "init", "ok": False}],
    }


def test_the_version_is_in_the_file() -> None:
    recorded = json.loads(Path(contract.__file__).with_name(contract.FILE).read_text())
    assert recorded["version"] == contract.VERSION


CASES = yaml.safe_load((TESTS / "fixtures" / "expectations.yaml").read_text())["plugins"]
OF_ONE_CODE = [case for case in CASES if isinstance(case["reason_code"], str)]


@pytest.mark.parametrize("case", OF_ONE_CODE, ids=lambda case: case["plugin"])
def test_a_fault_on_demand_is_answered_as_the_real_thing(case: dict[str, Any]) -> None:
    """As the plugin that has this fault in its code: same state, same status."""
    found = answers()[case["reason_code"]]
    assert found["state"] == case["state"]
    answer = found["refused"] if case["call"] is None else found["call"]
    assert answer is not None and answer["status"] == case["http_status"]


@pytest.mark.parametrize("code", ReasonCode)
def test_what_is_recorded_has_the_fields_of_today(code: ReasonCode) -> None:
    """A field that is new or gone is seen here first: `--write-contract` records it."""
    found = answers()[code]
    assert list(found["health"]) == [*PluginDetailResponse.model_fields, "simulated"]
    body = msgspec.json.decode(envelope(RunResult(Outcome.OK), plugin=None, tool=None, run_id=None))
    assert all(list(answer["body"]) == list(body) for answer in (found["call"], found["refused"]) if answer)
