"""The kinds of answers other than a result, and their HTTP status."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal[
    "bad_request",
    "unknown_tool",
    "too_large",
    "unsupported_media_type",
    "invalid_arguments",
    "invalid_input",
    "exception",
    "invalid_output",
    "unknown_run",
    "unknown_file",
    "cancelled",
    "not_kept",
    "too_busy",
    "defect",
]
STATUS: dict[Kind, int] = {
    "bad_request": 400,
    "unknown_tool": 404,
    "too_large": 413,
    "unsupported_media_type": 415,
    "invalid_arguments": 422,
    "invalid_input": 422,
    "exception": 500,
    "invalid_output": 500,
    "unknown_run": 404,
    "unknown_file": 404,
    "cancelled": 409,
    "not_kept": 410,
    "too_busy": 503,
    "defect": 500,
}


class Refusal(NamedTuple):
    """The answer to a caller instead of a result."""

    kind: Kind
    error: str
    error_type: str
    traceback: str | None = None
    reason_code: str | None = None
    """What an exception is known to be of."""
    execution_time_ms: float | None = None
    """Of the tool, where that is not how long its caller waited."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.kind]


class Refused(Exception):  # noqa: N818 - the call is answered, with a refusal
    """Ends the call, before its tool runs or because its result is not valid."""

    def __init__(self, kind: Kind, error: str, error_type: str | None = None) -> None:
        super().__init__(error)
        self.refusal = Refusal(kind, error, error_type or _TYPE_NAMES[kind])


_TYPE_NAMES: dict[Kind, str] = {
    "bad_request": "BadRequest",
    "unknown_tool": "UnknownTool",
    "too_large": "TooLarge",
    "unsupported_media_type": "UnsupportedMediaType",
    "invalid_arguments": "InvalidArguments",
    "invalid_input": "InvalidInput",
    "exception": "Exception",
    "invalid_output": "InvalidOutput",
    "unknown_run": "UnknownRun",
    "unknown_file": "UnknownFile",
    "cancelled": "Cancelled",
    "not_kept": "NotKept",
    "too_busy": "TooBusy",
    "defect": "RuntimeDefect",
}
