"""Everything that can go wrong between a program and the orchestrator, as one tree.

ApiError                 base of all: status, error_type, reason_code, plugin, tool, run_id, envelope
├── Unreachable              no answer, or the connection broke
│   └── CertificateRefused       TLS: its certificate is not trusted, or it speaks none
├── UnexpectedAnswer         the answer is not an orchestrator's
├── AccessDenied             401, 403: no valid key, or its role does not allow this
├── NotFound                 404: no such plugin, tool, run or route
├── InvalidRequest           400, 408, 413, 415, 422: the arguments do not fit, or the tool refused its input
├── RunNotFinished           409: the run has no result yet
├── CommandRefused           409: it cannot be done now
│   ├── RestartRefused           there can be no new instance; the old one goes on. reason_code says why
│   ├── UpdateUnderWay           an update is under way; nothing else is begun before its end
│   ├── NothingToRevert          no other release of the plugin has served
│   └── NotParked                a run executes or waits, or the plugin takes none
├── TooManyRequests          429: too many readers or wrong keys
│   └── QueueFull                the plugin's queue is full
├── PluginError              502: the tool raised, crashed, ran out of memory, or its result is no JSON
│   ├── PluginTimeout            504: over its time limit
│   └── PluginUnavailable        503: the plugin is FAILED or UNAVAILABLE; reason_code says why
│       └── InstanceEnded            its instance was ended under the run, by an operator, an update or the host
├── RunCancelled             409: the run was cancelled
├── FileNotSaved             a file of a result could not be written here
└── ServerError              500 and any other status
"""

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """The text is the orchestrator's own sentence.

    `status` is None without an answer; `retry_after` is in seconds, None if the orchestrator did not send it.
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
        """The reason code, else the error's type, else the status."""
        return str(self.reason_code or self.error_type or self.status or type(self).__name__)


class Unreachable(ApiError):
    """No answer, or the connection broke before the end of the answer."""


class CertificateRefused(Unreachable):
    """Whatever answers is not trusted, or does not speak TLS: nothing was sent to it."""


class UnexpectedAnswer(ApiError):
    """The answer is not an orchestrator's."""


class AccessDenied(ApiError):
    """No valid API key, or its role does not allow this."""


class NotFound(ApiError):
    """No such plugin, tool, run or route."""


class InvalidRequest(ApiError):
    """The request or its arguments were refused. The plugin keeps running."""


class RunNotFinished(ApiError):
    """The run is still queued or executing."""


class CommandRefused(ApiError):
    """What was asked for cannot be done now. Nothing has changed."""


class RestartRefused(CommandRefused):
    """There can be no new instance, so the old one was not stopped. Fix what the reason names, and restart again."""


class UpdateUnderWay(CommandRefused):
    """An update of the plugin is under way. Wait for its end, or stop the plugin, which ends it."""


class NothingToRevert(CommandRefused):
    """The plugin has no former release."""


class NotParked(CommandRefused):
    """A run of the plugin executes or waits, or the plugin takes none."""


class TooManyRequests(ApiError):
    """Too many readers follow events, or too many wrong keys came from this address."""


class QueueFull(TooManyRequests):
    """The plugin's queue is full. The run was not started."""


class PluginError(ApiError):
    """The plugin gave no result."""


class PluginTimeout(PluginError):
    """The tool ran longer than its limit; the plugin was stopped."""


class PluginUnavailable(PluginError):
    """The plugin is FAILED or UNAVAILABLE; it takes no runs until an operator restarts it."""


class InstanceEnded(PluginUnavailable):
    """The run had begun, and its instance was ended under it: by a stop, a restart or an update (`update.drain`) of an
    operator, or by the host. The plugin may take runs nevertheless.
    """


class RunCancelled(ApiError):
    """The run was cancelled: it has no result."""


class FileNotSaved(ApiError):
    """A file of a result could not be written on this machine: no space, no right, a file that is there already."""


class ServerError(ApiError):
    """The orchestrator itself failed."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    **dict.fromkeys((400, 408, 413, 415, 422), InvalidRequest),
    **dict.fromkeys((401, 403), AccessDenied),
    404: NotFound,
    409: CommandRefused,
    429: TooManyRequests,
    502: PluginError,
    503: PluginUnavailable,
    504: PluginTimeout,
}
_BY_TYPE: Mapping[str, type[ApiError]] = {
    "QueueFull": QueueFull,
    "Cancelled": RunCancelled,
    "RunNotFinished": RunNotFinished,
    "RestartRefused": RestartRefused,
    "UpdateUnderWay": UpdateUnderWay,
    "NothingToRevert": NothingToRevert,
    "NotParked": NotParked,
    "InstanceEnded": InstanceEnded,
}


def error_of(status: int | None, envelope: Mapping[str, Any], *, retry_after: float | None = None) -> ApiError:
    """The error that an envelope with `ok: false` means."""
    kind = _BY_TYPE.get(str(envelope.get("error_type"))) or _BY_STATUS.get(status or 502, ServerError)
    sentence = str(envelope.get("error") or "")
    raised = envelope.get("error_type") if envelope.get("reason_code") == "TOOL_ERROR" and kind is PluginError else None
    if raised and str(raised) not in sentence:  # of many an exception the message says little without its type
        sentence = f"{raised}: {sentence}" if sentence else str(raised)
    return kind(sentence or "no reason was given", status=status, envelope=envelope, retry_after=retry_after)
