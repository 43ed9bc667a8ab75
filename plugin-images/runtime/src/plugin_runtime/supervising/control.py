"""The control socket: requests in, answers and status streams out, never waiting for either."""

from __future__ import annotations

import json
import math
import os
import selectors
import time
from typing import TYPE_CHECKING, Any

from plugin_runtime.http.head import MAX_HEAD, BadHead, chunk, parse_request_head, response_head
from plugin_runtime.shared.sockets import listen

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from plugin_runtime.http.head import RequestHead

MAX_BODY = 64 * 1024  # no request of this socket has a body that means anything
ACCEPT_RETRY_SECONDS = 0.1
MAX_UNSENT = 8 * 1024 * 1024  # a watcher that lets more than this pile up is cut off


class ControlSocket:
    """The listener and its connections, served by the supervisor's selector.

    `on_request` is called with the connection, the method and the path of every complete request. It answers by
    `connection.reply`, by `watch`, or later by `answer_dumps` for a connection that it put on `awaiting_dump`.
    """

    def __init__(
        self,
        path: str,
        selector: selectors.BaseSelector,
        on_request: Callable[[ControlConnection, str, str], None],
    ) -> None:
        self.watchers: list[ControlConnection] = []
        self.awaiting_dump: list[ControlConnection] = []
        self._selector = selector
        self._on_request = on_request
        self._path = path
        self._listener = listen(path)
        self.accept_again_at = math.inf
        """When `resume_accepting` has something to do."""
        self._inode = os.stat(path).st_ino  # noqa: PTH116 - pathlib costs the supervisor a megabyte
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def is_reachable(self) -> bool:
        """Whether the socket is still where callers look for it: plugin code may have moved or replaced it."""
        try:
            return os.stat(self._path, follow_symlinks=False).st_ino == self._inode  # noqa: PTH116 - as above
        except OSError:
            return False

    def resume_accepting(self, now: float) -> None:
        """Accept callers again, some time after one could not be accepted."""
        if now >= self.accept_again_at:
            self.accept_again_at = math.inf
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def watch(self, connection: ControlConnection, document: dict[str, Any]) -> None:
        """Answer with a stream whose first line is `document`."""
        connection.begin_stream()
        connection.send_line(document)
        self.watchers.append(connection)

    def publish(self, document: dict[str, Any], watchers: Iterable[ControlConnection]) -> None:
        """One line to each of these watchers."""
        for watcher in watchers:
            self._settle(watcher, alive=watcher.send_line(document))

    def answer_dumps(self, stacks: str) -> None:
        """Answer every caller that awaits a dump."""
        waiting, self.awaiting_dump = self.awaiting_dump, []
        for connection in waiting:
            connection.reply(200, {"stacks": stacks})
            self._settle(connection, alive=connection.resume())

    def _accept(self, _events: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            # Out of file descriptors, mostly: the caller still waits, and the selector would report it again at once.
            self._selector.unregister(self._listener)
            self.accept_again_at = time.monotonic() + ACCEPT_RETRY_SECONDS
            return
        connection = ControlConnection(peer, self._on_request)
        self._selector.register(peer, selectors.EVENT_READ, lambda events: self._serve(connection, events))

    def _serve(self, connection: ControlConnection, events: int) -> None:
        if connection.peer.fileno() < 0:
            return  # closed earlier in this round of the selector
        alive = True
        if events & selectors.EVENT_READ:
            alive = connection.receive()
        if alive and events & selectors.EVENT_WRITE:
            alive = connection.flush()
        self._settle(connection, alive=alive)

    def _settle(self, connection: ControlConnection, *, alive: bool) -> None:
        """Select for what the connection waits for, or close it."""
        if alive:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.has_unsent else 0)
            key = self._selector.get_key(connection.peer)
            if key.events != events:
                self._selector.modify(connection.peer, events, key.data)
            return
        for members in (self.watchers, self.awaiting_dump):
            if connection in members:
                members.remove(connection)
        self._selector.unregister(connection.peer)
        connection.peer.close()


class ControlConnection:
    """One caller. Each request is answered by `reply` or `begin_stream`, now or later; whoever answers later calls
    `resume` afterwards. The next request is parsed once the one before is answered.
    """

    def __init__(self, peer: socket.socket, on_request: Callable[[ControlConnection, str, str], None]) -> None:
        peer.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        self.peer = peer
        self._on_request = on_request
        self._received = bytearray()
        self._unsent = bytearray()
        self._answering = False
        self._keep_alive = True
        self._streaming = False

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def receive(self) -> bool:
        """Read what has arrived, and serve it; False where the connection is over."""
        try:
            data = self.peer.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        self._received += data
        if len(self._received) > MAX_HEAD + MAX_BODY:
            return False
        return self.resume()

    def flush(self) -> bool:
        """Send what the peer accepts now; False where the connection is over."""
        try:
            while self._unsent:
                del self._unsent[: self.peer.send(self._unsent)]
        except BlockingIOError:
            return len(self._unsent) <= MAX_UNSENT
        except OSError:
            return False
        return self._keep_alive or self._answering or self._streaming

    def reply(self, status: int, document: dict[str, Any]) -> None:
        """Answer the current request."""
        body = encode(document)
        self._unsent += response_head(status, "application/json", len(body), keep_alive=self._keep_alive) + body
        self._answering = False

    def begin_stream(self) -> None:
        """Answer the current request with lines that follow."""
        self._unsent += response_head(200, "application/x-ndjson", None, keep_alive=True)
        self._streaming = True

    def send_line(self, document: dict[str, Any]) -> bool:
        """One line of a stream; False where the connection is over."""
        self._unsent += chunk(encode(document) + b"\n")
        return self.flush()

    def resume(self) -> bool:
        """Serve the requests that have arrived; False where the connection is over."""
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
        end = self._received.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            if len(self._received) >= MAX_HEAD:
                raise BadHead(f"the head is over {MAX_HEAD} bytes")
            return None
        request = parse_request_head(bytes(self._received[:end]))
        if request.length is None or request.length > MAX_BODY:
            raise BadHead("the control socket takes no body")
        if len(self._received) < end + 4 + request.length:
            return None
        del self._received[: end + 4 + request.length]
        return request


def encode(document: dict[str, Any]) -> bytes:
    """JSON without spaces and line breaks."""
    return json.dumps(document, separators=(",", ":")).encode()
