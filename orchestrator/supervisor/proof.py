"""Proof: makes the calls of samples/calls.yaml on one instance, and says whether the answers are as expected.

They are no runs: no queue, counter or history has them. The plugin's callers cannot tell that they were made.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from orchestrator.formatting import counted
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.expectations import difference
from orchestrator.loader.samples import CALLS_FILE, Sample, SamplesError, read_samples
from orchestrator.sandbox.call import STATUS, Outcome, OutputFile, RunResult, ToolCall
from orchestrator.sandbox.sandbox_runner import ResultSink, SandboxedInstance
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.instance import Instance, InstanceEndedError

MAX_PROOF_SECONDS: Final = 600.0
"""For all calls together; each is bounded by the plugin's own `limits.timeout` too."""
_MAX_ERROR: Final = 400
"""Characters of a plugin's error in a sentence."""
_AGAIN: Final = "Correct the plugin or the call, then update again."


class Runner(Protocol):
    """`PluginSandboxRunner`, as far as it is needed here."""

    async def run(
        self, instance: SandboxedInstance, call: ToolCall, *, timeout: float, sink: ResultSink
    ) -> RunResult: ...


@dataclass(frozen=True, slots=True)
class Proof:
    """`verdict`: why the instance is not proven, None where it is. `sentence`: what was done."""

    verdict: Verdict | None
    sentence: str


def samples_of(folder: Path) -> tuple[Sample, ...]:
    """The sample calls in a plugin's folder, all of which can be made; none where it has none. Raises
    `InstanceEndedError`.
    """
    try:
        samples = read_samples(folder)
        for sample in samples:
            sample.check_files()
    except SamplesError as error:
        raise InstanceEndedError(_unusable(error)) from None
    return samples


async def prove(
    runner: Runner, instance: Instance, samples: Sequence[Sample], *, seconds: float = MAX_PROOF_SECONDS
) -> Proof:
    """Make the calls one after the other on an instance that is ready, up to the first whose answer is unexpected; then
    see that it stays well for as long as its manifest says (`update.observe`). Leaves the instance as it is, whatever
    comes of them.
    """
    fitting = [sample for sample in samples if sample.call.needs is None or instance.grant is not None]
    if not fitting:
        why = f"the calls of {CALLS_FILE} need a GPU, and it has none" if samples else f"it has no {CALLS_FILE}"
        return Proof(instance.ended, f"Proven by its start alone: {why}.")
    sample = fitting[0]
    try:
        async with asyncio.timeout(seconds):
            for number, sample in enumerate(fitting):
                if (verdict := await _verdict_of(runner, instance, sample)) is not None:
                    return Proof(verdict, f"{number} of {counted(len(fitting), 'call')} of {CALLS_FILE} passed.")
    except TimeoutError:
        reason = f"The calls of {CALLS_FILE} took longer than {seconds:g} s together; {sample.where} was being made."
        return Proof(Verdict(ReasonCode.TIMEOUT, f"{reason} Have fewer or smaller ones, then update again."), reason)
    observed = instance.manifest.update.observe.total_seconds()
    if (ended := await instance.ends_within(observed)) is not None:
        return Proof(ended, f"It ended within {observed:g} s after it had answered the calls of {CALLS_FILE}.")
    skipped = len(samples) - len(fitting)
    were = "was left out, since it needs" if skipped == 1 else "were left out, since they need"
    left_out = f"; {skipped} {were} a GPU" if skipped else ""
    return Proof(None, f"{counted(len(fitting), 'call')} of {CALLS_FILE} passed{left_out}.")


async def _verdict_of(runner: Runner, instance: Instance, sample: Sample) -> Verdict | None:
    """None where the answer is as expected."""
    if instance.ended is not None:
        return _ended(instance.ended, sample)
    try:
        content_type, body = await asyncio.to_thread(sample.body)
    except SamplesError as error:
        return _unusable(error)
    call = ToolCall(sample.call.tool, secrets.token_hex(16), content_type, body)
    result = await runner.run(instance, call, timeout=instance.limits.timeout, sink=ResultSink(files=_Discarded()))
    # First: what it died of says more than that an answer broke off.
    if instance.ended is not None:
        return _ended(instance.ended, sample)
    if result.outcome in (Outcome.PLUGIN_FAILED, Outcome.TIMEOUT, Outcome.UNAVAILABLE):
        return _failed(result, sample)
    # In a thread: a result may have megabytes.
    if (found := await asyncio.to_thread(_difference, sample, result)) is None:
        return None
    return Verdict(
        ReasonCode.INVALID_OUTPUT, f"{_sentence(sample)}: {found}. {_AGAIN}", evidence=_evidence(sample, result)
    )


def _difference(sample: Sample, result: RunResult) -> str | None:
    try:
        value = json.loads(result.result or b"null")
    except (ValueError, RecursionError):
        return "expected a result that can be compared, got one that is nested too deeply"
    files = [(file.media_type, file.size) for file in result.files]
    return difference(sample.call.expect, status=STATUS[result.outcome], result=value, error=result.error, files=files)


def _failed(result: RunResult, sample: Sample) -> Verdict:
    code = result.reason_code or ReasonCode.TOOL_ERROR
    error = _cut(result.error) or code
    named = result.error_type and result.error_type not in error
    what = f"it raised {result.error_type}: {error}" if named and result.from_plugin else error
    return Verdict(
        code,
        f"{_sentence(sample)} failed: {what.rstrip('.')}. {_AGAIN}",
        traceback=result.traceback,
        evidence=_evidence(sample, result),
    )


def _ended(verdict: Verdict, sample: Sample) -> Verdict:
    return replace(verdict, reason=f"It ended while {sample.where} was made: {verdict.reason}")


def _unusable(error: SamplesError) -> Verdict:
    return Verdict(ReasonCode.MANIFEST_INVALID, f"{error}")


def _sentence(sample: Sample) -> str:
    return sample.where[0].upper() + sample.where[1:]


def _evidence(sample: Sample, result: RunResult) -> dict[str, object]:
    return {
        "sample_call": sample.number,
        "tool": sample.call.tool,
        "outcome": result.outcome,
        "execution_ms": round(result.execution_time_ms, 3),
    }


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= _MAX_ERROR else f"{text[: _MAX_ERROR - 1]}…"


class _Discarded:
    """Takes the files of a run, whose kinds and sizes are all that is looked at."""

    async def write(self, name: str, media_type: str, size: int, chunks: AsyncIterator[bytes]) -> OutputFile:
        async for _ in chunks:
            pass
        return OutputFile(name, media_type, size, sha256="")
