"""The connections to one socket of a container: opened when there is need, kept for a while, used again."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from orchestrator.runtime_client.http_connection import HttpConnection

_KEPT: Final = 15.0
"""Seconds that a connection without use stays open: in the container each has a thread."""


class Connector(Protocol):
    """Opens connections to one socket."""

    async def connect(self) -> HttpConnection:
        """Raises `OSError`."""

    async def hang_up(self, connection: HttpConnection) -> None:
        """Take no more from the plugin, and return when it has closed its side."""


class Connections:
    """`patience`: seconds to open one, None for no bound."""

    def __init__(self, connector: Connector, *, patience: float | None) -> None:
        self.connector = connector
        self._patience = patience
        self._idle: deque[tuple[float, HttpConnection]] = deque()
        """With the loop's time at which it is closed, the next one first."""
        self._open: set[HttpConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @asynccontextmanager
    async def exchange(self, head: bytes, *, idempotent: bool = False) -> AsyncIterator[HttpConnection]:
        """As `ask`; given back in the end."""
        connection = await self.ask(head, idempotent=idempotent)
        try:
            yield connection
        finally:
            await self.give_back(connection)

    async def ask(
        self, head: bytes, body: bytes | AsyncIterator[bytes] = b"", *, idempotent: bool = False
    ) -> HttpConnection:
        """Send a request and have the head of its answer. Raises `OSError`, `ValueError` where none comes.

        Where a connection that was kept breaks before any answer, only an `idempotent` request is sent once more: a
        tool may have begun.
        """
        connection = self._kept() or await self._connect()
        try:
            await connection.ask(head, body)
        except BaseException as error:
            await self.give_back(connection)
            once_more = idempotent and connection.used and not connection.answer.touched
            if not (once_more and isinstance(error, OSError)):
                raise
        else:
            return connection
        connection = await self._connect()
        try:
            await connection.ask(head, body)
        except BaseException:
            await self.give_back(connection)
            raise
        return connection

    async def give_back(self, connection: HttpConnection) -> None:
        """An answer that was not taken to its end closes the connection, which tells a generator to stop."""
        if not connection.is_free or self._closed:
            self._open.discard(connection)
            await connection.close()
            return
        connection.used = True
        loop = asyncio.get_running_loop()
        self._idle.append((loop.time() + _KEPT, connection))
        if self._sweep is None:
            self._sweep = loop.call_later(_KEPT, self._close_unused)

    async def close(self) -> None:
        """Also those in use."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self._open:
            connection.abort()
        self._open.clear()
        self._idle.clear()
        await asyncio.sleep(0)  # their sockets are closed at the loop's next turn

    def _kept(self) -> HttpConnection | None:
        while self._idle:
            _, connection = self._idle.pop()
            if connection.is_quiet:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> HttpConnection:
        if self._closed:
            raise ConnectionAbortedError("the channel is closed")
        async with asyncio.timeout(self._patience):
            connection = await self.connector.connect()
        if self._closed:  # meanwhile
            connection.abort()
            raise ConnectionAbortedError("the channel is closed")
        self._open.add(connection)
        return connection

    def _close_unused(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0][0] <= loop.time():
            self._drop(self._idle.popleft()[1])
        self._sweep = loop.call_at(self._idle[0][0], self._close_unused) if self._idle else None

    def _drop(self, connection: HttpConnection) -> None:
        connection.abort()
        self._open.discard(connection)
