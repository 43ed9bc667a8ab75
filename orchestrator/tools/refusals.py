"""Pure: results of runs that are refused."""

import math
from collections.abc import Iterable

from orchestrator.formatting import quoted
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import PluginRecord
from orchestrator.sandbox.call import Outcome, RunResult


def unknown_plugin(plugin: str, *, searched: bool = False) -> RunResult:
    """`searched`: the plugins' folders have just been looked through for it."""
    where = ", and no folder of that name among the plugins' folders" if searched else ""
    return RunResult(
        Outcome.UNKNOWN_PLUGIN,
        error=f"No plugin named {quoted(plugin)}{where}. GET /v1/plugins lists all plugins.",
        error_type="UnknownPlugin",
    )


def unknown_tool(plugin: str, tool: str, tools: Iterable[str]) -> RunResult:
    known = ", ".join(sorted(tools)) or "none"
    return RunResult(
        Outcome.UNKNOWN_TOOL,
        error=f"{plugin} has no tool named {quoted(tool)}. Its tools: {known}.",
        error_type="UnknownTool",
    )


def run_id_taken() -> RunResult:
    return RunResult(Outcome.RUN_ID_TAKEN, error="A run with this X-Run-Id exists already.", error_type="RunIdTaken")


def stopping() -> RunResult:
    """For a run that has not started; it may be tried again."""
    return unavailable("The orchestrator is stopping and starts no more runs. Try again later.", retry_after=5)


def cut_short(run_id: str) -> RunResult:
    """For a run that executes still when the orchestrator exits. Not to be tried again blindly: its tool has begun."""
    return unavailable(
        f"The orchestrator is stopping and waited for the run {run_id} as long as ORCHESTRATOR_DRAIN allows. Its tool "
        "had begun; its result is lost."
    )


def ended(record: PluginRecord) -> RunResult:
    """For a plugin whose instance has ended, or whose manifest cannot be used."""
    return unavailable(record.reason or f"The plugin is {PluginLifecycleState.UNAVAILABLE}.", record.reason_code)


def moved(plugin: str, host: str) -> RunResult:
    """For a plugin that serves, or is about to, on another host alone. A front sends the run there."""
    return unavailable(f"{plugin} was moved to the host {host} and takes no new runs on this one.", ReasonCode.STOPPED)


def unavailable(sentence: str, code: ReasonCode | None = None, *, retry_after: float | None = None) -> RunResult:
    return RunResult(
        Outcome.UNAVAILABLE,
        error=sentence,
        error_type="PluginUnavailable",
        reason_code=code,
        retry_after=retry_after,
    )


def files_not_stored() -> RunResult:
    return RunResult(
        Outcome.UNAVAILABLE,
        error="The result cannot be stored, and its files with it. See to the disk of the orchestrator's state folder, "
        "then call again.",
        error_type="NotStored",
    )


def queue_full(record: PluginRecord, sentence: str, turns: float = 1.0) -> RunResult:
    """To be tried again after so many mean execution times, at least one second: the queue has probably moved then."""
    runs = record.success_count + record.error_count
    mean = record.total_execution_ms / runs / 1000 if runs else 0.0
    return RunResult(Outcome.QUEUE_FULL, error=sentence, error_type="QueueFull", retry_after=max(1.0, mean * turns))


def rate_exceeded(sentence: str, wait: float) -> RunResult:
    """`wait`: seconds, after which it may be tried again."""
    return RunResult(
        Outcome.QUEUE_FULL,
        error=f"{sentence} Try again in {math.ceil(wait)} s.",
        error_type="RateExceeded",
        retry_after=wait,
    )
