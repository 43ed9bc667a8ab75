"""The caller's body on its way through the sandbox: passed on as it comes, and not waited for without end."""

import asyncio
import time
from collections.abc import AsyncIterator

from support.raw_runtime import http
from test_plugin_sandbox.sandbox_calls import never, request_body, run

from orchestrator.api.body import RequestBody, UploadPace
from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, ToolCall


async def chunks(*sent: bytes, pause: float = 0, then: type[Exception] | None = None) -> AsyncIterator[bytes]:
    for chunk in sent:
        await asyncio.sleep(pause)
        yield chunk
    if then is not None:
        raise then


async def take_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads a chunked body to its end and answers with its length."""
    size = 0
    while length := int(await reader.readline(), 16):
        size += len(await reader.readexactly(length))
        await reader.readline()
    writer.write(http(b'{"ok": true, "result": %d}' % size))


def upload(body: AsyncIterator[bytes] | RequestBody) -> ToolCall:
    return ToolCall("read", "run-1", "image/png", body if isinstance(body, RequestBody) else request_body(body))


async def test_a_body_is_passed_on_in_chunks() -> None:
    """All of it arrives, and it is known how much that was."""
    body = request_body(chunks(b"x" * 70_000, b"y" * 70_000))
    result = await run(take_all, call=upload(body))
    assert result.result == b"140000"
    assert (body.passed_on, body.complete, body.failure) == (140_000, True, None)


async def test_the_clock_stands_while_the_caller_is_slow() -> None:
    """An upload may take longer than the tool may."""
    result = await run(take_all, call=upload(chunks(*[b"x"] * 6, pause=0.1)), timeout=0.5)
    assert result.result == b"6"


async def test_a_caller_that_stops_sending_ends_its_run() -> None:
    """It is not the plugin's fault."""
    started = time.monotonic()
    result = await run(take_all, call=upload(chunks(b"x", pause=60)))
    assert result.outcome is Outcome.UPLOAD_STALLED
    assert result.reason_code is None
    assert time.monotonic() - started < 1


async def test_a_trickling_upload_ends_its_run() -> None:
    """Each of its pauses is short: it would occupy the plugin without end."""
    started = time.monotonic()
    body = request_body(chunks(*[b"x"] * 100, pause=0.02), UploadPace(idle=1, min_rate=1000, grace=0.2))
    result = await run(take_all, call=upload(body), timeout=0.5)
    assert (result.outcome, result.reason_code) == (Outcome.UPLOAD_STALLED, None)
    assert "1000 bytes a second" in (result.error or "")
    assert time.monotonic() - started < 1
    assert (body.complete, body.failure is not None) == (False, True)


async def test_a_caller_that_disconnects_is_no_fault_of_the_plugin() -> None:
    """Whatever its body ended with."""
    result = await run(take_all, call=upload(chunks(b"x", then=ConnectionResetError)))
    assert (result.outcome, result.reason_code) == (Outcome.CALLER_DISCONNECTED, None)


async def test_a_plugin_that_does_not_take_the_upload_runs_out_of_time() -> None:
    """The clock stands for the caller, never for the plugin."""
    started = time.monotonic()
    result = await run(never, call=upload(chunks(*[b"x" * 1_000_000] * 10)), timeout=0.2)
    assert (result.outcome, result.reason_code) == (Outcome.TIMEOUT, ReasonCode.TIMEOUT)
    assert time.monotonic() - started < 1


async def test_an_answer_in_the_middle_of_the_upload_counts() -> None:
    """A plugin that refuses what it is sent need not take it to its end."""
    refusal = http(b'{"ok": false, "kind": "invalid_arguments", "error": "no"}', status="422 X")
    result = await run(refusal, call=upload(chunks(*[b"x" * 1000] * 50, pause=0.01)))
    assert result.outcome is Outcome.INVALID_ARGUMENTS
