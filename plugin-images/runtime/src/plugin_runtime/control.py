"""One caller of the control socket: requests in, answers out, never waiting for either."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from plugin_runtime.http_head import MAX_HEAD, BadHead, chunk, parse_request_head, response_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from plugin_runtime.http_head import RequestHead

MAX_BODY = 64 * 1024  # no request of this socket has a body that means anything
MAX_UNREAD = 4 * 1024 * 1024  # a watcher that lets more than this pile up is cut off


class ControlConnection:
    """`on_request` is called with every request that has come in whole.

    It answers by `reply` or `begin_stream`, now or later; who answers later calls `resume` after. The next request is
    looked at only after the answer to the one before.
    """

    def __init__(self, peer: socket.socket, on_request: Callable[[ControlConnection, str, str], None]) -> None:
        peer.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        self.peer = peer
        self._on_request = on_request
        self._in = bytearray()
        self._out = bytearray()
        self._answering = False
        self._keep_alive = True
        self._streaming = False

    @property
    def wants_to_write(self) -> bool:
        """Whether something is left that the peer has not taken yet."""
        return bool(self._out)

    def receive(self) -> bool:
        """Take what has come; False where the connection is over."""
        try:
            data = self.peer.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        self._in += data
        if len(self._in) > MAX_HEAD + MAX_BODY:
            return False
        return self.resume()

    def flush(self) -> bool:
        """Send what the peer takes now; False where the connection is over."""
        try:
            while self._out:
                del self._out[: self.peer.send(self._out)]
        except BlockingIOError:
            return len(self._out) <= MAX_UNREAD
        except OSError:
            return False
        return self._keep_alive or self._answering or self._streaming

    def reply(self, status: int, document: dict[str, Any]) -> None:
        """Answer the request at hand."""
        body = encode(document)
        self._out += response_head(status, "application/json", len(body), keep_alive=self._keep_alive) + body
        self._answering = False

    def begin_stream(self) -> None:
        """Answer the request at hand with lines that follow."""
        self._out += response_head(200, "application/x-ndjson", None, keep_alive=True)
        self._streaming = True

    def send_line(self, document: dict[str, Any]) -> bool:
        """One line of a stream; False where the connection is over."""
        self._out += chunk(encode(document) + b"\n")
        return self.flush()

    def resume(self) -> bool:
        """Look at the requests that have come; False where the connection is over."""
        while not self._answering and not self._streaming and self._keep_alive:
            try:
                request = self._next_request()
            except BadHead as error:
                self._keep_alive = False
                self.reply(400, {"error": str(error)})
                break
            if request is None:
                break
            self._answering = True
            self._keep_alive = request.keep_alive
            self._on_request(self, request.method, request.path)
        return self.flush()

    def _next_request(self) -> RequestHead | None:
        end = self._in.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            if len(self._in) >= MAX_HEAD:
                raise BadHead(f"the head is over {MAX_HEAD} bytes")
            return None
        request = parse_request_head(bytes(self._in[:end]))
        if request.length is None or request.length > MAX_BODY:
            raise BadHead("the control socket takes no body")
        if len(self._in) < end + 4 + request.length:
            return None
        del self._in[: end + 4 + request.length]
        return request


def encode(document: dict[str, Any]) -> bytes:
    """JSON without spaces and line breaks."""
    return json.dumps(document, separators=(",", ":")).encode()
