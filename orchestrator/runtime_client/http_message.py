"""Pure, and all that knows httptools: heads of HTTP/1.1 requests, and responses parsed as their bytes come."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser, parse_url

# A response comes from a plugin and may be anything. What the parser (llhttp) leaves unbounded, heads, trailers and the
# extensions of chunks, is bounded here.
_MAX_HEAD: Final = 64 * 1024  # bytes of header fields and trailers, and of input without any of the body in it
_MAX_FIELDS: Final = 256
_QUERY_SAFE: Final = "!$%&'()*+,/:;=?@[]"


class MalformedResponseError(ValueError):
    """Input that is no HTTP/1.1 response, or not the whole of one."""


def request_head(method: str, target: str, fields: Mapping[str, str], *, length: int | None) -> bytes:
    """The head with its final empty line; `length` of the body, None for a chunked one. Raises `ValueError` for values
    that cannot stand in a head.
    """
    head = f"{method} {target} HTTP/1.1\r\nHost: plugin\r\n"
    for name, value in fields.items():
        head += f"{name}: {value}\r\n"
    # Counted over the whole head at once, in place of a look at each field.
    if head.count("\r") != len(fields) + 2 or head.count("\n") != len(fields) + 2:
        raise ValueError("a line break in a header field")
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"{head}{size}\r\n\r\n".encode("latin-1")


def target(*segments: str, query: str = "") -> str:
    """A path of these segments. `query` is quoted only where it could not stand in a request line."""
    path = "/" + "/".join(map(_quoted, segments))
    return path + "?" + quote(query, safe=_QUERY_SAFE, errors="replace") if query else path


@lru_cache(maxsize=512)
def _quoted(segment: str) -> str:
    return quote(segment, safe="", errors="replace")


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request's target, in whichever form it is. Raises `ValueError` for one that has no path."""
    try:
        parsed = parse_url(target)
    except HttpParserError as error:
        raise ValueError("a malformed target") from error
    if parsed.path is None:
        raise ValueError("a target without a path")
    return parsed.path, parsed.query or b""


class HttpResponse:
    """One response. `fields` have lower-case names; of a repeated field the first counts."""

    status = 0
    head_complete = False
    """Interim responses (1xx) do not count."""
    complete = False
    received_any = False
    keeps_alive = False
    """Whether the head allows another request on the connection."""
    surplus = False
    """Whether bytes came after its end."""
    buffered = 0
    """Bytes of the body that have come and were not taken."""
    taken = 0
    """How often some were taken."""
    _until_close = False
    _head_bytes = 0
    _field_count = 0
    _bytes_without_body = 0

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    @property
    def length(self) -> int | None:
        """Bytes of the body, where the head names them."""
        length = self.fields.get(b"content-length")
        return None if length is None else int(length)

    def feed(self, data: bytes) -> None:
        """Raises `MalformedResponseError`."""
        self.received_any = True
        if self._parser is None:
            self.surplus = True
            return
        buffered = self.buffered
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise MalformedResponseError("it wants to speak another protocol") from None
        except HttpParserError as error:
            if not self.complete:
                raise MalformedResponseError(f"it is no HTTP answer: {error.__context__ or error}") from error
            self.surplus = True
        if self.complete:
            self._parser = None
        elif self.buffered > buffered:
            self._bytes_without_body = 0
        else:
            self._bytes_without_body += len(data)
            if self._bytes_without_body > _MAX_HEAD:
                raise MalformedResponseError(f"over {_MAX_HEAD} bytes of it without any of its body")

    def end(self) -> None:
        """The connection has ended. Raises `MalformedResponseError` where the response is not complete."""
        self.close()
        if not self.complete:
            if not (self.head_complete and self._until_close):
                raise MalformedResponseError("the connection was closed before the answer's end")
            self.complete = True

    def close(self) -> None:
        """Accept nothing more; what is buffered can still be taken."""
        self._parser = None

    def take(self) -> bytes:
        """All of the body that is buffered."""
        chunks, self._chunks, self.buffered = self._chunks, [], 0
        self.taken += 1
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.complete:
            self.surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_count += 1
        self._head_bytes += len(name) + len(value)
        if self._field_count > _MAX_FIELDS or self._head_bytes > _MAX_HEAD:
            raise MalformedResponseError(f"over {_MAX_FIELDS} header fields, or {_MAX_HEAD} bytes of them")
        if not self.head_complete:
            self.fields.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        if self.complete or self._parser is None:
            return
        self.status = self._parser.get_status_code()
        if self.status < 100:
            raise MalformedResponseError(f"a status of {self.status}")
        if self.status < 200:
            self.fields.clear()
            return
        coding = self.fields.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise MalformedResponseError(f"a transfer coding {coding[:40]!r}")
        self._until_close = coding is None and b"content-length" not in self.fields
        self.keeps_alive = self._parser.should_keep_alive()
        self.head_complete = True

    def on_body(self, chunk: bytes) -> None:
        if not self.complete:
            self._chunks.append(chunk)
            self.buffered += len(chunk)

    def on_message_complete(self) -> None:
        if self.head_complete:
            self.complete = True
