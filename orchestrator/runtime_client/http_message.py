"""HTTP/1.1 as the channel speaks it: the head of a request, and an answer taken apart as its bytes come. Pure.

An answer comes from a plugin and may be anything. The parser is httptools (llhttp); what it leaves without a bound,
heads, trailers and the extensions of chunks, has one here.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

_LARGEST_HEAD: Final = 64 * 1024
"""Bytes of header fields and trailers, and of what comes without any of the body in it."""
_MOST_FIELDS: Final = 256
_QUERY: Final = "!$%&'()*+,/:;=?@[]"


class MalformedAnswerError(ValueError):
    """What came is no HTTP/1.1 answer, or not the whole of one."""


def request_head(method: str, target: str, fields: Mapping[str, str], *, length: int | None) -> bytes:
    """With the empty line that ends it; `length` of the body, None for a chunked one. Raises `ValueError` for values
    that cannot stand in a head.
    """
    head = f"{method} {target} HTTP/1.1\r\nHost: plugin\r\n"
    for name, value in fields.items():
        head += f"{name}: {value}\r\n"
    if head.count("\r") != len(fields) + 2 or head.count("\n") != len(fields) + 2:
        raise ValueError("a line break in a header field")
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"{head}{size}\r\n\r\n".encode("latin-1")


def target(*segments: str, query: str = "") -> str:
    """A path of these segments. `query` stays as it is, but for what cannot stand in a request line."""
    path = "/" + "/".join(map(_quoted, segments))
    return path + "?" + quote(query, safe=_QUERY, errors="replace") if query else path


@lru_cache(maxsize=512)
def _quoted(segment: str) -> str:
    return quote(segment, safe="", errors="replace")


class HttpAnswer:
    """One answer. `fields` have lower-case names; of one that comes twice the first counts."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.begun = False
        """Its head is here; interim ones (1xx) do not count."""
        self.complete = False
        self.touched = False
        """Something came, be it half a line."""
        self.keeps_alive = False
        """Another request may follow on its connection, as far as the head says."""
        self.surplus = False
        """More came than belongs to it."""
        self.held = 0
        """Bytes of the body that have come and were not taken."""
        self._parts: list[bytes] = []
        self._until_close = False
        self._head = 0
        self._fields = 0
        self._idle = 0
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    @property
    def length(self) -> int | None:
        """Of the body, where the head tells it."""
        told = self.fields.get(b"content-length")
        return None if told is None else int(told)

    def feed(self, data: bytes) -> None:
        """Raises `MalformedAnswerError`."""
        self.touched = True
        if self._parser is None:
            self.surplus = True
            return
        held = self.held
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise MalformedAnswerError("it wants to speak another protocol") from None
        except HttpParserError as error:
            if not self.complete:
                raise MalformedAnswerError(f"it is no HTTP answer: {error.__context__ or error}") from error
            self.surplus = True
        if self.complete:
            self._parser = None
        elif self.held > held:
            self._idle = 0
        else:
            self._idle += len(data)
            if self._idle > _LARGEST_HEAD:
                raise MalformedAnswerError(f"over {_LARGEST_HEAD} bytes of it without any of its body")

    def end(self) -> None:
        """No more comes. Raises `MalformedAnswerError` where something lacks."""
        self.close()
        if not self.complete:
            if not (self.begun and self._until_close):
                raise MalformedAnswerError("the connection was closed before the answer's end")
            self.complete = True

    def close(self) -> None:
        """Take nothing more; what is held can still be taken."""
        self._parser = None

    def take(self) -> bytes:
        """All of the body that is held."""
        parts, self._parts, self.held = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.complete:
            self.surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._head += len(name) + len(value)
        if self._fields > _MOST_FIELDS or self._head > _LARGEST_HEAD:
            raise MalformedAnswerError(f"over {_MOST_FIELDS} header fields, or {_LARGEST_HEAD} bytes of them")
        if not self.begun:
            self.fields.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        if self.complete or self._parser is None:
            return
        self.status = self._parser.get_status_code()
        if self.status < 100:
            raise MalformedAnswerError(f"a status of {self.status}")
        if self.status < 200:
            self.fields.clear()
            return
        coding = self.fields.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise MalformedAnswerError(f"a transfer coding {coding[:40]!r}")
        self._until_close = coding is None and b"content-length" not in self.fields
        self.keeps_alive = self._parser.should_keep_alive()
        self.begun = True

    def on_body(self, part: bytes) -> None:
        if not self.complete:
            self._parts.append(part)
            self.held += len(part)

    def on_message_complete(self) -> None:
        if self.begun:
            self.complete = True
