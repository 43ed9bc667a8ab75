"""The connections to one socket of a container: opened on demand, idle for a while, used again."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final, Protocol

from orchestrator.runtime_client.http_connection import HttpConnection

_IDLE_SECONDS: Final = 15.0  # time after which an idle connection is closed: in the container each has a thread


class Connector(Protocol):
    """Opens connections to one socket."""

    async def connect(self) -> HttpConnection:
        """Raises `OSError`."""

    async def hang_up(self, connection: HttpConnection) -> None:
        """Stop receiving, and return when the plugin has closed its side."""


class ConnectionPool:
    """`connect_timeout`: seconds to open a connection, None for no bound."""

    def __init__(self, connector: Connector, *, connect_timeout: float | None) -> None:
        self.connector = connector
        self._connect_timeout = connect_timeout
        # With the time at which it is closed, by the monotonic clock; the next one first.
        self._idle: deque[tuple[float, HttpConnection]] = deque()
        self._open: set[HttpConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @asynccontextmanager
    async def exchange(self, head: bytes, *, idempotent: bool = False) -> AsyncIterator[HttpConnection]:
        """`request` without a body; releases the connection in the end."""
        connection = await self.request(head, idempotent=idempotent)
        try:
            yield connection
        finally:
            await self.release(connection)

    async def request(
        self, head: bytes, body: bytes | AsyncIterator[bytes] = b"", *, idempotent: bool = False
    ) -> HttpConnection:
        """Send a request and wait for the head of its response. Raises `OSError`, `ValueError` where none comes.

        An `idempotent` request is sent once more where a reused connection breaks before any response.
        """
        connection = await self.acquire()
        try:
            await connection.request(head, body)
        except BaseException as error:
            await self.release(connection)
            # Others never are: the tool may have started.
            retry = idempotent and connection.reused and not connection.response.received_any
            if not (retry and isinstance(error, OSError)):
                raise
        else:
            return connection
        connection = await self._connect()
        try:
            await connection.request(head, body)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def acquire(self) -> HttpConnection:
        """An idle connection, or a new one; the caller releases it. Raises `OSError`: nothing was sent."""
        return self._take_idle() or await self._connect()

    async def release(self, connection: HttpConnection) -> None:
        """Make the connection idle, or close it where its response was not read to the end: that stops a generator."""
        if not connection.is_reusable or self._closed:
            self._open.discard(connection)
            await connection.close()
            return
        connection.reused = True
        self._idle.append((monotonic() + _IDLE_SECONDS, connection))
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._close_idle)

    async def close(self) -> None:
        """Close all connections, also those in use."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self._open:
            connection.abort()
        self._open.clear()
        self._idle.clear()
        await asyncio.sleep(0)  # their sockets are closed in the loop's next iteration

    def _take_idle(self) -> HttpConnection | None:
        while self._idle:
            # The one used last, so that those in excess stay idle and are closed.
            _, connection = self._idle.pop()
            if connection.is_quiet:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> HttpConnection:
        if self._closed:
            raise ConnectionAbortedError("the channel is closed")
        async with asyncio.timeout(self._connect_timeout):
            connection = await self.connector.connect()
        if self._closed:  # meanwhile
            connection.abort()
            raise ConnectionAbortedError("the channel is closed")
        self._open.add(connection)
        return connection

    def _close_idle(self) -> None:
        now = monotonic()
        while self._idle and self._idle[0][0] <= now:
            self._drop(self._idle.popleft()[1])
        self._sweep = None
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(self._idle[0][0] - now, self._close_idle)

    def _drop(self, connection: HttpConnection) -> None:
        connection.abort()
        self._open.discard(connection)
