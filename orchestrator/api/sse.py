"""Streaming responses: frames of server-sent events, and a response that ends when the server stops."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

HEARTBEAT: Final = b": still here\n\n"
OPENING: Final = b"retry: 2000\n\n"
"""Milliseconds before a browser reconnects to a stream that has ended."""


def frame(event: str, data: str, *, event_id: int | None = None) -> bytes:
    """One server-sent event. `data` must be a single line, which JSON is."""
    id_line = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {event}\n{id_line}data: {data}\n\n".encode()


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
