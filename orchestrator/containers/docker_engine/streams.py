"""Long answers of the engine, each read by its own thread and passed to the event loop in pieces."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import requests

from orchestrator.containers.docker_engine.client import (
    Client,
    ClientPool,
    engine_errors,
    raise_for_status,
    read_forever,
    shutdown,
)
from orchestrator.errors import EngineError, EngineRefusedError, EngineUnreachableError

_MAX_WAITING = 64  # pieces that may wait for a slow reader; then the thread stops reading, which holds back the engine

Request = Callable[[Client], requests.Response]
"""Sends a request with `stream=True` on the client as a session."""


class NoHeaderError(EngineUnreachableError):
    """The engine sent nothing at all within the bound."""


class Streams:
    """Opens streams, at most `limit` at a time."""

    def __init__(self, pool: ClientPool, *, limit: int) -> None:
        self._pool = pool
        self._limit = limit
        self._open: set[_Stream] = set()

    @asynccontextmanager
    async def open(
        self, request: Request, *, bound: float, silence: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The response's body in pieces.

        `bound`: seconds until its headers must have arrived; `silence`: seconds until the next bytes must, None for
        no limit. Leaving the context ends the stream at once, even while its thread waits for bytes. Raises
        `EngineUnreachableError` for a body that breaks off.
        """
        if len(self._open) >= self._limit:
            raise EngineRefusedError(f"{self._limit} streams of the container engine are open already")
        stream = _Stream(self._pool, request, bound=bound, silence=silence)
        self._open.add(stream)
        try:
            await stream.start()
            yield stream.pieces()
        finally:
            stream.close()
            self._open.discard(stream)

    def close(self) -> None:
        for stream in list(self._open):
            stream.close()


class _Stream:
    def __init__(self, pool: ClientPool, request: Request, *, bound: float, silence: float | None) -> None:
        self._pool = pool
        self._request = request
        self._bound = bound
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._headers: asyncio.Future[None] = self._loop.create_future()
        self._pieces: asyncio.Queue[bytes | EngineError | None] = asyncio.Queue()
        self._room = threading.Semaphore(_MAX_WAITING)
        self._closed = threading.Event()
        self._response: requests.Response | None = None

    async def start(self) -> None:
        threading.Thread(target=self._read, name="engine-stream", daemon=True).start()
        done, _ = await asyncio.wait((self._headers,), timeout=self._bound)
        if not done:
            self._headers.cancel()
            raise NoHeaderError(f"the container engine opened no stream within {self._bound:g} s")
        self._headers.result()

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            self._room.release()
            if isinstance(piece, EngineError):
                raise piece
            yield piece

    def close(self) -> None:
        self._closed.set()
        self._headers.cancel()
        self._room.release()  # wakes the thread where it waits for room
        self._pieces.put_nowait(None)
        if self._response is not None:
            shutdown(self._response)

    def _read(self) -> None:
        """The thread's function. It ends at most `bound` (or `silence`) seconds after `close`."""
        try:
            self._pool.call(self._transfer, bound=self._bound)
        except EngineError as error:
            self._call_soon(self._end, error)
        else:
            self._call_soon(self._end, None)
        finally:
            self._pool.drop()

    def _transfer(self, client: Client) -> None:
        response = self._request(client)
        try:
            raise_for_status(response)
            if self._silence is None:
                read_forever(response)
            self._response = response
            if self._closed.is_set():  # before `close` had a response to shut down
                return
            self._call_soon(self._opened)
            with engine_errors():
                for piece in response.raw.stream(65536, decode_content=True):
                    self._room.acquire()
                    if self._closed.is_set():
                        return
                    self._call_soon(self._pieces.put_nowait, piece)
        finally:
            response.close()

    def _opened(self) -> None:
        if not self._headers.done():
            self._headers.set_result(None)

    def _end(self, error: EngineError | None) -> None:
        if not self._headers.done():
            if error is not None:
                self._headers.set_exception(error)
            else:
                self._headers.set_result(None)
        self._pieces.put_nowait(error)

    def _call_soon(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            self._closed.set()  # the loop is closed: nobody reads any more
