"""What observes runs beside metrics and logs: the traces, where they are requested; and several observers as one."""

import logging
from collections.abc import Mapping
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


def together(first: RunObserver, *others: RunObserver) -> RunObserver:
    """One observer instead of several. The first is entered first and exited last."""
    if not others:
        return first
    rest = together(*others)

    def watch(plugin: str, call: ToolCall) -> RunWatch:
        return _Both(first(plugin, call), rest(plugin, call))

    return watch


class _Both(RunWatch):
    def __init__(self, first: RunWatch, second: RunWatch) -> None:
        self._first = first
        self._second = second

    def __enter__(self) -> Self:
        self._first.__enter__()
        self._second.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._second.__exit__(kind, error, trace)
        self._first.__exit__(kind, error, trace)

    def started(self, call: ToolCall) -> ToolCall:
        return self._second.started(self._first.started(call))

    def ended(self, result: RunResult) -> None:
        self._first.ended(result)
        self._second.ended(result)
