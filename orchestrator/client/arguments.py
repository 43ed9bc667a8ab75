"""From a program's values to JSON and files that can be sent. Raises `InvalidRequest`, which names the argument."""

import base64
import dataclasses
import io
import json
import math
import mimetypes
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import IO, Any, Final, TypeGuard
from uuid import UUID

from orchestrator.client.errors import ApiError, InvalidRequest
from orchestrator.client.models import FormText, Upload

_MAX_INTEGER_BITS: Final = 14_000
"""Python refuses to write longer integers in decimal digits."""
_BYTES = (bytes, bytearray, memoryview)


def prepared(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, each as JSON, an `Upload`, a list of them, or what a person typed."""
    return {_text(repr(name), name): _argument(name, value) for name, value in arguments.items()}


def body_options(arguments: Mapping[str, Any] | None, files: ExitStack) -> dict[str, Any]:
    """Options for prepared arguments: JSON, or multipart if one is a file. Opened files are closed by `files`."""
    if arguments is None:
        return {}
    if not any(_is_file(value) or _is_typed(value) for value in arguments.values()):
        return {"json": dict(arguments)}
    fields: list[tuple[str, Any]] = []
    for name, value in arguments.items():
        if _is_file(value):
            fields += [(name, _file_field(name, one, files)) for one in _each(value)]
        else:
            # A plugin knows its parameters' types: a text goes as it is, anything else as JSON.
            for one in value if _is_typed(value) and not isinstance(value, str) else [value]:
                text = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
                fields.append((name, (None, text.encode(), "text/plain; charset=utf-8")))
    return {"files": fields}


def repeatable(arguments: Mapping[str, Any]) -> bool:
    """Whether the files among prepared arguments can be read a second time."""
    files = (one for value in arguments.values() if _is_file(value) for one in _each(value))
    return all(isinstance(one.content, (*_BYTES, os.PathLike)) or _can_seek(one.content) for one in files)


def _argument(name: str, value: Any) -> Any:
    try:
        return value if _is_json(value) else _converted(name, value)
    except RecursionError:
        raise _unfit(name, "is nested too deeply, or holds itself") from None
    except ApiError:
        raise
    except Exception as error:  # the value's own: of its iteration, its properties, its conversion
        raise _unreadable(name, error) from error


def _is_json(value: Any) -> bool:
    """Whether it is what most arguments are: values of JSON's own types, and nothing that need be looked at closely."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii())
    if kind is int:
        return bool(value.bit_length() <= _MAX_INTEGER_BITS)
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        return all(type(key) is str and key.isascii() and _is_json(inner) for key, inner in value.items())
    return all(map(_is_json, value)) if kind is list else value is None or kind is bool


def _converted(name: str, value: Any) -> Any:
    if _is_upload(value):
        return _upload(name, value)
    if _is_typed(value):
        for text in [value] if isinstance(value, str) else value:
            _text(name, text)
        return value
    if _is_collection(value):
        value = list(value)
        found = [_is_upload(one) for one in value]
        if any(found):
            if not all(found):
                wrong = found.index(False)
                raise _unfit(name, f"holds files, and at {wrong} {_article(value[wrong])}; give files alone")
            return [_upload(name, one) for one in value]
    return _json(name, value)


def _json(where: str, value: Any) -> Any:  # noqa: C901, PLR0911, PLR0912 - one line per type
    """The JSON form of a value."""
    if isinstance(value, Enum):
        return _json(where, value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(where, value)
    if isinstance(value, int):
        if value.bit_length() > _MAX_INTEGER_BITS:
            raise _unfit(where, "is an integer with too many digits")
        return int(value)
    if isinstance(value, float):
        return _finite(where, float(value))
    if isinstance(value, Mapping):
        return _object(where, value)
    if isinstance(value, _BYTES):
        return base64.b64encode(value).decode()  # as a `bytes` field within an object takes it
    if isinstance(value, UUID | os.PathLike):
        return _text(where, str(value))
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, Decimal):
        return _decimal(where, value)
    if callable(convert := getattr(type(value), "tolist", None)):  # arrays and scalars of NumPy and its like
        return _json(where, convert(value))
    if (fields := _fields(value)) is not None:
        return _object(where, fields)
    if _is_collection(value):
        return [_json(f"{where}[{at}]", one) for at, one in enumerate(value)]
    raise _unfit(where, f"is {_article(value)}, which JSON cannot express{_advice(value)}")


def _text(where: str, text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _unfit(where, "holds half a character (a lone surrogate), which is no UTF-8 text") from None
    return str(text)


def _finite(where: str, number: float) -> float:
    if not math.isfinite(number):
        raise _unfit(where, f"is {number}, which JSON cannot express; send None or a finite number")
    return number


def _decimal(where: str, number: Decimal) -> int | float | str:
    """A number where that is exact, else its digits as a text, which a `Decimal` parameter takes as well."""
    if not number.is_finite():
        raise _unfit(where, f"is {number}, which JSON cannot express; send None or a finite number")
    nearest = float(number)
    return nearest if math.isfinite(nearest) and Decimal(repr(nearest)) == number else str(number)


def _duration(span: timedelta) -> str:
    """ISO 8601, in seconds."""
    sign, span = ("-", -span) if span < timedelta(0) else ("", span)
    seconds, rest = divmod(span, timedelta(seconds=1))
    fraction = f".{rest.microseconds:06}".rstrip("0") if rest else ""
    return f"{sign}PT{seconds}{fraction}S"


def _object(where: str, items: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in items.items():
        name = _key(where, key)
        if name in found:
            raise _unfit(where, f"has two keys that are {name!r} in JSON")
        found[name] = _json(f"{where}.{name}", value)
    return found


def _key(where: str, key: Any) -> str:
    plain = _json(f"{where}, key {key!r}", key)
    if isinstance(plain, str):
        return plain
    if plain is None or isinstance(plain, bool | int | float):
        return json.dumps(plain)
    raise _unfit(where, f"has the key {key!r}; keys in JSON are texts")


def _fields(value: Any) -> Mapping[str, Any] | None:
    """The fields of an object of data: dataclasses, pydantic models, attrs classes, msgspec structs."""
    kind = type(value)
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
    if callable(dump := getattr(kind, "model_dump", None)):
        dumped: Any = dump(value)
        return dumped if isinstance(dumped, Mapping) else None
    names = getattr(kind, "__struct_fields__", None) or [one.name for one in getattr(kind, "__attrs_attrs__", ())]
    return {name: getattr(value, name) for name in names} if names else None


def _is_collection(value: Any) -> bool:
    ordered = isinstance(value, Sequence | Iterator | ValuesView) or type(value).__name__ == "deque"
    return (ordered or isinstance(value, AbstractSet)) and not isinstance(value, (str, *_BYTES))


def _is_upload(value: Any) -> bool:
    return isinstance(value, (Upload, *_BYTES, os.PathLike)) or (hasattr(value, "read") and not isinstance(value, type))


def _is_file(value: Any) -> TypeGuard[Upload | list[Upload]]:
    """Of prepared arguments."""
    return isinstance(value, Upload) or (isinstance(value, list) and bool(value) and isinstance(value[0], Upload))


def _each(value: Upload | list[Upload]) -> Iterable[Upload]:
    return [value] if isinstance(value, Upload) else value


def _is_typed(value: Any) -> TypeGuard[FormText | list[FormText]]:
    return isinstance(value, FormText) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, FormText) for one in value)
    )


