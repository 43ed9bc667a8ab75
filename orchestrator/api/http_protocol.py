"""BoundedProtocol: HTTP/1.1 with a bound on everything that a caller can make the server hold."""

# uvicorn's own protocol (0.54) has no bounds: it would hold an unbounded head, a silent connection, or one that never
# reads its response, for ever.

import asyncio
from collections.abc import Callable
from typing import ClassVar, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from orchestrator.api.problems import problem

MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers together; also the trailers of a chunked body."""
MAX_PIPELINED: Final = 16
"""Requests sent ahead on one connection."""
MAX_TARGET_BYTES: Final = 16 * 1024
HEAD_SECONDS: Final = 10.0
"""From the first byte of a request, or from the connection, to the end of its head."""
KEEP_ALIVE_SECONDS: Final = 75
"""Time that an idle connection stays open: longer than callers and proxies keep theirs (httpx 5 s, nginx 60 s), since
who closes first never sends a request into a connection that is being closed. uvicorn's own, 5 s, is httpx's."""
STALLED_SECONDS: Final = 60.0
"""Time within which a slow reader must take some of its response."""
LINGER_SECONDS: Final = 30.0
"""Time that the rest of a request may take which was answered, with a close, before it had arrived (nginx has the
same)."""


class _RefusedError(Exception):
    # Stored for `send_400_response`: the parser replaces what its callbacks raise.

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Beyond `max_connections` at once, an idle one is closed for the new one."""

    max_connections: ClassVar[int] = 1024

    _refused: _RefusedError | None = None
    _unparsed = 0
    """Bytes since the parser's last callback: of an incomplete head or trailer."""
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None
    _request_arrives = False
    """A request has begun, and not all of it has arrived."""

    @classmethod
    def limited_to(cls, max_connections: int) -> type["BoundedProtocol"]:
        # A class, since uvicorn makes the protocol of each connection itself.
        return type(cls.__name__, (cls,), {"max_connections": max_connections})

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive = KEEP_ALIVE_SECONDS
        self._answering = _AnsweringTransport(transport, self._close_after_answer)
        self._start_head_timer()
        if len(self.connections) > self.max_connections:
            idle = (peer for peer in self.connections if isinstance(peer, BoundedProtocol) and peer.idle)
            next((peer for peer in idle if peer is not self), self).transport.abort()

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._stall_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._linger_timer is not None:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self._linger_timer is not None:
            return
        if self._unparsed > MAX_HEAD_BYTES:
            self._refused = _RefusedError(431, f"The request head is larger than {MAX_HEAD_BYTES} bytes.")
            self.send_400_response("")
        elif self.idle:
            self._start_head_timer()

    def on_response_complete(self) -> None:
        if self._linger_timer is None:
            super().on_response_complete()

    def _close_after_answer(self) -> None:
        """Close; while the request still arrives, once the client has closed. What it sends until then is dropped: a
        connection that is closed with bytes unread is reset, and the answer lost to a client that is not that far.
        """
        if not self._request_arrives or self.transport.is_closing():
            self.transport.close()
        elif self._linger_timer is None:
            self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._head_timer = None
        if self.idle:
            self.transport.close()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._request_arrives = True

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > MAX_TARGET_BYTES:
            self._refuse(414, f"The request target is longer than {MAX_TARGET_BYTES} bytes.")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if len(self.headers) >= MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"The request has more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes of them.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        # At an upgrade the parser stops reading: the body would never arrive.
        if self.parser.should_upgrade() and self._has_body():
            self._refuse(400, "This server speaks HTTP/1.1 only. Send requests with a body without `Upgrade`.")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(400, f"More than {MAX_PIPELINED} requests were pipelined on one connection.")
        super().on_headers_complete()
        self.cycle.transport = self._answering  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        cycle = self.cycle
        if cycle.body or cycle.response_complete:
            super().on_body(body)
            return
        cycle.body = body  # type: ignore[assignment]  # uvicorn would copy it into a buffer and out again
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._request_arrives = False
        super().on_message_complete()

    def _has_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    def _unsupported_upgrade_warning(self) -> None:
        # Answered as if there were no `Upgrade`; but the parser reads nothing more from this connection.
        self.cycle.keep_alive = False

    def _refuse(self, status: int, sentence: str) -> None:
        self._refused = _RefusedError(status, sentence)
        raise self._refused

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's says less
        """Answer an unreadable request in the envelope, and close the connection."""
        refused = self._refused or _RefusedError(400, "Not a valid HTTP/1.1 request.")
        answer = problem(refused.status, str(refused), error_type="InvalidRequest")
        answer.headers["connection"] = "close"
        headers = (b"%b: %b\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"".join((STATUS_LINE[refused.status], *headers, b"\r\n", answer.body)))
        # Where an earlier request is being answered its answer ends here: nothing may follow this one.
        self._request_arrives = self.idle
        self._close_after_answer()

    # Slow readers

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        super().resume_writing()

    def _watch_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(STALLED_SECONDS, self._check_reader, unsent)

    def _check_reader(self, unsent_before: int) -> None:
        if self.transport.get_write_buffer_size() >= unsent_before:
            self.transport.abort()
        else:
            self._watch_reader()


class _AnsweringTransport:
    """What uvicorn's answer has for its transport: another `close`."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close
