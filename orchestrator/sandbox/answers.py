"""Pure: from a worker's answer to the result of a run."""

from collections.abc import Mapping
from typing import Annotated, Final, TypeVar

import msgspec

from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, Progress, RunResult

_KINDS: Final[Mapping[str, Outcome]] = {
    "bad_request": Outcome.BAD_REQUEST,
    "unknown_tool": Outcome.UNKNOWN_TOOL,
    "too_large": Outcome.TOO_LARGE,
    "unsupported_media_type": Outcome.UNSUPPORTED_MEDIA_TYPE,
    "invalid_arguments": Outcome.INVALID_ARGUMENTS,
    "invalid_input": Outcome.INVALID_INPUT,
    "exception": Outcome.PLUGIN_FAILED,
    "invalid_output": Outcome.PLUGIN_FAILED,
    "defect": Outcome.PLUGIN_FAILED,
    "cancelled": Outcome.CANCELLED,
    "too_busy": Outcome.QUEUE_FULL,
}


_GPU_CODES: Final = frozenset({ReasonCode.GPU_OUT_OF_MEMORY, ReasonCode.GPU_LOST})
"""Those that a runtime may give for an exception."""


class AnnouncedFile(msgspec.Struct):
    """A file that can be fetched. `mark` stands for it in the result."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    mark: str
    media_type: str = ""


class Answer(msgspec.Struct):
    """A worker's answer; the result is checked to be JSON and stays text."""

    ok: bool = False
    result: msgspec.Raw = msgspec.Raw(b"null")
    kind: str = ""
    error: str = ""
    error_type: str | None = None
    reason_code: str | None = None
    traceback: str = ""
    execution_time_ms: float | None = None
    oom_kills: int = 0
    files: tuple[AnnouncedFile, ...] = ()


class Line(Answer):
    """A line of a streaming tool."""

    event: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _ProgressLine(msgspec.Struct):
    fraction: float | None = None
    message: str = ""


_A = TypeVar("_A", bound=Answer)
ANSWER = msgspec.json.Decoder(Answer)
LINE = msgspec.json.Decoder(Line)
_PROGRESS = msgspec.json.Decoder(_ProgressLine)


def decode(decoder: msgspec.json.Decoder[_A], text: bytes) -> _A:
    """Raises `ValueError` for anything but the object of the protocol in UTF-8."""
    if not text.isascii():
        text.decode()  # the decoder does not check the strings of a `Raw`
    try:
        return decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def progress_of(line: bytes) -> Progress | None:
    """None where the line is not as the protocol says."""
    try:
        progress = _PROGRESS.decode(line)
    except ValueError:
        return None
    return Progress(progress.fraction, progress.message)


def result_of(answer: Answer, result: bytes | None = None) -> RunResult:
    """The result of the run; `result` replaces the answer's own."""
    elapsed = answer.execution_time_ms or 0.0
    if answer.ok:
        return RunResult(
            Outcome.OK, elapsed, result=bytes(answer.result) if result is None else result, from_plugin=True
        )
    outcome = _KINDS.get(answer.kind)
    if outcome is None:
        return invalid_output("the plugin's answer is not what the runtime protocol says")
    of_gpu = answer.reason_code in _GPU_CODES
    codes = {
        "exception": ReasonCode(answer.reason_code or "") if of_gpu else ReasonCode.TOOL_ERROR,
        "invalid_output": ReasonCode.INVALID_OUTPUT,
    }
    return RunResult(
        outcome,
        elapsed,
        error=answer.error,
        error_type=answer.error_type,
        reason_code=codes.get(answer.kind),
        traceback=answer.traceback,
        from_plugin=True,
        retry_after=1.0 if outcome is Outcome.QUEUE_FULL else None,
    )


def invalid_output(sentence: str) -> RunResult:
    return RunResult(
        Outcome.PLUGIN_FAILED, error=sentence, error_type="InvalidOutput", reason_code=ReasonCode.INVALID_OUTPUT
    )
