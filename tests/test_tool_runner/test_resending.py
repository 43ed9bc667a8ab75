"""Which runs may be sent once more, after their instance died."""

import pytest

from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, RunResult
from orchestrator.sandbox.sandbox_runner import ENDED_BY_PLUGIN, ended_by
from orchestrator.sandbox.verdict import Verdict
from orchestrator.tools.resending import MAX_SENT, instance_died, may_be_sent_again

CRASHED = ended_by(Verdict(ReasonCode.CRASHED, "The worker died by SIGSEGV."))


@pytest.mark.parametrize("code", [code for code in ReasonCode if code is not ReasonCode.KILL_FAILED])
def test_a_run_whose_instance_ended_has_no_end_of_its_own(code: ReasonCode) -> None:
    """Whatever ended it: a crash, another run, an operator."""
    result = ended_by(Verdict(code, "It ended."))
    assert instance_died(result)
    assert may_be_sent_again(result, wanted=True, idempotent=True, sent=1, seconds_left=1, passed_on=False)


OWN_ENDS = [
    RunResult(Outcome.OK, result=b"1", from_plugin=True),
    RunResult(Outcome.PLUGIN_FAILED, reason_code=ReasonCode.TOOL_ERROR, from_plugin=True),
    RunResult(Outcome.PLUGIN_FAILED, reason_code=ReasonCode.GPU_OUT_OF_MEMORY, from_plugin=True),
    RunResult(Outcome.PLUGIN_FAILED, reason_code=ReasonCode.INVALID_OUTPUT, from_plugin=True),
    RunResult(Outcome.PLUGIN_FAILED, reason_code=ReasonCode.INVALID_OUTPUT),
    RunResult(Outcome.PLUGIN_FAILED, from_plugin=True),
    RunResult(Outcome.TIMEOUT, reason_code=ReasonCode.TIMEOUT),
    RunResult(Outcome.CANCELLED),
    RunResult(Outcome.CANCELLED, reason_code=ReasonCode.STOPPED),
    RunResult(Outcome.CALLER_DISCONNECTED),
    RunResult(Outcome.INVALID_INPUT, from_plugin=True),
    RunResult(Outcome.QUEUE_FULL, from_plugin=True, retry_after=1),
    RunResult(Outcome.UNAVAILABLE, error_type="NotStored"),
]


@pytest.mark.parametrize("result", OWN_ENDS, ids=lambda result: f"{result.outcome}-{result.reason_code}")
def test_a_run_that_ended_by_itself_is_never_sent_again(result: RunResult) -> None:
    """Its tool returned or raised, it took too long or was cancelled, or its result could not be used."""
    assert not instance_died(result)
    assert not may_be_sent_again(result, wanted=True, idempotent=True, sent=1, seconds_left=1, passed_on=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"wanted": False},
        {"idempotent": False},
        {"sent": 0},
        {"sent": MAX_SENT},
        {"seconds_left": 0.0},
        {"seconds_left": -1.0},
        {"passed_on": True},
    ],
    ids=str,
)
def test_a_run_is_sent_again_only_if_all_agree(changed: dict[str, object]) -> None:
    """Caller, tool and time; and once: a run that kills what it runs in must not do so everywhere."""
    facts = {"wanted": True, "idempotent": True, "sent": 1, "seconds_left": 1.0, "passed_on": False}
    assert may_be_sent_again(CRASHED, **facts)  # type: ignore[arg-type]
    assert not may_be_sent_again(CRASHED, **{**facts, **changed})  # type: ignore[arg-type]


def test_a_run_whose_container_may_live_is_not_sent_again() -> None:
    """It could not be killed: the tool may still be at it."""
    result = ended_by(Verdict(ReasonCode.KILL_FAILED, "TIMEOUT: … could be neither stopped nor killed"))
    assert not may_be_sent_again(result, wanted=True, idempotent=True, sent=1, seconds_left=1, passed_on=False)
    assert ReasonCode.KILL_FAILED not in ENDED_BY_PLUGIN
