"""BoundedProtocol: HTTP/1.1 with a bound on everything that a caller can make the server hold."""

# uvicorn's own protocol (0.54) has no bounds: it would hold an unbounded head, a silent connection, or one that never
# reads its response, for ever. And it costs each request what a connection need have but once: a timer, two packets.

import asyncio
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade
from starlette.applications import Starlette
from starlette.types import Message
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from orchestrator.api.body import WHOLE_BODY
from orchestrator.api.problems import SendsWhole, problem
from orchestrator.runtime_client.http_message import split_target

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
_OF_PROXIES: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
_COPIED_BYTES: Final = 64 * 1024  # of a body, up to which it is copied behind its head rather than sent beside it


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
    _idle_until = math.inf
    """When it is closed, by the loop's time, if no data comes until then."""
    _head_came_now = False
    """Its head was complete in the data that is being parsed: nobody has read any of its body."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Only requests that came through a proxy need to pass what reads its headers.
        self._proxied_app = self.app
        if isinstance(self.app, ProxyHeadersMiddleware):
            self.app = self.app.app
        # The framework's own entry adds to a request nothing but `app`, which is added here.
        self._application: Starlette | None = None
        if isinstance(self.app, Starlette) and self.app.middleware_stack is not None:
            self._application, self.app = self.app, self.app.middleware_stack

    @classmethod
    def limited_to(cls, max_connections: int) -> type["BoundedProtocol"]:
        # A class, since uvicorn makes the protocol of each connection itself.
        return type(cls.__name__, (cls,), {"max_connections": max_connections})

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive = KEEP_ALIVE_SECONDS
        self._start_head_timer()
        if len(self.connections) > self.max_connections:
            # One that is being closed is among them until the event loop's next round.
            open_ones = (peer for peer in self.connections if isinstance(peer, BoundedProtocol) and peer is not self)
            idle = (peer for peer in open_ones if peer.idle and not peer.transport.is_closing())
            next(idle, self).transport.abort()

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._stall_timer, self._linger_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._linger_timer is not None:
            return
        self._unparsed += len(data)
        self._head_came_now = False
        self._idle_until = math.inf
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
        except HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        if self.transport.is_closing() or self._linger_timer is not None:
            return
        if self._unparsed > MAX_HEAD_BYTES:
            self._refused = _RefusedError(431, f"The request head is larger than {MAX_HEAD_BYTES} bytes.")
            self.send_400_response("")
        elif self.idle:
            self._start_head_timer()

    def close_after_answer(self) -> None:
        """Close; while the request still arrives, once the client has closed. What it sends until then is dropped: a
        connection that is closed with bytes unread is reset, and the answer lost to a client that is not that far.
        """
        if not self._request_arrives or self.transport.is_closing():
            self.transport.close()
        elif self._linger_timer is None:
            unsent = self.transport.get_write_buffer_size()
            self._linger_timer = self.loop.call_later(LINGER_SECONDS, self._end_linger, unsent)
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()

    def _end_linger(self, unsent_before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent < unsent_before:  # a long answer is still being read
            self._linger_timer = self.loop.call_later(LINGER_SECONDS, self._end_linger, unsent)
        else:
            self.transport.abort()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._head_timer = None
        if self.idle:
            self.transport.close()

    def _unset_keepalive_if_required(self) -> None:
        self._idle_until = math.inf

    def timeout_keep_alive_handler(self) -> None:
        # One timer for all requests of the connection, since to set one for each takes longer than to parse it.
        self.timeout_keep_alive_task = None
        if self.loop.time() >= self._idle_until:
            super().timeout_keep_alive_handler()
        elif self._idle_until < math.inf:
            self.timeout_keep_alive_task = self.loop.call_at(self._idle_until, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._linger_timer is not None:
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_until = self.loop.time() + self.timeout_keep_alive
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_at(self._idle_until, self.timeout_keep_alive_handler)

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._head_bytes = 0
        self._request_arrives = True

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > MAX_TARGET_BYTES:
            self._refuse(414, f"The request target is longer than {MAX_TARGET_BYTES} bytes.")
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        self.headers.append((name.lower(), value))
        if len(self.headers) > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"The request has more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes of them.")

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
        self._head_came_now = True
        names = dict(self.headers)
        self.expect_100_continue = names.get(b"expect", b"").lower() == b"100-continue"
        app = self.app if _OF_PROXIES.isdisjoint(names) else self._proxied_app
        earlier, self.cycle = self.cycle, self._exchange()
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(self.cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))

    def _exchange(self) -> "HttpExchange":
        """Of the request whose head has been parsed."""
        version = self.parser.get_http_version()
        raw_path, query = split_target(self.url)
        path = raw_path.decode("ascii")
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": query,
            "root_path": self.root_path,
            "headers": self.headers,
            "server": self.server,
            "client": self.client,
            "state": self.app_state.copy(),
        }
        if self._application is not None:
            scope["app"] = self._application
        return HttpExchange(self, scope, keep_alive=version != "1.0" and self.parser.should_keep_alive())

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
        exchange = self.cycle
        if self._head_came_now and isinstance(exchange.body, bytes) and not self.flow.read_paused:
            exchange.scope["extensions"] = {WHOLE_BODY: exchange.body}
        if not exchange.response_complete:
            exchange.more_body = False
            exchange.message_event.set()

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
        self.close_after_answer()

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


class HttpExchange(RequestResponseCycle, SendsWhole):
    """One request and its response. The head of a response that says how long its body is waits for the body's start:
    both are one packet then.
    """

    # What the base class sets for each.
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    _held = b""

    def __init__(self, connection: BoundedProtocol, scope: Any, *, keep_alive: bool) -> None:
        self.scope = scope
        self.transport = connection.transport
        self.flow = connection.flow
        self.logger = connection.logger
        self.default_headers = connection.server_state.default_headers
        self.message_event = asyncio.Event()
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = connection.expect_100_continue
        self.body = bytearray()
        self._connection = connection

    def send_whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes | memoryview) -> bool:
        if self.flow.write_paused or self.disconnected or self.response_started or self.scope["method"] == "HEAD":
            return False
        if (b"connection", b"close") in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        fields = [b"%b: %b\r\n" % field for field in (*self.default_headers, *headers)]
        head = b"".join((STATUS_LINE[status], *fields, b"\r\n"))
        if head.count(b"\n") != len(fields) + 2:
            raise RuntimeError("a line break in a header")
        self.response_started = True
        self.waiting_for_100_continue = False
        self._send_packet(head, body)
        self._complete()
        return True

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """Raises `RuntimeError` for a response that is none of HTTP, or messages in another order than ASGI's."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"no {kind!r} may be sent now")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        head = [STATUS_LINE[status]]
        closes = False
        for given, value in (*self.default_headers, *headers):
            name = _field_name(given)
            if HEADER_VALUE_RE.search(value):
                raise RuntimeError(f"an invalid value of the header {name!r}")
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length, self.chunked_encoding = int(value), False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length, self.chunked_encoding = 0, True
            elif name == b"connection":
                closes = b"close" in [token.lower().strip() for token in value.split(b",")]
            head += (name, b": ", value, b"\r\n")
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            head.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n")
        if self.chunked_encoding:
            self.transport.write(b"".join(head))
        else:
            self._held = b"".join(head)

    def _write(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length, body = 0, b""
        elif self.chunked_encoding:
            body = b"".join((b"%x\r\n" % len(body), body, b"\r\n") if body else ()) + (b"" if more else b"0\r\n\r\n")
        elif len(body) > self.expected_content_length:
            raise RuntimeError("the body is longer than its Content-Length")
        else:
            self.expected_content_length -= len(body)
        held, self._held = self._held, b""
        self._send_packet(held, body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("the body is shorter than its Content-Length")
        self._complete()

    def _send_packet(self, head: bytes, body: bytes | memoryview) -> None:
        if head and len(body) > _COPIED_BYTES:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head + body)

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self._connection.close_after_answer()
        self._connection.on_response_complete()


@lru_cache(maxsize=512)
def _field_name(name: bytes) -> bytes:
    """In lower case. Raises `RuntimeError` for what is none."""
    if HEADER_RE.search(name):
        raise RuntimeError(f"an invalid header name {name!r}")
    return name.lower()
