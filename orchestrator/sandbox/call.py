"""A tool call and what came of it, as values."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from orchestrator.errors import OrchestratorError
from orchestrator.lifecycle import ReasonCode

_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")


class Outcome(StrEnum):
    """What became of a run, as the caller's side sees it."""

    OK = "ok"
    BAD_REQUEST = "bad_request"
    """The body is no JSON or no multipart."""
    UNKNOWN_PLUGIN = "unknown_plugin"
    UNKNOWN_TOOL = "unknown_tool"
    CALLER_GONE = "caller_gone"
    """The caller hung up in the middle of its body."""
    UPLOAD_STALLED = "upload_stalled"
    """The caller stopped sending in the middle of its body."""
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_ARGUMENTS = "invalid_arguments"
    INVALID_INPUT = "invalid_input"
    """The tool itself refused its input."""
    RUN_ID_TAKEN = "run_id_taken"
    """A run of this id is in flight."""
    QUEUE_FULL = "queue_full"
    PLUGIN_FAILED = "plugin_failed"
    """The tool raised, gave no JSON, crashed or ran out of memory."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """Somebody asked for its end."""
    UNAVAILABLE = "unavailable"
    """The plugin was or became FAILED or UNAVAILABLE through no doing of this run."""


class BodyError(OrchestratorError):
    """The caller's body cannot be passed on to its end; `outcome` says why."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


def is_run_id(text: str) -> bool:
    """32 hexadecimal digits in lower case."""
    return _RUN_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as it came: its body is passed on as it is, whole where it is short, else in chunks."""

    tool: str
    run_id: str
    content_type: str
    body: bytes | AsyncIterator[bytes]
    query: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)
    """W3C trace context: the headers `traceparent` and `tracestate`, as far as there are any."""
    keep: bool = False
    """The container goes on with it when the connection breaks, and keeps its answer."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a streaming tool says that it is; `fraction` within 0..1."""

    fraction: float | None
    message: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run. `result` is JSON text, ready to be passed on; times in milliseconds."""

    outcome: Outcome
    execution_time_ms: float = 0.0
    result: bytes | None = None
    error: str | None = None
    error_type: str | None = None
    reason_code: ReasonCode | None = None
    traceback: str = field(default="", repr=False)
    from_plugin: bool = False
    """The plugin itself said so, not the orchestrator."""
    retry_after: float | None = None
    """Seconds, where trying again later makes sense."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK
