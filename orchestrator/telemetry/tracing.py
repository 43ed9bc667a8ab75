"""Whether runs are traced. Apart from `otel`, which imports OpenTelemetry: only done if traces are requested."""

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Final, Protocol, cast

from orchestrator.sandbox.call import ToolCall
from orchestrator.tools.run_observer import RunWatch

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
        module = import_module("orchestrator.telemetry.otel")
    except ModuleNotFoundError as error:
        _log.warning(
            "traces are not sent: an OTLP endpoint is set, but %s is not installed. Run: pip install "
            "'plugin-orchestrator[otel]'",
            error.name,
        )
        return None
    return cast("Tracing", module.OtelTracing(environment))
