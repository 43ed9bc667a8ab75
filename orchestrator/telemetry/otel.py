"""Runs as OpenTelemetry spans. The only module that imports OpenTelemetry, an optional extra: see `tracing`."""

import asyncio
import threading
from collections.abc import Mapping
from importlib.metadata import version
from types import TracebackType
from typing import Final, Self

from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from orchestrator.formatting import MAX_NAME_LENGTH
from orchestrator.sandbox.call import Outcome, RunResult, ToolCall
from orchestrator.tools.run_observer import RunWatch

_PACKAGE: Final = "plugin-orchestrator"
_ATTRIBUTE: Final = "plugin_orchestrator."
_CLOSE_TIMEOUT: Final = 3.0  # seconds
# Outcomes that make the span an error; the others are the caller's mistake or wish.
_ERRORS: Final = frozenset({Outcome.PLUGIN_FAILED, Outcome.TIMEOUT, Outcome.UNAVAILABLE})
_W3C: Final = TraceContextTextMapPropagator()


class OtelTracing:
    """A span per run, with one child for its wait and one for its call, whose context is passed to the plugin.

    The OTEL_ variables set endpoint, headers, sampler, batches and resource.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        attributes = {SERVICE_VERSION: version(_PACKAGE)}
        if not environment.get("OTEL_SERVICE_NAME"):
            attributes[SERVICE_NAME] = _PACKAGE
        # Its own provider, not the global one: several orchestrators may live in one process.
        self._provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_PACKAGE, version(_PACKAGE))

    def watch(self, plugin: str, call: ToolCall) -> RunWatch:
        within_span = trace.get_current_span().get_span_context().is_valid
        span = self._tracer.start_span(
            f"run {plugin}",
            # Where ASGI is instrumented too, the caller's context has been read.
            context=None if within_span else _W3C.extract(call.trace),
            kind=SpanKind.SERVER,
            attributes={
                f"{_ATTRIBUTE}plugin": plugin,
                f"{_ATTRIBUTE}tool": call.tool[:MAX_NAME_LENGTH],
                f"{_ATTRIBUTE}run_id": call.run_id,
            },
        )
        return _TracedRun(self._tracer, span)

    async def close(self) -> None:
        # A daemon thread: a collector that does not answer must not keep the process alive.
        closed = threading.Event()

        def close() -> None:
            self._provider.shutdown()
            closed.set()

        threading.Thread(target=close, name="last traces", daemon=True).start()
        await asyncio.to_thread(closed.wait, _CLOSE_TIMEOUT)


class _TracedRun(RunWatch):
    def __init__(self, tracer: Tracer, run: Span) -> None:
        self._tracer = tracer
        self._run = run
        self._has_result = False

    def __enter__(self) -> Self:
        self._current = trace.use_span(
            self._run, end_on_exit=True, record_exception=False, set_status_on_exception=False
        )
        self._current.__enter__()
        self._phase = self._tracer.start_span("wait")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase.end()
        if not self._has_result:
            self._run.set_attribute(f"{_ATTRIBUTE}outcome", "cancelled")
        self._current.__exit__(kind, error, trace)

    def started(self, call: ToolCall) -> ToolCall:
        self._phase.end()
        self._phase = self._tracer.start_span("call", kind=SpanKind.CLIENT)
        headers: dict[str, str] = {}
        _W3C.inject(headers, context=trace.set_span_in_context(self._phase))
        return replace(call, trace=headers)

    def ended(self, result: RunResult) -> None:
        self._has_result = True
        self._run.set_attribute(f"{_ATTRIBUTE}outcome", result.outcome.value)
        if result.reason_code is not None:
            self._run.set_attribute(f"{_ATTRIBUTE}reason_code", result.reason_code.value)
        if result.outcome in _ERRORS:
            self._run.set_status(Status(StatusCode.ERROR, result.error))
