"""A server that receives webhooks, verifies their signatures by itself, and can fail in every way.

with WebhookReceiver(secret) as receiver:
    receiver.answers[None] = [503, 429]    # what the next attempts are answered with; then 204
    ... receiver.url ...
    receiver.wait_for(3)                   # messages that were answered with success
"""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from support.waiting import PATIENCE

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
TOLERANCE = 300
"""Seconds that a message's time may differ from this clock."""


@dataclass(frozen=True)
class Attempt:
    """A request as it came. `answered`: the status."""

    at: float
    path: str
    message_id: str
    content: dict[str, Any]
    headers: dict[str, str]
    answered: int

    @property
    def plugin(self) -> str:
        return self.content["data"].get("plugin", "")


Answer = int | tuple[int, dict[str, str]] | Callable[[], int]
"""A status, with headers, or what is called for a status and may take its time."""


class WebhookReceiver:
    """Its answers are listed by plugin, or under None for all."""

    def __init__(self, secret: str = SECRET, *, port: int = 0) -> None:
        self.key = base64.b64decode(secret.removeprefix("whsec_"))
        self.attempts: list[Attempt] = []
        self.forged: list[str] = []
        """What was wrong with messages that do not verify."""
        self.answers: dict[str | None, list[Answer]] = {}
        self.always: dict[str | None, Answer] = {}
        self.connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in tuple(self.connections):  # else their threads would serve them on
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def accepted(self) -> list[Attempt]:
        """Answered with success, in their order; a message may be among them more than once."""
        with self._changed:
            return [each for each in self.attempts if 200 <= each.answered < 300]

    def messages(self, plugin: str | None = None) -> list[Attempt]:
        """The accepted ones, each message once, in the order in which they first came."""
        first: dict[str, Attempt] = {}
        for each in self.accepted:
            if plugin in (None, each.plugin):
                first.setdefault(each.message_id, each)
        return list(first.values())

    def wait_for(self, count: int, plugin: str | None = None, seconds: float = 10) -> list[Attempt]:
        end = time.monotonic() + seconds * PATIENCE
        while len(found := self.messages(plugin)) < count:
            assert time.monotonic() < end, f"{len(found)} of {count} messages came: {self.attempts}"
            with self._changed:
                self._changed.wait(0.05)
        return found

    def wait_for_attempts(self, count: int, seconds: float = 10) -> list[Attempt]:
        end = time.monotonic() + seconds * PATIENCE
        while len(self.attempts) < count:
            assert time.monotonic() < end, f"{len(self.attempts)} of {count} attempts came"
            with self._changed:
                self._changed.wait(0.05)
        return self.attempts

    def receive(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        signed = b".".join((message_id.encode(), timestamp.encode(), body))
        right = "v1," + base64.b64encode(hmac.digest(self.key, signed, hashlib.sha256)).decode()
        content = json.loads(body)
        answer, extra = self._next(content["data"].get("plugin")), {}
        if right not in headers.get("webhook-signature", "").split():
            self.forged.append(f"signature of {message_id}")
        if abs(int(timestamp) - time.time()) > TOLERANCE:
            self.forged.append(f"time of {message_id}")
        at = time.monotonic()
        if callable(answer):
            answer = answer()
        if isinstance(answer, tuple):
            answer, extra = answer
        with self._changed:
            self.attempts.append(Attempt(at, path, message_id, content, headers, answer))
            self._changed.notify_all()
        return answer, extra

    def _next(self, plugin: str | None) -> Answer:
        with self._changed:
            for key in (plugin, None):
                if self.answers.get(key):
                    return self.answers[key].pop(0)
            return self.always.get(plugin, self.always.get(None, 204))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def setup(self) -> None:
        super().setup()
        self.server.owner.connections.add(self.connection)

    def finish(self) -> None:
        self.server.owner.connections.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, extra = self.server.owner.receive(self.path, headers, body)
        try:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **extra}.items():
                self.send_header(name, value)
            self.end_headers()
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass
