"""What observes runs beside metrics and logs: the traces, where they are requested; and several observers as one."""

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import TracebackType
from typing import Final, Protocol, Self, cast

from orchestrator.sandbox.call import RunResult, ToolCall
from orchestrator.tools.run_observer import RunObserver, RunWatch

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_log = logging.getLogger(__name__)


class Tracing(Protocol):
    """Sends spans of runs to a collector."""

    def watch(self, plugin: str, call: ToolCall) -> RunWatch:
        """A `RunObserver`."""

    async def close(self) -> None:
        """Send the remaining spans, for at most three seconds."""


def tracing(environment: Mapping[str, str]) -> Tracing | None:
    """The tracing that the standard OTEL_ variables request; None if they request none, or what is not available, which
    is logged.
    """
    if (
        not any(environment.get(name) for name in _ENDPOINTS)
        or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "none"
    ):
        return None
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        _log.warning("traces are not sent: OTLP over %s is not supported. Set OTEL_EXPORTER_OTLP_PROTOCOL to "
                     "http/protobuf, and the endpoint to the collector's HTTP port (4318).", protocol)  # fmt: skip
        return None
    try:
        # Only here: OpenTelemetry is an optional extra, and a process without traces does not load it.
        module = import_module("orchestrator.telemetry.otel")
    except ModuleNotFoundError as error:
        _log.warning(
            "traces are not sent: an OTLP endpoint is set, but %s is not installed. Run: pip install "
            "'plugin-orchestrator[otel]'",
            error.name,
        )
        return None
    return cast("Tracing", module.OtelTracing(environment))


def together(*observers: RunObserver) -> RunObserver:
    """One observer instead of several. The first is entered first and exited last."""

    def watch(plugin: str, call: ToolCall) -> RunWatch:
        return _Composite([observe(plugin, call) for observe in observers])

    return watch


class _Composite(RunWatch):
    def __init__(self, watches: Sequence[RunWatch]) -> None:
        self._watches = watches

    def __enter__(self) -> Self:
        for watch in self._watches:
            watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watch in reversed(self._watches):
            watch.__exit__(kind, error, trace)

    def started(self, call: ToolCall) -> ToolCall:
        for watch in self._watches:
            call = watch.started(call)
        return call

    def ended(self, result: RunResult) -> None:
        for watch in self._watches:
            watch.ended(result)
