"""An HTTP server of one file, whose answers a test can spoil one by one.

with FileServer(content) as server:
    server.next(cut_after(1000), status(503))
    ... server.url ...
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-"]
"""

import ssl
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Any"

    def do_GET(self) -> None:
        owner: FileServer = self.server.owner
        with owner.lock:
            owner.requests.append({name.lower(): value for name, value in self.headers.items()})
            answer = owner.answers.pop(0) if owner.answers else owner.default
        try:
            answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    @property
    def owner(self) -> "FileServer":
        return self.server.owner

    def head(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def start(self, **changed: Any) -> bytes:
        """The head of the answer that HTTP wants here; its body is returned. `changed` headers replace the right
        ones.
        """
        owner, headers = self.owner, {}
        if owner.etag:
            headers["ETag"] = owner.etag
        body, status = owner.content, 200
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if owner.ranged and wanted and (condition is None or condition == owner.etag):
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            if first >= len(body):
                self.head(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
                return b""
            status, headers["Content-Range"] = 206, f"bytes {first}-{len(body) - 1}/{len(body)}"
            body = body[first:]
        headers["Content-Length"] = str(len(body))
        headers.update({name.replace("_", "-"): str(value) for name, value in changed.items() if value is not None})
        for name, value in changed.items():
            if value is None:
                del headers[name.replace("_", "-")]
        self.head(status, **headers)
        return body

    def log_message(self, *_: object) -> None:
        pass


def right(handler: Handler) -> None:
    """The file, or the range of it, at the server's rate."""
    body = handler.start()
    rate = handler.owner.rate
    piece = 1 << 20 if rate is None else max(1, rate // 100)
    for at in range(0, len(body), piece):
        handler.wfile.write(body[at : at + piece])
        if rate is not None:
            time.sleep(len(body[at : at + piece]) / rate)
    handler.owner.bytes_sent += len(body)


def cut_after(size: int) -> Answer:
    """The connection breaks after so many bytes of the body."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(handler.start()[:size])
        handler.close_connection = True

    return answer


def without_length(size: int | None = None) -> Answer:
    """No Content-Length: the end of the connection is the end of the file, which may come too early."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(handler.start(Content_Length=None, Connection="close")[:size])
        handler.close_connection = True

    return answer


def chunked(handler: Handler) -> None:
    """In chunks, without a length, cut before the last one."""
    body = handler.start(Content_Length=None, Transfer_Encoding="chunked")
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(body) // 2, body[: len(body) // 2]))
    handler.close_connection = True


def lying(length: int) -> Answer:
    """A Content-Length that is not the body's."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(handler.start(Content_Length=length))
        handler.close_connection = True

    return answer


def status(number: int, body: bytes = b"<html>no</html>", **headers: Any) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(number, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return answer


def instead(body: bytes) -> Answer:
    """Other bytes, as the whole file."""
    return status(200, body)


def shifted(by: int) -> Answer:
    """A range that begins elsewhere than where it was asked to."""

    def answer(handler: Handler) -> None:
        owner = handler.owner
        first = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-")) + by
        body = owner.content[first:]
        span = f"bytes {first}-{len(owner.content) - 1}/{len(owner.content)}"
        handler.head(206, Content_Range=span, Content_Length=len(body))
        handler.wfile.write(body)

    return answer


def silent(handler: Handler) -> None:
    """Accepts the request and never answers."""
    handler.owner.stopping.wait(60)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a caller that left, or that does not trust the certificate
            super().handle_error(request, client_address)


class FileServer:
    """`certificate`: a file of certificate and key, for HTTPS. `etag` empty: none. `ranged` false: every answer is
    the whole file. `rate`: bytes a second, None for no limit.
    """

    def __init__(
        self,
        content: bytes,
        *,
        etag: str = '"1"',
        ranged: bool = True,
        rate: int | None = None,
        certificate: Path | None = None,
    ) -> None:
        self.content, self.etag, self.ranged, self.rate = content, etag, ranged, rate
        self.requests: list[dict[str, str]] = []
        self.answers: list[Answer] = []
        self.default: Answer = right
        self.bytes_sent = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.owner = self  # type: ignore[attr-defined]
        self._scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def next(self, *answers: Answer) -> None:
        self.answers.extend(answers)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/weights.onnx"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [request.get("range") for request in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
