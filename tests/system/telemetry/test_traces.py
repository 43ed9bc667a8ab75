"""Traces: the caller's context reaches the plugin; with an endpoint set and the extra installed, runs are spans."""

import asyncio
import io
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from support.harness import Harness
from support.otlp import Collector, attributes, collector

from orchestrator.api.request_headers import trace_context
from orchestrator.sandbox.call import ToolCall
from orchestrator.telemetry import logs
from orchestrator.telemetry.observers import tracing

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"


@pytest.fixture
def otlp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, named in the environment."""
    with collector() as opened_collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", opened_collector.address)
        yield opened_collector


def fail() -> None:
    raise ValueError("no")


async def opened(harness: Harness) -> None:
    harness.add("reader", tools={"read": lambda: "text", "fail": fail}, failure_policy="tolerant")
    await harness.open()
    await harness.settled("reader")


# The caller's context


async def test_the_callers_context_reaches_the_plugin(harness: Harness) -> None:
    """Unchanged, if the orchestrator itself does not trace."""
    await opened(harness)
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    await harness.client.post("/v1/plugins/reader/tools/read/run", json={}, headers=headers)
    await harness.run("reader", "read")
    assert harness.instance("reader").traces == [headers, {}]


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{CALLER}",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{CALLER}-01",
        PARENT.upper(),
        PARENT + "\n",
    ],
)
def test_an_invalid_trace_context_is_not_passed_on(parent: str) -> None:
    """Nor is a state without its parent."""
    assert trace_context({"traceparent": parent, "tracestate": "vendor=1"}) == {}


def test_a_state_that_is_too_long_is_omitted() -> None:
    assert trace_context({"traceparent": PARENT, "tracestate": "x" * 513}) == {"traceparent": PARENT}


# Spans


async def test_a_run_is_a_span_of_its_callers_trace(harness: Harness, otlp: Collector) -> None:
    """With one child for its wait and one for its call, whose context is passed to the plugin."""
    await opened(harness)
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    answer = await harness.client.post("/v1/plugins/reader/tools/read/run", json={}, headers=headers)
    await harness.shut()
    run, wait, call = (otlp.span(name) for name in ("run reader", "wait", "call"))
    assert {span.trace_id.hex() for span in otlp.spans} == {TRACE}
    assert run.parent_span_id.hex() == CALLER
    assert wait.parent_span_id == call.parent_span_id == run.span_id
    assert run.kind == Span.SPAN_KIND_SERVER and call.kind == Span.SPAN_KIND_CLIENT
    assert attributes(run) == {
        "plugin": "reader",
        "tool": "read",
        "run_id": answer.headers["X-Run-Id"],
        "outcome": "ok",
    }
    assert run.status.code == Status.STATUS_CODE_UNSET
    begins = run.start_time_unix_nano
    assert begins <= wait.start_time_unix_nano <= wait.end_time_unix_nano <= call.start_time_unix_nano
    assert call.end_time_unix_nano <= run.end_time_unix_nano
    (passed,) = harness.instance("reader").traces
    assert passed == {"traceparent": f"00-{TRACE}-{call.span_id.hex()}-01", "tracestate": "vendor=1"}
    assert otlp.resources[0]["service.name"] == "plugin-orchestrator"


async def test_a_run_without_a_callers_context_starts_a_trace(harness: Harness, otlp: Collector) -> None:
    """Its log records carry the trace's id."""
    written = io.StringIO()
    handler = logs.handler("json", written)
    await opened(harness)
    logging.getLogger().addHandler(handler)
    try:
        await harness.run("reader", "fail")
    finally:
        logging.getLogger().removeHandler(handler)
    await harness.shut()
    run = otlp.span("run reader")
    assert run.parent_span_id == b""
    (raised,) = [r for line in written.getvalue().splitlines() if "ValueError" in (r := json.loads(line))["message"]]
    assert raised["trace_id"] == run.trace_id.hex()


async def test_a_run_that_failed_is_a_span_that_failed(harness: Harness, otlp: Collector) -> None:
    """With the outcome, the reason code and the caller's error message; a caller's own mistake is no error."""
    await opened(harness)
    answer = await harness.run("reader", "fail")
    await harness.run("reader", "made-up-by-a-caller")
    await harness.shut()
    failed, mistaken = [span for span in otlp.spans if span.name == "run reader"]
    assert attributes(failed)["outcome"] == "plugin_failed"
    assert attributes(failed)["reason_code"] == "TOOL_ERROR"
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert failed.status.message == answer.json()["error"]
    assert attributes(mistaken)["outcome"] == "unknown_tool"
    assert mistaken.status.code == Status.STATUS_CODE_UNSET


async def test_the_standard_variables_are_heeded(
    harness: Harness, otlp: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, resource, sampler. A context that is not sampled is passed on as such."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-service")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    await opened(harness)
    await harness.run("reader", "read")
    await harness.shut()
    assert otlp.resources[0]["service.name"] == "my-service"
    assert otlp.resources[0]["deployment.environment.name"] == "test"
    otlp.spans.clear()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    await harness.open()
    await harness.settled("reader")
    await harness.run("reader", "read")
    await harness.shut()
    assert otlp.spans == []
    flags = harness.instance("reader").traces[-1]["traceparent"].split("-")[3]
    assert int(flags, 16) & 1 == 0


@pytest.mark.slow
async def test_a_collector_that_does_not_answer_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a run nor the end of the orchestrator waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        traces = tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": address})
        assert traces is not None
        started = time.monotonic()
        with traces.watch("reader", ToolCall("read", "run-1", "application/json", b"{}")):
            await asyncio.sleep(0)
        assert time.monotonic() - started < 1
        await traces.close()
        assert time.monotonic() - started < 4


# Without


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_traced_unasked(environment: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    assert tracing(environment) is None
    ours = [record for record in caplog.records if record.name.startswith("orchestrator")]
    assert ours == []  # an exporter of an earlier test may still be at its last try


@pytest.mark.slow
def test_nothing_is_imported_unasked() -> None:
    """The SDK costs time and memory."""
    script = (
        "import os, sys, orchestrator.app; from orchestrator.telemetry.observers import tracing; tracing({});"
        "sys.exit('opentelemetry.sdk' in sys.modules or 'opentelemetry.exporter' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_missing_extra_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With what to do; the orchestrator serves without traces."""
    monkeypatch.delitem(sys.modules, "orchestrator.telemetry.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) is None
    assert "pip install 'plugin-orchestrator[otel]'" in caplog.text


def test_an_unsupported_protocol_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert tracing(endpoint) is None
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in caplog.text
