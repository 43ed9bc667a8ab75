"""The response of a streaming run: its events as they come, as NDJSON or as server-sent events, and heartbeats."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
from fastapi import Response
from fastapi.responses import StreamingResponse

from orchestrator.api import sse
from orchestrator.api.concealment import Concealment
from orchestrator.api.context import ApiContext
from orchestrator.api.problems import envelope, respond
from orchestrator.api.request_headers import SSE
from orchestrator.sandbox.call import STATUS, RunResult, ToolCall

_QUEUE: Final = 16  # lines buffered for a slow reader before the tool must wait
_HEARTBEAT: Final = b'{"event":"heartbeat"}'
_RUNS: Final[set[asyncio.Task[RunResult]]] = set()  # the loop itself has weak references alone


async def streamed(name: str, call: ToolCall, context: ApiContext, media_type: str, shown: Concealment) -> Response:
    """The run's events as they come; a plain response for a run that ends before its first event or heartbeat."""
    lines: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE)

    async def work() -> RunResult:
        try:
            return shown.result(await context.tool_runner.run(name, call, emit=lines.put))
        finally:
            await lines.put(None)

    def disconnect() -> None:
        # The run is not awaited: its tool may go on for a while, and must find room in the queue.
        context.tool_runner.caller_disconnected(call.run_id)
        while not lines.empty():
            lines.get_nowait()

    run = asyncio.create_task(work(), name=f"run {call.run_id}")
    _RUNS.add(run)
    run.add_done_callback(_RUNS.discard)
    events = sse.with_heartbeats(lines, _HEARTBEAT)
    try:
        first = await anext(events, None)
        while first is _HEARTBEAT and not _received(call):
            # Its body still comes, which is no silence; and a proxy may stop sending it once the response begins.
            first = await anext(events, None)
    except asyncio.CancelledError:
        disconnect()
        raise
    if first is None:
        return respond(await run, plugin=name, tool=call.tool, run_id=call.run_id)
    body = _body(first, events, run, name, call, disconnect=disconnect)
    framed = (_sse(line) async for line in body) if media_type == SSE else (line + b"\n" async for line in body)
    return StreamingResponse(framed, media_type=media_type, headers={"X-Run-Id": call.run_id, **sse.STREAM_HEADERS})


def _received(call: ToolCall) -> bool:
    """Whether the caller's whole body is here."""
    return isinstance(call.body, bytes) or call.body.received


async def _body(
    first: bytes,
    events: AsyncIterator[bytes],
    run: asyncio.Task[RunResult],
    name: str,
    call: ToolCall,
    *,
    disconnect: Callable[[], None],
) -> AsyncIterator[bytes]:
    """The events, then `{"event": "end", "status": as without a stream, ...envelope}`; then calls `disconnect`."""
    try:
        yield first
        async for line in events:
            yield line
        result = await asyncio.shield(run)
        end = envelope(result, plugin=name, tool=call.tool, run_id=call.run_id)
        yield b'{"event":"end","status":%d,%s' % (STATUS[result.outcome], end[1:])
    finally:
        disconnect()


class _Event(msgspec.Struct):
    """The field of a line that its frame needs."""

    event: str


_EVENT: Final = msgspec.json.Decoder(_Event)


def _sse(line: bytes) -> bytes:
    if line is _HEARTBEAT:
        return sse.HEARTBEAT
    # To SSE a bare carriage return ends a line; in JSON it can only be white space.
    return b"event: %s\ndata: %s\n\n" % (_EVENT.decode(line).event.encode(), line.replace(b"\r", b" "))
