"""What a run means for the instance it was made on: nothing, or its end. Pure."""

from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, RunResult
from orchestrator.sandbox.verdict import Verdict

_FORGIVEN = frozenset({ReasonCode.TOOL_ERROR, ReasonCode.INVALID_OUTPUT})
"""By `failure_policy: tolerant`. A timeout, the memory limit and a crash are final under either policy."""


_ENDING = frozenset({Outcome.PLUGIN_FAILED, Outcome.TIMEOUT, Outcome.CANCELLED})


def verdict_of_run(tool: str, result: RunResult, *, tolerant: bool) -> Verdict | None:
    """Why the instance ends, None where it goes on: a caller's mistake never ends it."""
    code = result.reason_code
    if code is None or result.outcome not in _ENDING:
        return None
    if tolerant and code in _FORGIVEN:
        return None
    evidence = {"tool": tool, "outcome": result.outcome, "execution_ms": round(result.execution_time_ms, 3)}
    return Verdict(code, _sentence(code, tool, result), traceback=result.traceback, evidence=evidence)


def _sentence(code: ReasonCode, tool: str, result: RunResult) -> str:
    match code:
        case ReasonCode.TOOL_ERROR:
            named = result.error_type and result.error_type not in (result.error or "")
            what = f"{result.error_type}: {result.error}" if named else f"{result.error}"
            return (
                f"The tool {tool} raised {what}. Look at its traceback, mend the plugin or its input, then restart it."
            )
        case ReasonCode.INVALID_OUTPUT:
            return f"The tool {tool} gave no usable result: {result.error}. Mend it, then restart the plugin."
        case ReasonCode.TIMEOUT:
            return f"{result.error} Make the work smaller or raise `limits.timeout` in the manifest, then restart."
        case _:  # a cancelled one that did not end, too
            return result.error or code
