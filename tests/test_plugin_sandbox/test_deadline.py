"""The result at the deadline: in time, whatever the plugin does."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from support.raw_runtime import Answer, http_stream, raw_instance

from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.call import Outcome, ToolCall
from orchestrator.sandbox.cancel_when import Signal
from orchestrator.sandbox.sandbox_runner import PluginSandboxRunner, ResultSink

LIMIT = 0.2
CALL = ToolCall("read", "run-1", "application/json", b"{}")


async def says_nothing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def says_half_a_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asyncio.Event().wait()


async def drips(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await asyncio.sleep(0.01)


async def streams_for_ever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(http_stream(b'{"event":"item","data":0}', end=False))
    line = b'{"event":"item","data":1}\n'
    while True:
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("answer", [says_nothing, says_half_a_head, drips, streams_for_ever])
async def test_the_result_is_there_at_the_deadline(answer: Answer) -> None:
    """Not before it and hardly after it, with the limit in its sentence."""
    async with raw_instance(answer) as instance:
        started = time.monotonic()
        result = await PluginSandboxRunner(max_result=10**6, reader_idle=1).run(instance, CALL, timeout=LIMIT)
        took = time.monotonic() - started
    assert (result.outcome, result.reason_code) == (Outcome.TIMEOUT, ReasonCode.TIMEOUT)
    assert LIMIT <= took < LIMIT + 1
    assert result.execution_time_ms == pytest.approx(took * 1000, abs=500)
    assert "0.2 s" in (result.error or "")


async def stops_at_the_next_line(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As the runtime: it closes its side when a line cannot be sent, and notices nothing before."""
    line = b'{"event":"item","data":1}\n'
    writer.write(http_stream(line[:-1], end=False))
    while not writer.is_closing():
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))
        await asyncio.sleep(0.01)


async def computes_for_ever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(http_stream(b'{"event":"item","data":1}', end=False))
    await asyncio.Event().wait()


async def takes_nothing(_: Sequence[bytes]) -> None:
    await asyncio.Event().wait()


async def test_a_reader_that_takes_nothing_costs_the_plugin_nothing() -> None:
    """The tool's clock stands while its line waits; in the end the reader is hung up on."""
    async with raw_instance(stops_at_the_next_line) as instance:
        sandbox = PluginSandboxRunner(max_result=10**6, reader_idle=2 * LIMIT)
        result = await asyncio.wait_for(sandbox.run(instance, CALL, timeout=LIMIT, sink=ResultSink(takes_nothing)), 3)
    assert (result.outcome, result.reason_code) == (Outcome.CALLER_DISCONNECTED, None)
    assert "0.4 s" in (result.error or "")


async def test_a_slow_reader_gives_the_tool_no_more_time() -> None:
    """The clock goes on from where it stood: a stream without end is ended."""
    taken = 0

    async def emit(_: Sequence[bytes]) -> None:
        nonlocal taken
        taken += 1
        await asyncio.sleep(0.002)

    async with raw_instance(stops_at_the_next_line) as instance:
        sandbox = PluginSandboxRunner(max_result=10**6, reader_idle=1)
        result = await asyncio.wait_for(sandbox.run(instance, CALL, timeout=0.1, sink=ResultSink(emit)), 5)
    assert result.outcome is Outcome.TIMEOUT
    assert taken >= 2


@pytest.mark.parametrize(
    ("answer", "outcome"), [(stops_at_the_next_line, Outcome.CALLER_DISCONNECTED), (computes_for_ever, Outcome.TIMEOUT)]
)
async def test_a_reader_that_leaves_frees_the_tool_only_when_it_has_ended(answer: Answer, outcome: Outcome) -> None:
    """It is stopped at its next line; one that never comes there is found soon after the deadline."""
    disconnected = Signal()

    async def emit(_: Sequence[bytes]) -> None:
        if not disconnected.done():
            disconnected.set()

    async with raw_instance(answer) as instance:
        sandbox = PluginSandboxRunner(max_result=10**6, reader_idle=1)
        started = time.monotonic()
        result = await asyncio.wait_for(
            sandbox.run(instance, CALL, timeout=LIMIT, sink=ResultSink(emit, disconnected)), 5
        )
        took = time.monotonic() - started
    assert result.outcome is outcome
    assert took >= LIMIT or outcome is Outcome.CALLER_DISCONNECTED


async def test_hanging_runs_do_not_wait_for_one_another() -> None:
    """Fifty at once are all answered at their deadline."""
    async with raw_instance(says_nothing) as instance:
        sandbox = PluginSandboxRunner(max_result=10**6, reader_idle=1)
        started = time.monotonic()
        results = await asyncio.gather(*(sandbox.run(instance, CALL, timeout=LIMIT) for _ in range(50)))
    assert {result.outcome for result in results} == {Outcome.TIMEOUT}
    assert time.monotonic() - started < LIMIT + 1


async def test_a_cancelled_run_closes_its_connection() -> None:
    """A cancellation is no result: it is raised."""
    closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        closed.set()

    async with raw_instance(answer) as instance:
        sandbox = PluginSandboxRunner(max_result=10**6, reader_idle=1)
        run = asyncio.create_task(sandbox.run(instance, CALL, timeout=60))
        await asyncio.sleep(0.05)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await asyncio.wait_for(closed.wait(), 1)
