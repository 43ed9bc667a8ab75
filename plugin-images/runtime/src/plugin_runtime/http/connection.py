"""The server's side of one HTTP connection of the tool socket: heads and bodies in, answers out."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import TYPE_CHECKING

from plugin_runtime.http.head import CONTINUE, MAX_HEAD, BadHead, RequestHead, parse_request_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECEIVE_BYTES = 256 * 1024
MAX_CHUNK_LINE = 1024
LINGER_SECONDS = 2.0
HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")


class Disconnected(Exception):  # noqa: N818 - the caller's right
    """The caller hung up."""


class HttpServerConnection:
    """Blocking: each connection has its thread. Any method raises Disconnected once the caller has hung up."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._buffer = b""
        self._head: RequestHead | None = None
        self._head_bytes = 0
        self.has_unread_body = False
        self.called = False
        """The last request called a tool."""
        self.on_answer_taken: Callable[[], None] | None = None
        """To be called once the caller needs nothing more of the last answer."""

    def fileno(self) -> int:
        """Of the socket."""
        return self._peer.fileno()

    @property
    def has_unread_bytes(self) -> bool:
        """Of a request that came together with the one before."""
        return bool(self._buffer)

    def is_closed(self) -> bool:
        """Whether the caller has closed the connection; without waiting."""
        poll = select.poll()
        poll.register(self._peer, 0)
        return bool(poll.poll(0))

    def receive_call(self) -> bool:
        """Receive what has come, without waiting; whether a whole call of a tool is there, for `read_head`."""
        try:
            data = self._peer.recv(65536, socket.MSG_DONTWAIT)
        except OSError:
            return False  # who reads on will see
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            return False
        try:
            head = parse_request_head(self._buffer[:end])
        except BadHead:
            return False
        if head.length is None or len(self._buffer) < end + 4 + head.length or not head.path.startswith("/tools/"):
            return False
        self._head, self._head_bytes = head, end + 4
        return True

    def read_head(self) -> RequestHead | None:
        """The next request, or None where the caller hung up between two. Raises BadHead."""
        head, self._head = self._head, None
        if head is not None:
            self._buffer = self._buffer[self._head_bytes :]
            self.has_unread_body = head.length != 0
            return head
        while (end := self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)) < 0:
            if len(self._buffer) >= MAX_HEAD:
                raise BadHead(f"the head is over {MAX_HEAD} bytes")
            data = self._receive(65536)
            if not data:
                return None
            self._buffer += data
        head = parse_request_head(self._buffer[:end])
        self._buffer = self._buffer[end + 4 :]
        self.has_unread_body = head.length != 0
        return head

    def read_body(self, head: RequestHead) -> Iterator[bytes]:
        """The body of the request whose head was just read, piece by piece. Raises BadHead for malformed chunks."""
        if head.length == 0:
            return
        if head.expects_continue and not self._buffer:
            self.send(CONTINUE)
        if head.length is None:
            yield from self._read_chunks()
        else:
            yield from self._read(head.length)
        self.has_unread_body = False

    def answer_taken(self) -> None:
        """The caller has sent its next request, or hung up."""
        if self.on_answer_taken is not None:
            done, self.on_answer_taken = self.on_answer_taken, None
            done()

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._peer.sendall(data)
        except OSError as error:
            raise Disconnected from error

    def close(self) -> None:
        """Close at once: what the caller has not read may be lost."""
        self._peer.close()

    def close_lingering(self) -> None:
        """Close once the caller has read the answer, or after LINGER_SECONDS."""
        # An unread byte of the body would turn the answer into a connection reset, on a Unix socket too.
        deadline = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError), self._peer:
            self._peer.shutdown(socket.SHUT_WR)
            self._peer.settimeout(LINGER_SECONDS)
            while self._peer.recv(RECEIVE_BYTES) and time.monotonic() < deadline:
                pass

    def _read(self, length: int) -> Iterator[bytes]:
        while length:
            data = self._buffer or self._receive(min(RECEIVE_BYTES, length))
            if not data:
                raise Disconnected
            self._buffer = data[length:]
            data = data[:length]
            length -= len(data)
            yield data

    def _read_chunks(self) -> Iterator[bytes]:
        while length := self._read_chunk_length():
            yield from self._read(length)
            if self._read_line():
                raise BadHead("a chunk of the body is longer than it says")
        while self._read_line():
            pass  # trailers mean nothing here

    def _read_chunk_length(self) -> int:
        digits = self._read_line().partition(b";")[0].strip()
        if not digits or len(digits) > 15 or not HEX_DIGITS.issuperset(digits):
            raise BadHead(f"{digits[:20]!r} is no chunk length")
        return int(digits, 16)

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_CHUNK_LINE:
                raise BadHead("a line of the chunked body is too long")
            data = self._receive(65536)
            if not data:
                raise Disconnected
            self._buffer += data
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _receive(self, size: int) -> bytes:
        try:
            return self._peer.recv(size)
        except OSError as error:
            raise Disconnected from error
