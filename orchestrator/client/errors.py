"""What goes wrong between a program and the orchestrator, as one tree.

ApiError                 base of all: status, error_type, reason_code, plugin, tool, run_id, envelope
├── Unreachable              nobody answered, or the connection broke
├── UnexpectedAnswer         an answer that is no orchestrator's
├── AccessDenied             401, 403: no valid key, or one whose role is too small
├── NotFound                 404: no such plugin, tool, run or route
├── InvalidRequest           400, 408, 413, 415, 422: the arguments do not fit, or the tool refused its input
├── RunNotFinished           409: the result of a run that still goes on
├── TooManyRequests          429: readers, or wrong keys
│   └── QueueFull                as many runs wait as may
├── PluginError              502: the tool raised, crashed, ran out of memory, or returned what is no JSON
│   ├── PluginTimeout            504: over its time limit
│   └── PluginUnavailable        503: the plugin is FAILED or UNAVAILABLE, reason_code says why
├── RunCancelled             409: somebody cancelled the run
└── ServerError              500 and whatever else
"""

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """The text is the orchestrator's own sentence. `status` is None where there was no answer; `retry_after` counts
    seconds, where the orchestrator named them.
    """

    def __init__(
        self,
        sentence: str,
        *,
        status: int | None = None,
        envelope: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.envelope = dict(envelope or {})
        self.retry_after = retry_after
        self.error_type: str | None = self.envelope.get("error_type")
        self.reason_code: str | None = self.envelope.get("reason_code")
        self.plugin: str | None = self.envelope.get("plugin")
        self.tool: str | None = self.envelope.get("tool")
        self.run_id: str | None = self.envelope.get("run_id")

    @property
    def code(self) -> str:
        """The shortest name for it: the reason code, else the error's type, else the status."""
        return str(self.reason_code or self.error_type or self.status or type(self).__name__)


class Unreachable(ApiError):
    """Nobody answered, or the connection broke before the answer's end."""


class UnexpectedAnswer(ApiError):
    """What answered does not speak as an orchestrator does."""


class AccessDenied(ApiError):
    """No valid API key was given, or its role is too small."""


class NotFound(ApiError):
    """No such plugin, tool, run or route."""


class InvalidRequest(ApiError):
    """The request or its arguments were refused. The plugin goes on."""


class RunNotFinished(ApiError):
    """The run still waits or executes."""


class TooManyRequests(ApiError):
    """Too many follow the events already, or too many wrong keys came from here."""


class QueueFull(TooManyRequests):
    """As many runs wait as may. The run has not begun."""


class PluginError(ApiError):
    """The plugin gave no result."""


class PluginTimeout(PluginError):
    """The tool ran longer than its limit; the plugin was stopped."""


class PluginUnavailable(PluginError):
    """The plugin is FAILED or UNAVAILABLE and takes no runs until an operator restarts it."""


class RunCancelled(ApiError):
    """Somebody cancelled the run: it has no result."""


class ServerError(ApiError):
    """The orchestrator itself could not do it."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    **dict.fromkeys((400, 408, 413, 415, 422), InvalidRequest),
    **dict.fromkeys((401, 403), AccessDenied),
    404: NotFound,
    409: RunNotFinished,
    429: TooManyRequests,
    502: PluginError,
    503: PluginUnavailable,
    504: PluginTimeout,
}
_BY_TYPE: Mapping[str, type[ApiError]] = {
    "QueueFull": QueueFull,
    "Cancelled": RunCancelled,
}


def error_of(status: int | None, envelope: Mapping[str, Any], *, retry_after: float | None = None) -> ApiError:
    """The error that an envelope with `ok: false` stands for."""
    kind = _BY_TYPE.get(str(envelope.get("error_type"))) or _BY_STATUS.get(status or 502, ServerError)
    sentence = envelope.get("error") or "no reason was given"
    return kind(str(sentence), status=status, envelope=envelope, retry_after=retry_after)
