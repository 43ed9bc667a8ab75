"""A tool call and its result, as values."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol
from urllib.parse import quote

import msgspec

from orchestrator.access.principal import EQUAL_SHARE, Share
from orchestrator.errors import OrchestratorError
from orchestrator.lifecycle import ReasonCode

_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")


class Outcome(StrEnum):
    """How a run ended, from the caller's point of view. The values are the API's."""

    OK = "ok"
    BAD_REQUEST = "bad_request"
    """The body is neither JSON nor multipart."""
    UNKNOWN_PLUGIN = "unknown_plugin"
    UNKNOWN_TOOL = "unknown_tool"
    CALLER_DISCONNECTED = "caller_gone"
    """The caller disconnected before the run started, during its upload, or from its stream."""
    UPLOAD_STALLED = "upload_stalled"
    """The caller stopped sending its body, or sent it too slowly."""
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_ARGUMENTS = "invalid_arguments"
    INVALID_INPUT = "invalid_input"
    """The tool refused its input."""
    RUN_ID_TAKEN = "run_id_taken"
    """There is a run of this id already."""
    QUEUE_FULL = "queue_full"
    PLUGIN_FAILED = "plugin_failed"
    """The tool raised, returned no JSON, crashed or ran out of memory."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """An operator or its caller cancelled it."""
    UNAVAILABLE = "unavailable"
    """The plugin was FAILED or UNAVAILABLE, or became so through no fault of this run."""


STATUS: Final[Mapping[Outcome, int]] = {
    Outcome.OK: 200,
    Outcome.BAD_REQUEST: 400,
    Outcome.CALLER_DISCONNECTED: 400,
    Outcome.UNKNOWN_PLUGIN: 404,
    Outcome.UNKNOWN_TOOL: 404,
    Outcome.UPLOAD_STALLED: 408,
    Outcome.TOO_LARGE: 413,
    Outcome.CANCELLED: 409,
    Outcome.RUN_ID_TAKEN: 409,
    Outcome.UNSUPPORTED_MEDIA_TYPE: 415,
    Outcome.INVALID_ARGUMENTS: 422,
    Outcome.INVALID_INPUT: 422,
    Outcome.QUEUE_FULL: 429,
    Outcome.PLUGIN_FAILED: 502,
    Outcome.UNAVAILABLE: 503,
    Outcome.TIMEOUT: 504,
}
"""The HTTP status of each outcome."""


class BodyError(OrchestratorError):
    """The caller's body cannot be passed on to its end; the run ends with `outcome`."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class StorageError(OrchestratorError):
    """A file of a result cannot be stored, through no fault of the plugin's."""


def is_run_id(text: str) -> bool:
    """32 hexadecimal digits in lower case."""
    return _RUN_ID.fullmatch(text) is not None


class StreamedBody(Protocol):
    """A body that is passed on in chunks as they come, by iterating over it once. Iteration raises `BodyError`."""

    @property
    def passed_on(self) -> int:
        """Bytes so far."""

    @property
    def complete(self) -> bool:
        """Whether it has been passed on to its end."""

    @property
    def received(self) -> bool:
        """Whether all of it has come from the caller."""

    @property
    def failure(self) -> BodyError | None:
        """What its iteration raised."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class ToolCall(msgspec.Struct, frozen=True):
    """A call as it came. Its body is passed on unchanged."""

    # A msgspec struct, as a result is, since each run makes one: a dataclass takes ten times as long.

    tool: str
    run_id: str
    content_type: str
    body: bytes | StreamedBody
    """Whole where it is short."""
    query: str = ""
    trace: Mapping[str, str] = msgspec.field(default_factory=dict)
    """W3C trace context: the headers `traceparent` and `tracestate`."""
    body_headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    """What else describes the body: `Content-Encoding`, `Content-Disposition`."""
    keep: bool = False
    """Whether the container goes on with it when the connection breaks, and retains its answer."""
    id_chosen: bool = False
    """Whether its caller chose the run's id, by which it can look for the run later, and need not stay for it."""
    caller: str | None = None
    """The name of the key that it came with; None where no key is needed."""
    share: Share = EQUAL_SHARE
    """Its caller's part of the plugin."""
    retry: bool = False
    """Whether its caller wants it to be made again where its instance dies under it, and its tool is idempotent."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress that a streaming tool reports; `fraction` within 0..1."""

    fraction: float | None
    message: str


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a run gave, as it is stored. `size` in bytes; `sha256` in hexadecimal digits."""

    name: str
    media_type: str
    size: int
    sha256: str

    def reference(self, run_id: str) -> dict[str, str | int]:
        """What stands for it in results."""
        return {
            "file": self.name,
            "media_type": self.media_type,
            "size": self.size,
            "sha256": self.sha256,
            "url": f"/v1/runs/{run_id}/files/{quote(self.name)}",
        }


class FileStore(Protocol):
    """Stores the files of one run."""

    async def write(self, name: str, media_type: str, size: int, chunks: AsyncIterator[bytes]) -> OutputFile:
        """Store a file of `size` bytes. Raises `StorageError`, and what iterating over `chunks` raises: nothing of the
        file is left then.
        """


class RunResult(msgspec.Struct, frozen=True):
    """The end of a run. `result` is JSON text, ready to be passed on; times in milliseconds."""

    outcome: Outcome
    execution_time_ms: float = 0.0
    result: bytes | None = None
    error: str | None = None
    error_type: str | None = None
    reason_code: ReasonCode | None = None
    traceback: str = ""
    from_plugin: bool = False
    """Whether the plugin reported it, not the orchestrator."""
    retry_after: float | None = None
    """Seconds, where a later try makes sense."""
    files: tuple[OutputFile, ...] = ()
    """All that the run gave; `result` refers to them."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK
