"""What a result holds: text, JSON, and files in base64, which can be saved. Decisions only, but for `save`."""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_SHORTEST: Final = 64
"""Characters of base64 below which a text is taken for a text."""
_DATA_URI: Final = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_KINDS: Final = (
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
"""Offset, bytes there, and the extension of such files."""


def files_in(result: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bytes, str]]:
    """Every file in a result: its place, its content, its extension. A text counts as one where it is base64 and what
    comes out is a picture, film, archive or such, or where it is a data URI.
    """
    if isinstance(result, dict):
        for key, value in result.items():
            yield from files_in(value, (*place, str(key)))
    elif isinstance(result, list):
        for number, value in enumerate(result, 1):
            yield from files_in(value, (*place, str(number)))
    elif isinstance(result, str) and (found := _decoded(result)) is not None:
        yield place, *found


def replaced(result: Any, names: dict[tuple[str, ...], str], place: tuple[str, ...] = ()) -> Any:
    """The result with the names of saved files in their places."""
    if place in names:
        return names[place]
    if isinstance(result, dict):
        return {key: replaced(value, names, (*place, str(key))) for key, value in result.items()}
    if isinstance(result, list):
        return [replaced(value, names, (*place, str(number))) for number, value in enumerate(result, 1)]
    return result


def save(result: Any, folder: Path, stem: str) -> Any:
    """Writes the result's files to `folder`; the result with their paths in their places. Raises `OSError`."""
    names = {}
    for place, content, extension in files_in(result):
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "_", "-".join((stem, *place)))[:120]
        path = folder / f"{name}.{extension}"
        path.write_bytes(content)
        names[place] = str(path)
    return replaced(result, names)


def _decoded(text: str) -> tuple[bytes, str] | None:
    uri = _DATA_URI.match(text)
    body = text[uri.end() :] if uri else text
    if not uri and (len(text) < _SHORTEST or not _BASE64.fullmatch(text[:_SHORTEST])):
        return None
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    for offset, magic, extension in _KINDS:
        if content[offset : offset + len(magic)] == magic:
            return content, extension
    return (content, "bin") if uri else None
