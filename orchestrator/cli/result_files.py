"""Files in base64 within a result: finding, naming and saving them. Pure but for `save`."""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_MIN_LENGTH: Final = 64
"""Characters below which a text is not tested for base64."""
_DATA_URI: Final = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
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


def files_in(result: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bytes, str]]:
    """Path in the result, content and extension of every file: a data URI, or base64 of a known file type."""
    if isinstance(result, dict):
        for key, value in result.items():
            yield from files_in(value, (*path, str(key)))
    elif isinstance(result, list):
        for number, value in enumerate(result, 1):
            yield from files_in(value, (*path, str(number)))
    elif isinstance(result, str) and (found := _decoded(result)) is not None:
        yield path, *found


def replaced(result: Any, names: dict[tuple[str, ...], str], path: tuple[str, ...] = ()) -> Any:
    """The result with each saved file replaced by its name."""
    if path in names:
        return names[path]
    if isinstance(result, dict):
        return {key: replaced(value, names, (*path, str(key))) for key, value in result.items()}
    if isinstance(result, list):
        return [replaced(value, names, (*path, str(number))) for number, value in enumerate(result, 1)]
    return result


def save(result: Any, folder: Path, stem: str) -> Any:
    """Write the result's files to `folder`; the result with their file names in their stead. Raises `OSError`."""
    names = {}
    for path, content, extension in files_in(result):
        folder.mkdir(parents=True, exist_ok=True)
        # Names in a result come from a plugin: none may lead out of the folder or be too long for a file system.
        name = re.sub(r"[^\w.-]+", "_", "-".join((stem, *path)))[:120]
        file = folder / f"{name}.{extension}"
        file.write_bytes(content)
        names[path] = str(file)
    return replaced(result, names)


def _decoded(text: str) -> tuple[bytes, str] | None:
    uri = _DATA_URI.match(text)
    body = text[uri.end() :] if uri else text
    # Only the first characters are tested before decoding: a text may have megabytes.
    if not uri and (len(text) < _MIN_LENGTH or not _BASE64.fullmatch(text[:_MIN_LENGTH])):
        return None
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    for offset, magic, extension in _MAGIC:
        if content[offset : offset + len(magic)] == magic:
            return content, extension
    return (content, "bin") if uri else None
