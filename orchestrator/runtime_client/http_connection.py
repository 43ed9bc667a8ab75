"""One connection to a plugin: requests one after the other, each with its response.

Bodies of any size pass through in either direction, no faster than the receiver takes them.
"""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, cast

from orchestrator.runtime_client.http_message import HttpResponse

_WRITE_BUFFER: Final = 256 * 1024  # unsent bytes of a request from which on its body is read no further
# Bytes for `SO_SNDBUF` (the kernel doubles it), so that a chunk is sent in one piece.
_SOCKET_BUFFER: Final = 256 * 1024
_READ_BUFFER: Final = 256 * 1024  # unread bytes of a response from which on the plugin must wait
_SMALL_BODY: Final = 64 * 1024  # bytes up to which a body is copied behind its head rather than sent beside it


class HttpConnection(asyncio.Protocol):
    """Any failure ends it: then `OSError` or `ValueError` says why. One exchange at a time."""

    def __init__(self) -> None:
        self.response = HttpResponse()
        self.reused = False
        """Whether it has carried an exchange before."""
        self._sent = False
        self._failure: Exception | None = None
        self._reading = True
        self._data_arrived: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._failure is None

    @property
    def is_quiet(self) -> bool:
        """Whether it is open and nothing, not even its end, has come since the last response."""
        return self._failure is None and not self._poll.poll(0)  # the kernel knows before the loop does

    def fileno(self) -> int:
        """Of its socket; only while it is open."""
        return self._descriptor

    async def request(self, head: bytes, body: bytes | AsyncIterator[bytes], *, chunked: bool = True) -> HttpResponse:
        """Send a request and wait for the head of its response, which may come before the body is sent. Sets no time
        limit. `chunked`: a body that is iterated over is sent in chunks, else as it is, as long as the head says.
        Raises `OSError`, `ValueError`.
        """
        if self._failure is not None:
            raise self._failure
        self.response = response = HttpResponse()
        self._sent = False
        self._sender = None
        if not isinstance(body, bytes):
            self._transport.write(head)
            # Beside the wait: the answer may come before the body has been sent.
            self._sender = asyncio.create_task(self._send(body, chunked=chunked))
        else:
            self._sent = True
            if len(body) <= _SMALL_BODY:
                self._transport.write(head + body)
            else:
                self._transport.writelines((head, body))
        while not response.head_complete:
            await self._more_data()
        return response

    async def read_chunk(self) -> bytes:
        """All of the response's body that has come and is unread; empty at its end. Raises `OSError`, `ValueError`."""
        response = self.response
        while not response.buffered:
            if response.complete:
                return b""
            await self._more_data()
        return self._take()

    def whole_body(self) -> bytes | None:
        """The response's body, where all of it has come and none was read; else None."""
        response = self.response
        return self._take() if response.complete and response.taken == 0 else None

    def _take(self) -> bytes:
        data = self.response.take()
        if not self._reading and self._failure is None:
            self._reading = True
            self._transport.resume_reading()
        return data

    @property
    def is_reusable(self) -> bool:
        """Whether request and response are over, each to its end."""
        response = self.response
        return (
            response.complete
            and response.keeps_alive
            and self._sent
            and not response.buffered
            and self._failure is None
        )

    async def close(self) -> None:
        """Close at once; a body that is being sent is read no further."""
        self.abort()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait((self._sender,))

    def abort(self) -> None:
        self._fail(ConnectionAbortedError("the connection was aborted"))

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        self._descriptor = int(sock.fileno())
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN | select.POLLRDHUP)

    def data_received(self, data: bytes) -> None:
        if self._failure is not None:
            return
        response = self.response
        try:
            response.feed(data)
        except ValueError as error:
            self._fail(error)
            return
        if response.surplus:
            self._fail(ConnectionResetError("the plugin sent more than one answer to one request"))
        elif response.buffered > _READ_BUFFER and self._reading:
            self._reading = False
            self._transport.pause_reading()
        arrived, self._data_arrived = self._data_arrived, None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)

    def eof_received(self) -> None:
        # asyncio closes the transport after this: a half-closed connection is of no use.
        self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._failure is None and error is not None:
            self._read_rest()
        self._end(error)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # Within

    async def _send(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        try:
            async for chunk in body:
                # The plugin has answered and will close the connection: it takes no more.
                if self._failure is not None or (self.response.head_complete and not self.response.keeps_alive):
                    return
                if chunk and chunked:
                    self._transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
                elif chunk:
                    self._transport.write(chunk)
                if self._writable is not None:
                    await self._writable
                    if self._failure is not None:
                        return
        except Exception as error:  # noqa: BLE001 - the caller's body may end with any; it is raised from `request`
            broken = ConnectionAbortedError(f"the request's body broke off: {error}")
            broken.__cause__ = error
            self._fail(broken)
            return
        if self._failure is None:
            if chunked:
                self._transport.write(b"0\r\n\r\n")
            self._sent = True

    def _more_data(self) -> asyncio.Future[None]:
        """Done when data has come, or the connection has failed. Raises why it failed, where it has."""
        if self._failure is not None:
            raise self._failure
        self._data_arrived = arrived = self._loop.create_future()
        return arrived

    def _read_rest(self) -> None:
        # A send that fails closes the connection at once, though a response may have come that says why nobody read.
        if self._transport.get_extra_info("ssl_object") is not None:  # what the socket has is encrypted
            return
        with suppress(OSError, ValueError):
            while not self.response.complete and self.response.buffered <= _READ_BUFFER:
                data = os.read(self._descriptor, _READ_BUFFER)
                if not data:
                    return
                self.response.feed(data)

    def _end(self, error: Exception | None) -> None:
        """The plugin sends nothing more."""
        if self._failure is not None:
            return
        why = error
        try:
            self.response.end()
        except ValueError as incomplete:
            why = why or ConnectionResetError(str(incomplete))
        self._fail(why or ConnectionResetError("the plugin closed the connection"))

    def _fail(self, why: Exception) -> None:
        if self._failure is not None:
            return
        self._failure = why
        self._transport.abort()
        self.response.close()
        # Woken by no exception, which nobody might retrieve: both look at `_failure` next.
        for waiting in (self._data_arrived, self._writable):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
