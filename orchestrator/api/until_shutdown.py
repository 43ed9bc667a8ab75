"""Responses that have no end of their own: they end at once when the server begins to stop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send


def stopping(app: FastAPI) -> asyncio.Event:
    """Set by whoever serves `app` when it begins to stop."""
    if not hasattr(app.state, "stopping"):
        app.state.stopping = asyncio.Event()
    event: asyncio.Event = app.state.stopping
    return event


class EndlessResponse(StreamingResponse):
    """What `chunks` gives as it comes, until there is no more or `over` is set.

    `patience`: seconds that the reader may take for one chunk before it is left; None for as long as it likes.
    `on_end` is called when the response is over, however it came to that.
    """

    def __init__(
        self,
        chunks: AsyncIterator[str] | AsyncIterator[bytes],
        over: asyncio.Event,
        *,
        media_type: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
        patience: float | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._over = over
        self._patience = patience
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._patience):
                await send(message)

        stream = asyncio.create_task(super().stream_response(send_in_time))
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait((stream, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            ended = stream.done()
            stream.cancel()
            await asyncio.wait((stream,))
        if not ended:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not isinstance(stream.exception(), TimeoutError):
            await stream
