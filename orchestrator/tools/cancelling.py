"""Ending a run that executes: it is asked to, and its container is stopped where it does not."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from orchestrator.errors import ChannelError
from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, RunResult
from orchestrator.supervisor.instance import Instance
from orchestrator.tools.live_run import LiveRun

_ASK_AGAIN: Final = 0.25
"""Seconds until a container that knew nothing of the run is asked once more: the call may still be on its way."""
_MILLISECOND: Final = timedelta(milliseconds=1)


async def see_out(run: LiveRun, instance: Instance, grace: float) -> None:
    """Returns when the run has ended, or is broken off: at once while its body is on its way, else after `grace`
    seconds.
    """
    if run.body_sent:
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await _ask(run, instance)
                await run.ended.wait()
                return
    run.break_off()


def cancelled(run: LiveRun, grace: float) -> RunResult:
    """The result of a run that was broken off. One whose tool was executing ends its instance."""
    if not run.body_sent:
        return RunResult(Outcome.CANCELLED, error="The run was cancelled while its body was on its way.")
    started = run.record.started_at
    return RunResult(
        Outcome.CANCELLED,
        execution_time_ms=0.0 if started is None else (datetime.now(UTC) - started) / _MILLISECOND,
        error=f"The run {run.run_id} of {run.record.tool} was cancelled by an operator and did not stop within "
        f"{grace:g} s, so its container was stopped. Start the plugin again with a restart.",
        reason_code=ReasonCode.STOPPED,
    )


async def _ask(run: LiveRun, instance: Instance) -> None:
    while not run.ended.is_set():
        with suppress(ChannelError):
            if await instance.channel.cancel(run.run_id):
                return
        await asyncio.sleep(_ASK_AGAIN)
