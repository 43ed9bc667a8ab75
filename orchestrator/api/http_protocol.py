"""HTTP/1.1 as the server reads and writes it, with a bound on whatever a caller can make it hold.

uvicorn's reader has none of its own: a head without end, a connection that says nothing, or one that never reads its
answer would be held for ever.
"""

import asyncio
from typing import ClassVar, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from orchestrator.api.problems import problem

MOST_HEADERS: Final = 100
LARGEST_HEAD: Final = 64 * 1024
"""Bytes of request line and headers together, and of the trailers of a chunked body."""
MOST_PIPELINED: Final = 16
LONGEST_TARGET: Final = 16 * 1024
HEAD_SECONDS: Final = 10.0
"""From the first word of a request, or from the connection, to the end of its head."""
STALLED_SECONDS: Final = 60.0
"""In which a reader that is waited for must take something of its answer."""


class _RefusedError(Exception):
    """Becomes the answer; the parser would hide it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `most`: connections at once; beyond them one that waits for a request makes room."""

    most: ClassVar[int] = 1024

    _refused: _RefusedError | None = None
    _unseen = 0
    """Bytes since the parser last had something to tell: of a head or trailer that is not whole."""
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    @classmethod
    def limited_to(cls, most: int) -> type["BoundedProtocol"]:
        return type(cls.__name__, (cls,), {"most": most})

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        if len(self.connections) > self.most:
            waiting = (peer for peer in self.connections if isinstance(peer, BoundedProtocol) and peer.waits)
            next((peer for peer in waiting if peer is not self), self).transport.abort()

    @property
    def waits(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unseen += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unseen > LARGEST_HEAD:
            self._refused = _RefusedError(431, f"The head of the request is over {LARGEST_HEAD} bytes.")
            self.send_400_response("")
        elif self.waits:
            self._expect_head()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up_head)

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self.waits:
            self.transport.close()

    # What the parser tells

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > LONGEST_TARGET:
            self._refuse(414, f"The address is over {LONGEST_TARGET} bytes.")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if len(self.headers) >= MOST_HEADERS or self._head_bytes > LARGEST_HEAD:
            self._refuse(431, f"The request has over {MOST_HEADERS} headers, or over {LARGEST_HEAD} bytes of them.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unseen = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self.parser.should_upgrade() and self._has_body():
            self._refuse(400, "This server speaks HTTP/1.1 only: send a request with a body without `Upgrade`.")
        if len(self.pipeline) >= MOST_PIPELINED:
            self._refuse(400, f"Over {MOST_PIPELINED} requests were sent ahead of their turn on one connection.")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unseen = 0
        cycle = self.cycle
        if cycle.body or cycle.response_complete:
            super().on_body(body)
            return
        cycle.body = body  # type: ignore[assignment]  # theirs copies it into a buffer, and out of it again
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._unseen = 0
        super().on_message_complete()

    def _has_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    def _unsupported_upgrade_warning(self) -> None:
        """Answered as if no upgrade had been asked for. The parser takes nothing more from this connection."""
        self.cycle.keep_alive = False

    def _refuse(self, status: int, sentence: str) -> None:
        self._refused = _RefusedError(status, sentence)
        raise self._refused

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - theirs says less
        """What cannot be read is answered in the envelope, as everything is, and the connection closed."""
        refused = self._refused or _RefusedError(400, "This is no HTTP/1.1 request.")
        answer = problem(refused.status, str(refused), error_type="InvalidRequest")
        answer.headers["connection"] = "close"
        headers = (b"%b: %b\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"".join((STATUS_LINE[refused.status], *headers, b"\r\n", answer.body)))
        self.transport.close()

    # A reader that is slow

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        super().resume_writing()

    def _watch_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(STALLED_SECONDS, self._check_reader, left)

    def _check_reader(self, left_before: int) -> None:
        if self.transport.get_write_buffer_size() >= left_before:
            self.transport.abort()
        else:
            self._watch_reader()
