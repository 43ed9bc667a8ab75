"""Requests and answers as values: what is sent, and what an answer means. Nothing here is sent or read."""

import json
import mimetypes
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from orchestrator.client.errors import ApiError, UnexpectedAnswer, error_of


@dataclass(frozen=True, slots=True)
class Upload:
    """A file for a tool. `content`: bytes, a path, or a file object opened for bytes, which is read from its beginning
    where it can seek.
    """

    content: bytes | bytearray | os.PathLike[str] | IO[bytes]
    filename: str = ""
    content_type: str = ""


class FormText(str):
    """A value as a person types it: the plugin reads it by its parameter's type, `2` as a text where it wants one. A
    list of them is the parameter given several times.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Request:
    """`read_timeout`: seconds in which some of the answer must come; None where the orchestrator sees to that itself.
    `arguments`: a tool's.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] | None = None
    read_timeout: float | None = 30.0

    @property
    def safe(self) -> bool:
        """To send it again does no harm."""
        return self.method == "GET"

    @property
    def repeatable(self) -> bool:
        """Whether its body can be had a second time."""
        files = (_upload(value).content for value in (self.arguments or {}).values() if _is_upload(value))
        return all(isinstance(content, bytes | bytearray | os.PathLike) or content.seekable() for content in files)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises `UnexpectedAnswer`."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise UnexpectedAnswer(
                f"The answer has status {self.status} and is no JSON. Is that the orchestrator?", status=self.status
            ) from None

    def error(self) -> ApiError | None:
        """The error that it stands for, if it does."""
        if 200 <= self.status < 300:
            return None
        try:
            envelope = self.json()
        except UnexpectedAnswer as error:
            return error
        if not isinstance(envelope, dict):
            return UnexpectedAnswer(
                f"The answer has status {self.status} and no envelope. Is that the orchestrator?", status=self.status
            )
        return error_of(self.status, envelope, retry_after=_seconds(self.headers.get("retry-after")))


def segment(text: str) -> str:
    """`text` as one segment of a path: no name leads to another route."""
    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if set(text) == {"."} else quoted


def body_options(arguments: Mapping[str, Any] | None, files: ExitStack) -> dict[str, Any]:
    """The HTTP client's options for a tool's arguments: JSON, or multipart where one is a file. Files that it opens are
    closed by `files`; no file is read here.
    """
    if arguments is None:
        return {}
    if not any(_is_upload(value) or _is_typed(value) for value in arguments.values()):
        return {"json": dict(arguments)}
    parts: list[tuple[str, Any]] = []
    for name, value in arguments.items():
        if _is_upload(value):
            parts.append((name, _file_part(name, _upload(value), files)))
        else:
            # A plugin knows its parameters' types: a text goes as it is, anything else as JSON.
            for one in value if _is_typed(value) and not isinstance(value, str) else [value]:
                text = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
                parts.append((name, (None, text.encode(), "text/plain; charset=utf-8")))
    return {"files": parts}


def _is_upload(value: Any) -> bool:
    return isinstance(value, Upload | bytes | bytearray | os.PathLike) or hasattr(value, "read")


def _is_typed(value: Any) -> bool:
    return isinstance(value, FormText) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, FormText) for one in value)
    )


def _upload(value: Any) -> Upload:
    return value if isinstance(value, Upload) else Upload(value)


def _file_part(name: str, upload: Upload, files: ExitStack) -> tuple[str, Any, str]:
    content = upload.content
    known = upload.filename
    if isinstance(content, os.PathLike):
        known = known or Path(content).name
        content = files.enter_context(open(content, "rb"))  # noqa: PTH123, SIM115 - `files` closes it
    elif isinstance(content, bytes | bytearray):
        content = bytes(content)
    else:
        called = getattr(content, "name", "")
        known = known or (Path(called).name if isinstance(called, str) else "")
        if content.seekable():
            content.seek(0)
        else:
            content = _Unsized(content)  # type: ignore[assignment]
    kind = upload.content_type or mimetypes.guess_type(known)[0] or "application/octet-stream"
    return (known or name, content, kind)


class _Unsized:
    """A pipe or socket without what would tell its length, which the operating system says is 0."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None
