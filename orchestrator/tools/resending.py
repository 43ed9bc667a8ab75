"""Pure: may a run be sent once more, after its instance died under it?"""

from typing import Final

from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, RunResult
from orchestrator.sandbox.sandbox_runner import ENDED_BY_PLUGIN

MAX_SENT: Final = 2
"""Times that a run is sent in all: one that kills what it runs in must not do so to every instance."""


def instance_died(result: RunResult) -> bool:
    """Whether the run of this result has no end of its own, because its instance ended: by whatever cause, such as
    another run or an operator. False where the run itself ended: its tool returned or raised, it took too long, it was
    cancelled; and where its result could not be used or stored.
    """
    if result.from_plugin or result.reason_code is None:
        return False
    match result.outcome:
        case Outcome.UNAVAILABLE:
            return True
        case Outcome.PLUGIN_FAILED:  # as for a result of its own that is no valid one, but for the code
            return result.reason_code in ENDED_BY_PLUGIN
        case _:
            return False


def may_be_sent_again(
    result: RunResult, *, wanted: bool, idempotent: bool, sent: int, seconds_left: float, passed_on: bool
) -> bool:
    """`result`: of a run that has been sent `sent` times. `wanted`: its caller asked for it; `idempotent`: its tool
    says that it may be; `seconds_left` of the run's time limit; `passed_on`: its caller has received items of it.
    """
    if result.reason_code is ReasonCode.KILL_FAILED:  # the old one may still be at it
        return False
    return (
        wanted and idempotent and not passed_on and 0 < sent < MAX_SENT and seconds_left > 0 and instance_died(result)
    )
