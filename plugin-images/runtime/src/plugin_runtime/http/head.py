"""The head of an HTTP/1.1 message, parsed and formatted. Pure. Refuses all that RFC 9112 lets a server refuse."""

# Not http.server: it imports email and ssl, 8 MB and 35 ms for each of the two processes, and its header parser alone
# takes longer than a small tool call may.

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD = 64 * 1024
REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    404: "Not Found",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class BadHead(ValueError):  # noqa: N818 - what is wrong, in one sentence
    """The peer does not speak HTTP/1.1 as this end understands it: the connection has to be closed."""


class RequestHead(NamedTuple):
    """`headers` has lower-case names. `length` is in bytes, None for a chunked body."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    keep_alive: bool
    length: int | None

    @property
    def expects_continue(self) -> bool:
        """Whether the caller waits for `100 Continue` before it sends the body."""
        return self.headers.get("expect", "").lower() == "100-continue"


def parse_request_head(data: bytes) -> RequestHead:
    """Parse a head without the empty line that ends it. Raises BadHead."""
    lines = data.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3:
        raise BadHead(f"the request line {lines[0][:80]!r} is not `METHOD target HTTP/1.1`")
    method, target, version = words
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise BadHead(f"{version[:20]!r} is not HTTP/1.1")
    if not TOKEN.issuperset(method) or not target.startswith("/"):
        raise BadHead(f"the request line {lines[0][:80]!r} is malformed")
    headers = _headers(lines[1:])
    path, _, query = target.partition("?")
    return RequestHead(method, path, query, headers, _is_keep_alive(version, headers), _length(headers))


def response_head(status: int, content_type: str, length: int | None, *, keep_alive: bool, oom_kills: int = 0) -> bytes:
    """A head with its closing empty line, for a body of `length` bytes or, with None, a chunked one."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    more = "" if keep_alive else "Connection: close\r\n"
    if oom_kills:
        more += f"X-Oom-Kills: {oom_kills}\r\n"
    return (f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {content_type}\r\n{size}\r\n{more}\r\n").encode(
        "latin-1"
    )


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; b"" makes the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, value = _header(line)
        if name in headers:
            # Two lengths could be understood in two ways (RFC 9112, section 11.2).
            if name in {"content-length", "transfer-encoding", "content-type", "host"}:
                raise BadHead(f"the header {name} was sent twice")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


@lru_cache(maxsize=128)  # callers send the same lines again and again
def _header(line: str) -> tuple[str, str]:
    """Name, in lower case, and value. Raises BadHead."""
    name, colon, value = line.partition(":")
    if not colon or not name or not TOKEN.issuperset(name) or "\n" in value or "\0" in value:
        raise BadHead(f"the header line {line[:80]!r} is malformed")
    return name.lower(), value.strip(" \t")


def _is_keep_alive(version: str, headers: Mapping[str, str]) -> bool:
    connection = headers.get("connection", "").lower()
    return "keep-alive" in connection if version == "HTTP/1.0" else "close" not in connection


def _length(headers: Mapping[str, str]) -> int | None:
    encoding = headers.get("transfer-encoding")
    length = headers.get("content-length", "0")
    if encoding is not None:
        if encoding.lower() != "chunked" or "content-length" in headers:
            raise BadHead("a body has either Content-Length or Transfer-Encoding: chunked")
        return None
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise BadHead(f"Content-Length {length[:40]!r} is no length")
    return int(length)
