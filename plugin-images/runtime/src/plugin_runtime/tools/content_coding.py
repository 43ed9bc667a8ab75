"""Decompresses the body of a call as it comes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

CODINGS = ("gzip", "deflate", "identity")
ROOM = 1024 * 1024
"""Bytes that a body may have beside its uploads, as for the orchestrator's bound on bodies that are not compressed."""
PIECE = 256 * 1024
"""Bytes that are decompressed at a time, so that a small body that becomes a large one costs no memory."""
INPUT = 16 * 1024
"""Compressed bytes at a time: after each member the rest of them is copied, and a member may have 20 bytes."""
MAX_MEMBERS = 100_000
"""Of a gzip body; each costs time, also an empty one."""
AUTO_GZIP, ZLIB, RAW = 31, 15, -15  # zlib's `wbits`


def decoded(body: Iterator[bytes], content_encoding: str, max_bytes: int) -> Iterator[bytes]:
    """The body without its coding. Raises Refused: an unknown coding, a broken body, over `max_bytes` + ROOM."""
    codings = [name for item in content_encoding.split(",") if (name := item.strip().lower()) not in {"", "identity"}]
    if not codings:
        return body
    if codings not in (["gzip"], ["x-gzip"], ["deflate"]):
        known = ", ".join(CODINGS)
        text = f"the body has the Content-Encoding {content_encoding[:60]!r}; it may be one of {known}"
        raise Refused("unsupported_media_type", text)
    return _inflated(body, codings[0], max_bytes)


def _inflated(body: Iterator[bytes], coding: str, max_bytes: int) -> Iterator[bytes]:
    left = max_bytes + ROOM
    inflater = _Inflater(coding)
    for data in body:
        for start in range(0, len(data), INPUT):
            for piece in inflater.feed(data[start : start + INPUT]):
                left -= len(piece)
                if left < 0:
                    text = f"the body is over {max_bytes + ROOM} bytes once it is decompressed (`limits.scratch`)"
                    raise Refused("too_large", text)
                yield piece
    inflater.end()


class _Inflater:
    """A gzip body may have several members, and zeros after the last; a deflate body is one stream."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inflater: Any = None
        self._members = 0
        self._padded = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises Refused for what is not in this coding."""
        while data:
            if self._inflater is None and self._is_after_the_end(data):
                return
            yield from self._decompress(data)
            data = b""
            if self._inflater.eof:
                data, self._inflater = self._inflater.unused_data, None
                self._members += 1
                if self._members > MAX_MEMBERS:
                    raise Refused("too_large", f"the gzip body has more than {MAX_MEMBERS} members")

    def end(self) -> None:
        """Raises Refused for a body that is cut off."""
        if self._inflater is not None:
            raise _broken(self._coding, "it ends too early")

    def _decompress(self, data: bytes) -> Iterator[bytes]:
        import zlib  # noqa: PLC0415 - a shared library that few calls need

        if self._inflater is None:
            self._inflater = zlib.decompressobj(_window(self._coding, data))
        piece = None
        while not self._inflater.eof and (data or piece):
            try:
                piece = self._inflater.decompress(data, PIECE)
            except zlib.error as error:
                raise _broken(self._coding, str(error).rpartition(": ")[2]) from None
            data = self._inflater.unconsumed_tail
            if piece:
                yield piece

    def _is_after_the_end(self, data: bytes) -> bool:
        if self._members == 0:
            return False
        is_padding = not data.strip(b"\0")
        if (self._padded or self._coding == "deflate") and not is_padding:
            raise _broken(self._coding, "bytes follow its end")
        self._padded = self._padded or is_padding
        return is_padding


def _window(coding: str, start: bytes) -> int:
    if coding != "deflate":
        return AUTO_GZIP
    # By RFC 9110 `deflate` is the zlib format; some senders leave its head and its end out.
    is_zlib = start[0] & 0x0F == 8 and (len(start) < 2 or (start[0] << 8 | start[1]) % 31 == 0)
    return ZLIB if is_zlib else RAW


def _broken(coding: str, what: str) -> Refused:
    return Refused("bad_request", f"the body is no {coding} (Content-Encoding): {what}")
