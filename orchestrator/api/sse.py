"""Streaming responses: heartbeats, headers for proxies, frames of server-sent events, and a response that ends when the
server stops.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")

HEARTBEAT_SECONDS: Final = 15.0
"""Of silence, after which a stream sends a heartbeat: proxies close one that is silent for 60."""
HEARTBEAT: Final = b": still here\n\n"
"""A comment, which readers of server-sent events skip."""
STREAM_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store, no-transform",  # no-transform: nor compressed on the way, which buffers
    "X-Accel-Buffering": "no",  # else nginx withholds what comes until its buffer is full
}
OPENING: Final = b"retry: 2000\n\n"
"""Milliseconds before a browser reconnects to a stream that has ended."""


def frame(event: str, data: str, *, event_id: int | None = None) -> bytes:
    """One server-sent event. `data` must be a single line, which JSON is."""
    id_line = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {event}\n{id_line}data: {data}\n\n".encode()


async def with_heartbeats(chunks: asyncio.Queue[T | None], heartbeat: T) -> AsyncIterator[T]:
    """What is put into `chunks` up to None, and `heartbeat` wherever nothing comes for `HEARTBEAT_SECONDS`."""
    while True:
        chunk: T | None = heartbeat
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                chunk = await chunks.get()
        if chunk is None:
            return
        yield chunk


async def beating(source: AsyncGenerator[T, None], heartbeat: T) -> AsyncIterator[T]:
    """What `source` yields, and `heartbeat` wherever it is silent. At most 16 chunks are read ahead."""
    chunks: asyncio.Queue[T | None] = asyncio.Queue(16)
    # A task of its own: a timeout around the source's next chunk would end the source.
    pump = asyncio.create_task(_pump(source, chunks))
    try:
        async for chunk in with_heartbeats(chunks, heartbeat):
            yield chunk
        await pump
    finally:
        pump.cancel()
        await asyncio.wait((pump,))


async def _pump(source: AsyncGenerator[T, None], chunks: asyncio.Queue[T | None]) -> None:
    failure: Exception | None = None
    try:
        async with aclosing(source):
            async for chunk in source:
                await chunks.put(chunk)
    except Exception as error:  # noqa: BLE001 - raised again once the chunks before it are read
        failure = error
    await chunks.put(None)
    if failure is not None:
        raise failure


class UntilShutdownResponse(StreamingResponse):
    """Stream `chunks` until they end or `shutdown` is set.

    `write_timeout`: seconds that the reader may take for one chunk before it is disconnected; None for no limit.
    `on_end` is called once when the response is over, whatever ended it.
    """

    def __init__(
        self,
        chunks: AsyncIterator[str] | AsyncIterator[bytes],
        shutdown: asyncio.Event,
        *,
        media_type: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
        write_timeout: float | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._shutdown = shutdown
        self._write_timeout = write_timeout
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._write_timeout):
                await send(message)

        stream = asyncio.create_task(super().stream_response(send_in_time))
        shutdown = asyncio.create_task(self._shutdown.wait())
        try:
            await asyncio.wait((stream, shutdown), return_when=asyncio.FIRST_COMPLETED)
        finally:
            shutdown.cancel()
            ended = stream.done()
            # It may be in the middle of a send, which has to end before the body's end is sent.
            stream.cancel()
            await asyncio.wait((stream,))
        if not ended:
            # A regular end of the body, unlike that of a broken connection.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not isinstance(stream.exception(), TimeoutError):
            await stream
