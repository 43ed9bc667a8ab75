"""One connection to a plugin: requests out, one after the other, each with its answer in.

A body of any size passes through: more is taken of it, and of an answer, only as fast as the other side takes it.
"""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, cast

from orchestrator.runtime_client.http_message import HttpAnswer

_UNSENT: Final = 256 * 1024
"""Bytes of a request that wait to be taken by the plugin before the caller is asked for no more."""
_SOCKET_ROOM: Final = 256 * 1024
"""Bytes that the kernel is asked to hold of what is sent (it holds twice that): a part is then taken in one piece."""
_UNREAD: Final = 256 * 1024
"""Bytes of an answer that are held before the plugin must wait."""
_SMALL: Final = 64 * 1024
"""Bytes of a body that are copied behind its head rather than sent beside it."""


class HttpConnection(asyncio.Protocol):
    """Any failure ends it: then `OSError` or `ValueError` says why. One exchange at a time."""

    def __init__(self) -> None:
        self.answer = HttpAnswer()
        self.used = False
        """It has carried an exchange before."""
        self._sent = False
        self._over: Exception | None = None
        self._reading = True
        self._more: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._over is None

    @property
    def is_quiet(self) -> bool:
        """Open, and nothing has come since the last answer, its end included: asks the kernel, not the loop."""
        return self._over is None and not self._signs.poll(0)

    def fileno(self) -> int:
        """Of its socket; only while it is open."""
        return self._descriptor

    async def ask(self, head: bytes, body: bytes | AsyncIterator[bytes]) -> HttpAnswer:
        """Send a request and have the head of its answer, which may come before the body is out. Sets no bound in
        time. Raises `OSError`, `ValueError`.
        """
        if self._over is not None:
            raise self._over
        self.answer = answer = HttpAnswer()
        self._sent = False
        self._sender = None
        if not isinstance(body, bytes):
            self._transport.write(head)
            self._sender = asyncio.create_task(self._send(body))
        else:
            self._sent = True
            if len(body) <= _SMALL:
                self._transport.write(head + body)
            else:
                self._transport.writelines((head, body))
        while not answer.begun:
            await self._arrival()
        return answer

    async def part(self) -> bytes:
        """Some of the answer's body, all that has come together; empty at its end. Raises `OSError`, `ValueError`."""
        answer = self.answer
        while not answer.held:
            if answer.complete:
                return b""
            await self._arrival()
        data = answer.take()
        if not self._reading and self._over is None:
            self._reading = True
            self._transport.resume_reading()
        return data

    @property
    def is_free(self) -> bool:
        """Another request may follow: the one before was sent to its end, and its answer taken to its own."""
        answer = self.answer
        return answer.complete and answer.keeps_alive and self._sent and not answer.held and self._over is None

    async def close(self) -> None:
        """Now, whatever is under way; a body is asked for no more."""
        self.abort()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait((self._sender,))

    def abort(self) -> None:
        self._fail(ConnectionAbortedError("the connection was given up"))

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_UNSENT)
        own = transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_ROOM)
        self._descriptor = int(own.fileno())
        self._signs = select.poll()
        self._signs.register(self._descriptor, select.POLLIN | select.POLLRDHUP)

    def data_received(self, data: bytes) -> None:
        if self._over is not None:
            return
        answer = self.answer
        try:
            answer.feed(data)
        except ValueError as error:
            self._fail(error)
            return
        if answer.surplus:
            self._fail(ConnectionResetError("the plugin said more than it was asked"))
        elif answer.held > _UNREAD and self._reading:
            self._reading = False
            self._transport.pause_reading()
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._over is None and error is not None:
            self._read_rest()
        self._ended(error)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # Within

    async def _send(self, body: AsyncIterator[bytes]) -> None:
        """Ends early where the plugin has said that it takes no more."""
        try:
            async for part in body:
                if self._over is not None or (self.answer.begun and not self.answer.keeps_alive):
                    return
                if part:
                    self._transport.writelines((b"%x\r\n" % len(part), part, b"\r\n"))
                if self._room is not None:
                    await self._room
                    if self._over is not None:
                        return
        except Exception as error:  # noqa: BLE001 - the caller's body may end with any; whoever waits is told
            broken = ConnectionAbortedError(f"the request's body broke off: {error}")
            broken.__cause__ = error
            self._fail(broken)
            return
        if self._over is None:
            self._transport.write(b"0\r\n\r\n")
            self._sent = True

    async def _arrival(self) -> None:
        """Wait for more of the answer."""
        if self._over is not None:
            raise self._over
        self._more = asyncio.get_running_loop().create_future()
        try:
            await self._more
        finally:
            self._more = None

    def _read_rest(self) -> None:
        """A send that fails closes the connection at once, though an answer may have come that says why nobody read."""
        with suppress(OSError, ValueError):
            while not self.answer.complete and self.answer.held <= _UNREAD:
                data = os.read(self._descriptor, _UNREAD)
                if not data:
                    return
                self.answer.feed(data)

    def _ended(self, error: Exception | None) -> None:
        """Nothing more comes from the plugin."""
        if self._over is not None:
            return
        why = error
        try:
            self.answer.end()
        except ValueError as lacks:
            why = why or ConnectionResetError(str(lacks))
        self._fail(why or ConnectionResetError("the plugin closed the connection"))

    def _fail(self, why: Exception) -> None:
        if self._over is not None:
            return
        self._over = why
        self._transport.abort()
        self.answer.close()
        for waiting in (self._more, self._room):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
