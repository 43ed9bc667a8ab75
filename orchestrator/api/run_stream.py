"""The response of a streaming run: its events as they come, as NDJSON or as server-sent events, and heartbeats."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic
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

_BUFFERED: Final = 16  # lines that wait for a slow reader before the tool must wait
_HEARTBEAT: Final = b'{"event":"heartbeat"}'
_RUNS: Final[set[asyncio.Task[RunResult]]] = set()  # the loop itself has weak references alone


class _Lines:
    """The lines of one run on their way to its reader, which takes all that are there at once."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._ended = False
        self._read = True
        self._arrived: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._silent_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, lines: Sequence[bytes]) -> asyncio.Future[None] | None:
        """What has to be awaited before more are put, if anything: as `Emit`."""
        if not self._read:
            return None
        self._lines += lines
        self._wake()
        if len(self._lines) < _BUFFERED:
            return None
        self._room = asyncio.get_running_loop().create_future()
        return self._room

    def end(self) -> None:
        self._ended = True
        self._wake()

    def close(self) -> None:
        """Nobody reads any more: there is room for all that comes."""
        self._read = False
        if self._timer is not None:
            self._timer.cancel()
        self._make_room()

    async def take(self) -> list[bytes]:
        """What has come, or a heartbeat where nothing comes for `HEARTBEAT_SECONDS`; empty at the end."""
        if not self._lines and not self._ended:
            self._silent_since = monotonic()
            if self._timer is None:
                self._set_timer(sse.HEARTBEAT_SECONDS)
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
            if not self._lines and not self._ended:
                return [_HEARTBEAT]
        return self._make_room()

    def _make_room(self) -> list[bytes]:
        lines, self._lines = self._lines, []
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return lines

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _set_timer(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        # One timer for all waits: as a rule lines follow each other closely.
        left = self._silent_since + sse.HEARTBEAT_SECONDS - monotonic()
        self._timer = None
        if self._arrived is None:
            return
        if left > 0:
            self._set_timer(left)
        else:
            self._wake()


async def streamed(name: str, call: ToolCall, context: ApiContext, media_type: str, shown: Concealment) -> Response:
    """The run's events as they come; a plain response for a run that ends before its first event or heartbeat."""
    lines = _Lines()

    async def work() -> RunResult:
        try:
            return shown.result(await context.tool_runner.run(name, call, emit=lines.put))
        finally:
            lines.end()

    def disconnect() -> None:
        # The run is not awaited: its tool may go on for a while, and must find room for its lines.
        context.tool_runner.caller_disconnected(call.run_id)
        lines.close()

    run = asyncio.create_task(work(), name=f"run {call.run_id}")
    _RUNS.add(run)
    run.add_done_callback(_RUNS.discard)
    try:
        first = await lines.take()
        while first == [_HEARTBEAT] and not _received(call):
            # Its body still comes, which is no silence; and a proxy may stop sending it once the response begins.
            first = await lines.take()
    except asyncio.CancelledError:
        disconnect()
        raise
    if not first:
        return respond(await run, plugin=name, tool=call.tool, run_id=call.run_id)
    body = _body(first, lines, run, name, call, framed=_sse if media_type == SSE else _ndjson, disconnect=disconnect)
    return StreamingResponse(body, media_type=media_type, headers={"X-Run-Id": call.run_id, **sse.STREAM_HEADERS})


def _received(call: ToolCall) -> bool:
    """Whether the caller's whole body is here."""
    return isinstance(call.body, bytes) or call.body.received


async def _body(
    first: list[bytes],
    lines: _Lines,
    run: asyncio.Task[RunResult],
    name: str,
    call: ToolCall,
    *,
    framed: Callable[[Sequence[bytes]], bytes],
    disconnect: Callable[[], None],
) -> AsyncIterator[bytes]:
    """The events, then `{"event": "end", "status": as without a stream, ...envelope}`; then calls `disconnect`."""
    try:
        yield framed(first)
        while together := await lines.take():
            yield framed(together)
        result = await asyncio.shield(run)
        end = envelope(result, plugin=name, tool=call.tool, run_id=call.run_id)
        yield framed([b'{"event":"end","status":%d,%s' % (STATUS[result.outcome], end[1:])])
    finally:
        disconnect()


def _ndjson(lines: Sequence[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"


class _Event(msgspec.Struct):
    """The field of a line that its frame needs."""

    event: str


_EVENT: Final = msgspec.json.Decoder(_Event)


def _sse(lines: Sequence[bytes]) -> bytes:
    return b"".join(map(_sse_frame, lines))


def _sse_frame(line: bytes) -> bytes:
    if line is _HEARTBEAT:
        return sse.HEARTBEAT
    # To SSE a bare carriage return ends a line; in JSON it can only be white space.
    return b"event: %s\ndata: %s\n\n" % (_EVENT.decode(line).event.encode(), line.replace(b"\r", b" "))