def _upload(name: str, value: Any) -> Upload:
    upload = value if isinstance(value, Upload) else Upload(value)
    described = (upload.filename, upload.content_type)
    # They are sent in a head, where the end of a line would end them.
    if not all(isinstance(text, str) for text in described) or not _fits_head(upload.content_type):
        raise _unfit(name, f"has {described!r:.200} as its file name and content type")
    content: Any = upload.content
    if isinstance(content, memoryview):
        return dataclasses.replace(upload, content=bytes(content))
    if isinstance(content, (bytes, bytearray, os.PathLike)):
        return upload
    if isinstance(content, dict):  # a ResultFile: it can be read, but is no file object
        raise _unfit(name, "is a file of a result; send what its read() gives, or save it and send the path")
    if isinstance(content, io.TextIOBase):
        raise _unfit(name, 'is a file opened as text; open it with mode "rb"')
    if not hasattr(content, "read"):
        raise _unfit(name, f"has {_article(content)} as its content; give bytes, a path or a binary file object")
    if getattr(content, "closed", False) is True:
        raise _unfit(name, "is a file that is closed")
    return upload


def _fits_head(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _file_field(name: str, upload: Upload, files: ExitStack) -> tuple[str, Any, str]:
    content = upload.content
    filename = upload.filename
    if isinstance(content, bytes | bytearray):
        body: Any = bytes(content)
    elif isinstance(content, os.PathLike):
        path = Path(content)
        filename = filename or path.name
        try:
            body = _body(name, files.enter_context(path.open("rb")))
        except (OSError, ValueError) as error:  # ValueError: a null character
            raise _unreadable(name, error, f"{path}: ") from error
    else:
        own = getattr(content, "name", "")
        filename = filename or (Path(own).name if isinstance(own, str) else "")
        body = _body(name, content)
    kind = upload.content_type or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    return ((filename or name).encode("utf-8", "replace").decode(), body, kind)


def _body(name: str, file: IO[bytes]) -> "_Unsized":
    if not _can_seek(file):
        return _Unsized(name, file)
    body = _Sized(name, file)
    body.seek(0)
    return body


def _can_seek(file: Any) -> bool:
    return bool(file.seekable()) if hasattr(file, "seekable") else False


class _Unsized:
    """A pipe or socket with `read` alone: from its `fileno` httpx would read a length of 0."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Raises `InvalidRequest`, whatever the file raises or returns."""
        try:
            data = self._file.read(size)
        except Exception as error:
            raise _unreadable(self._name, error) from error
        if isinstance(data, bytes):
            return data
        raise _unfit(self._name, f"is a file whose `read` returned {_article(data)}, not bytes")


class _Sized(_Unsized):
    """A file that httpx measures by seeking to its end."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            at: int | None = self._file.seek(offset, whence)
            return self._file.tell() if at is None else at
        except Exception as error:
            raise _unreadable(self._name, error) from error

    def tell(self) -> int:
        return self.seek(0, os.SEEK_CUR)


def _article(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"


def _advice(value: Any) -> str:
    if type(value).__module__.partition(".")[0] == "PIL":
        return "; save the picture to an io.BytesIO, and send that as a file"
    return "; send plain values, dataclasses or arrays, and files as bytes, paths or file objects"


def _unreadable(name: str, error: Exception, where: str = "") -> InvalidRequest:
    reason = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
    return _unfit(name, f"cannot be read: {where}{reason}")


def _unfit(name: str, sentence: str) -> InvalidRequest:
    envelope = {"error_type": "InvalidArgument"}
    return InvalidRequest(f"The argument {name} {sentence}. Nothing was sent.", envelope=envelope)
