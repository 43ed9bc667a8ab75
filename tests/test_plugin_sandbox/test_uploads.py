"""The caller's body on its way through the sandbox: passed on as it comes, and nobody waits for it for ever."""

import asyncio
import time
from collections.abc import AsyncIterator

from support.raw_runtime import http, raw_instance
from test_plugin_sandbox.sandbox_calls import MAX_RESULT, never, run

from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, ToolCall
from orchestrator.sandbox.sandbox_runner import PluginSandboxRunner


async def chunks(*parts: bytes, pause: float = 0, then: type[Exception] | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(pause)
        yield part
    if then is not None:
        raise then


async def take_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads a chunked body to its end and answers with its length."""
    size = 0
    while length := int(await reader.readline(), 16):
        size += len(await reader.readexactly(length))
        await reader.readline()
    writer.write(http(b'{"ok": true, "result": %d}' % size))


def upload(body: AsyncIterator[bytes]) -> ToolCall:
    return ToolCall("read", "run-1", "image/png", body)


async def test_a_body_is_passed_on_in_chunks() -> None:
    """All of it arrives."""
    result = await run(take_all, call=upload(chunks(b"x" * 70_000, b"y" * 70_000)))
    assert result.result == b"140000"


async def test_the_clock_stands_while_the_caller_is_slow() -> None:
    """An upload may take longer than the tool may."""
    result = await run(take_all, call=upload(chunks(*[b"x"] * 6, pause=0.1)), timeout=0.5)
    assert result.result == b"6"


async def test_a_caller_that_stops_sending_is_told_so() -> None:
    """The run ends, and it is not the plugin's fault."""
    begun = time.monotonic()
    result = await run(take_all, call=upload(chunks(b"x", pause=60)))
    assert result.outcome is Outcome.UPLOAD_STALLED
    assert result.reason_code is None
    assert time.monotonic() - begun < 1


async def test_a_trickling_upload_is_told_so() -> None:
    """Whose every pause is short: it would hold the plugin's place without end."""
    begun = time.monotonic()
    async with raw_instance(take_all) as instance:
        runner = PluginSandboxRunner(max_result=MAX_RESULT, upload_idle=1, upload_min_rate=1000, upload_grace=0.2)
        result = await runner.run(instance, upload(chunks(*[b"x"] * 100, pause=0.02)), timeout=0.5)
    assert (result.outcome, result.reason_code) == (Outcome.UPLOAD_STALLED, None)
    assert "1000 bytes a second" in (result.error or "")
    assert time.monotonic() - begun < 1


async def test_a_caller_that_hangs_up_is_no_fault_of_the_plugin() -> None:
    """Whatever its body ended with."""
    result = await run(take_all, call=upload(chunks(b"x", then=ConnectionResetError)))
    assert (result.outcome, result.reason_code) == (Outcome.CALLER_GONE, None)


async def test_a_plugin_that_does_not_take_the_upload_runs_out_of_time() -> None:
    """The clock stands for the caller, never for the plugin."""
    begun = time.monotonic()
    result = await run(never, call=upload(chunks(*[b"x" * 1_000_000] * 10)), timeout=0.2)
    assert (result.outcome, result.reason_code) == (Outcome.TIMEOUT, ReasonCode.TIMEOUT)
    assert time.monotonic() - begun < 1


async def test_an_answer_in_the_middle_of_the_upload_counts() -> None:
    """A plugin that refuses what it is sent need not take it to its end."""
    refusal = http(b'{"ok": false, "kind": "invalid_arguments", "error": "no"}', status="422 X")
    result = await run(refusal, call=upload(chunks(*[b"x" * 1000] * 50, pause=0.01)))
    assert result.outcome is Outcome.INVALID_ARGUMENTS
