"""Files inline in a result as base64: how to find them, their formats, and which items are parts of one. Pure."""

import base64
import binascii
import mimetypes
import re
from dataclasses import dataclass
from typing import Any, Final

_MIN_LENGTH: Final = 64
"""Characters below which a text is not tested for base64."""
_DATA_URI: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/\s]*={0,2}\s*")
_MAGIC: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"GIF8", "gif"),
    (8, b"WEBP", "webp"),
    (0, b"BM", "bmp"),
    (0, b"II*\0", "tif"),
    (0, b"MM\0*", "tif"),
    (4, b"ftyp", "mp4"),
    (0, b"\x1aE\xdf\xa3", "webm"),
    (8, b"WAVE", "wav"),
    (0, b"%PDF", "pdf"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"\x93NUMPY", "npy"),
)
"""Offset, the bytes there, and the file extension."""
_STARTS_ANEW: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "wav": "audio/wav",
    "pdf": "application/pdf",
}
"""Formats, with their media types, whose signature occurs only at the start of a file: there a part starts the next."""


@dataclass(frozen=True, slots=True)
class InlineFile:
    """`media_type` is `""` where the result does not say it."""

    content: bytes
    media_type: str = ""

    @property
    def format(self) -> str | None:
        """The file extension by the first bytes."""
        found = (extension for at, magic, extension in _MAGIC if self.content[at : at + len(magic)] == magic)
        return next(found, None)

    @property
    def extension(self) -> str:
        by_type = mimetypes.guess_extension(self.media_type.partition(";")[0].strip()) if self.media_type else None
        return (by_type or f".{self.format or 'bin'}").lstrip(".")


def inline_file(value: Any) -> InlineFile | None:
    """The file that a value in a result is: `{"media_type", "data"}`, a data URI, or base64 of a known file type."""
    if isinstance(value, dict):
        return typed_file(value)
    if not isinstance(value, str):
        return None
    if uri := _DATA_URI.match(value):
        content = decoded(value[uri.end() :])
        return None if content is None else InlineFile(content, uri[1])
    if len(value) < _MIN_LENGTH or (content := decoded(value)) is None:
        return None
    file = InlineFile(content)
    return file if file.format is not None else None


def typed_file(value: Any) -> InlineFile | None:
    """The file in `{"media_type", "data"}`, whatever other members it has."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), str):
        return None
    media_type = value.get("media_type")
    if not isinstance(media_type, str) or "/" not in media_type or (content := decoded(value["data"])) is None:
        return None
    return InlineFile(content, media_type)


def decoded(text: str) -> bytes | None:
    """The bytes that a text is base64 of."""
    # Only the first characters are tested before decoding: a text may have megabytes.
    if not _BASE64.fullmatch(text[:_MIN_LENGTH]):
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def may_be_part(item: Any) -> bool:
    """Whether it is worth to find out more about an item: cheap, and true of many a text."""
    if isinstance(item, str):
        return len(item) % 4 == 0 and _BASE64.fullmatch(item[:_MIN_LENGTH]) is not None
    return isinstance(item, dict) and "media_type" in item and "data" in item


def texts_are_bytes(schema: Any) -> bool | None:
    """Whether a text that fits a tool's output schema is base64; None where the schema does not say."""
    if not isinstance(schema, dict):
        return None
    options = [one for one in schema.get("anyOf") or [schema] if isinstance(one, dict)]
    texts = [one for one in options if one.get("type", "string") == "string" and "$ref" not in one]
    return bool(texts) and all(one.get("contentEncoding") == "base64" for one in texts)


class Parts:
    """Finds the items of a stream that are parts of a file, and those of them that start the next one.

    `are_bytes`: whether each item is bytes; None where the tool does not say, so that the first bytes must.
    """

    def __init__(self, *, are_bytes: bool | None) -> None:
        self._are_bytes = are_bytes
        self._first: InlineFile | None = None
        """The first part of the current file."""

    def take(self, item: Any) -> tuple[InlineFile, bool] | None:
        """The part, and whether it starts a file. None for any other item, which ends the current file."""
        part = typed_file(item) or self._untyped(item)
        if part is None:
            self._first = None
            return None
        starts_file = self._first is None or self._first.media_type != part.media_type or self._starts_anew(part)
        if starts_file:
            self._first = part
        return part, starts_file

    def _untyped(self, item: Any) -> InlineFile | None:
        if not isinstance(item, str) or self._are_bytes is False:
            return None
        goes_on = self._first is not None and self._first.media_type == ""
        if self._are_bytes or goes_on:
            content = decoded(item)
            return None if content is None else InlineFile(content)
        return inline_file(item)

    def _starts_anew(self, part: InlineFile) -> bool:
        media_type = _STARTS_ANEW.get(part.format or "")
        return media_type is not None and part.media_type in ("", media_type)
