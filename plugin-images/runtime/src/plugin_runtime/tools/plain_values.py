"""Whatever has one obvious JSON form → dicts with strings as keys, lists and scalars; files → what stands for them.

Libraries are recognised by what their objects have, so that none need be imported.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import math
import operator
import os
import sys
import types
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from plugin_runtime.authoring import File, is_media_type
from plugin_runtime.tools.output_files import UnusableFile, encoded_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from plugin_runtime.tools.output_files import OutputFiles

SCALARS = frozenset({str, int, float, bool, type(None), bytes})
CONTAINERS = frozenset({dict, list, tuple})
MAX_DEPTH = 200
WRITTEN_BY_MSGSPEC = frozenset({dt.date, dt.datetime, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal})
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # of those that msgspec writes
ENDLESS = frozenset({"count", "cycle"})  # of itertools
ADVICE = {
    "generator": "yield from the tool itself to stream",
    "async_generator": "yield from the tool itself to stream",
    "coroutine": "await it",
    "Future": "return what it results in",
    "DataFrame": 'return frame.to_dict("records")',
    "BytesIO": "return its getvalue(), or File(its getvalue(), media_type)",
    "Figure": 'save it (figure.savefig) into a BytesIO and return File(buffer.getvalue(), "image/png")',
    "PilImage": "return its get_image()",
}
"""By the name of a type; for all others: return plain values."""
BYTES = (bytes, bytearray, memoryview)
DEFAULT_NAME = "result"
"""Of a file that stands under no key."""


class UnfitValue(TypeError):  # noqa: N818 - what is wrong, for the operator
    """A value that JSON cannot express. `steps` lead to it from the result, the last first."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str] = []

    def sentence(self) -> str:
        """What is wrong, where, and what to do."""
        return f"result{''.join(reversed(self.steps))} {self.problem}"


class _Walk:
    """`within`: the ids of the values that are being converted. `name`: the last key on the way to them."""

    __slots__ = ("files", "name", "within")

    def __init__(self, files: OutputFiles | None) -> None:
        self.files = files
        self.name = DEFAULT_NAME
        self.within: set[int] = set()


def to_plain(value: Any, files: OutputFiles | None = None) -> Any:
    """Files become members of `files`, and their marks stand for them; bytes stay what they are where that is None.
    Raises UnfitValue, and whatever the value's own code raises.
    """
    return _convert(value, _Walk(files))


def _convert(value: Any, walk: _Walk) -> Any:
    kind = type(value)
    if kind in SCALARS and kind is not int and kind is not bytes:
        return value
    if isinstance(value, (str, int, float, bytes, enum.Enum)):
        return _scalar(value, walk)
    if kind in WRITTEN_BY_MSGSPEC:
        return value
    within = walk.within
    if id(value) in within:
        raise UnfitValue("contains itself; return plain values")
    if len(within) > MAX_DEPTH:
        raise UnfitValue(f"is nested deeper than {MAX_DEPTH} levels; return a flatter value")
    within.add(id(value))
    try:
        return _composite(value, walk)
    finally:
        within.discard(id(value))


def _scalar(value: Any, walk: _Walk) -> Any:
    if isinstance(value, enum.Enum):
        return _convert(value.value, walk)
    # The base's own method: a subclass may have replaced it.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        # NumPy's are texts of a fixed length, thousands in an array.
        return bytes(value) if walk.files is None or hasattr(value, "dtype") else _file(value, None, None, walk)
    if isinstance(value, bool):
        return value
    number = int.__int__(value)
    return number if MIN_INTEGER <= number <= MAX_INTEGER else msgspec.Raw(str(number).encode())


def _composite(value: Any, walk: _Walk) -> Any:
    if isinstance(value, type):
        raise _unfit(value)
    if isinstance(value, File):
        return _file(value.content, value.media_type, value.name, walk)
    if is_pil_image(value):
        return _file(*encoded_image(value), None, walk)
    fields = _fields(value)
    if fields is not None:
        return _object(fields, walk) if walk.files is None else _object_or_file(list(fields), walk)
    members = _members(value)
    if members is not None:
        return _array(members, walk)
    if getattr(getattr(value, "dtype", None), "kind", None) == "S":  # as in `_scalar`
        walk = _Walk(None)
    for convert in (_date_or_time, _as_text, _by_a_library):
        converted = convert(value)
        if converted is not value:
            return _convert(converted, walk)
    raise _unfit(value)


def is_pil_image(value: Any) -> bool:
    """Whether it is an image of PIL, which is not imported for this."""
    module = sys.modules.get("PIL.Image")
    kind = getattr(module, "Image", None)
    return isinstance(kind, type) and isinstance(value, kind)


def _file(content: Any, media_type: str | None, name: str | None, walk: _Walk) -> str:
    if walk.files is None:
        raise UnfitValue("is a file, which cannot stand here; return or yield it outside")
    try:
        return walk.files.add(content, media_type, name, stem=walk.name)
    except UnusableFile as unusable:
        raise UnfitValue(str(unusable)) from None


def typed_bytes(fields: Iterable[tuple[Any, Any]]) -> tuple[Any, str] | None:
    """Bytes beside their media type, as members `data` and `media_type` of one object."""
    data = media_type = None
    for key, member in fields:
        if key == "data" and isinstance(member, BYTES):
            data = member
        elif key == "media_type" and is_media_type(member):
            media_type = member
    return None if data is None or media_type is None else (data, media_type)


def _object_or_file(fields: list[tuple[Any, Any]], walk: _Walk) -> Any:
    typed = typed_bytes(fields)
    if typed is None:
        return _object(fields, walk)
    mark = _file(*typed, None, walk)
    return mark if len(fields) == 2 else _object([(k, mark if k == "data" else m) for k, m in fields], walk)


def _fields(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Keys and values of what is an object in JSON; None for anything else."""
    kind = type(value)
    if isinstance(value, collections.abc.Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
        return items
    if isinstance(value, msgspec.Struct):
        return None if value.__struct_config__.array_like else _struct_fields(value)
    if dataclasses.is_dataclass(value):
        # Not `__dict__`, where a default that msgspec left to the class is missing, and other things are not.
        return _attributes(value, (field.name for field in dataclasses.fields(value)))
    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        return _attributes(value, (attribute.name for attribute in attributes))
    if kind is types.SimpleNamespace:
        names: dict[str, Any] = vars(value)
        return names.items()
    return None


def _attributes(value: Any, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    missing = object()
    for name in names:
        member = getattr(value, name, missing)
        if member is not missing:
            yield name, member


def _struct_fields(value: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    config = value.__struct_config__
    if config.tag is not None:
        yield config.tag_field or "type", config.tag
    for name, encoded_name in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
        member = getattr(value, name)
        if member is not msgspec.UNSET:
            yield encoded_name, member


def _members(value: Any) -> Iterable[Any] | None:  # noqa: PLR0911 - a table of kinds
    """The members of what is an array in JSON; None for anything else."""
    if isinstance(value, (list, tuple, set, frozenset, collections.deque, range)):
        return value
    if isinstance(value, msgspec.Struct):  # array_like
        return [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, (memoryview, bytearray, collections.UserString)):
        return None
    if hasattr(type(value), "tolist") and not isinstance(value, collections.abc.MappingView):
        return None
    if isinstance(value, (collections.abc.Sequence, collections.abc.Set, collections.abc.ValuesView)):
        return value
    # An iterator of Python's own, as `map` and `dict.values` give them, but no generator, which streams.
    kind = type(value)
    own = kind.__module__ in {"builtins", "itertools"} and hasattr(kind, "__next__") and not hasattr(kind, "send")
    if own and kind.__name__ not in ENDLESS and (kind.__name__ != "repeat" or operator.length_hint(value, -1) >= 0):
        members: Iterable[Any] = value
        return members
    return None


def _date_or_time(value: Any) -> Any:
    """Of a subclass: the value of its base."""
    if isinstance(value, dt.datetime):
        if value != value:  # noqa: PLR0124 - pandas' NaT
            raise UnfitValue(f"is {value}, which JSON cannot express; return None instead")
        clock = (value.hour, value.minute, value.second, value.microsecond, value.tzinfo)
        return dt.datetime(value.year, value.month, value.day, *clock, fold=value.fold)  # noqa: DTZ001 - it has its own
    if isinstance(value, dt.date):
        return dt.date(value.year, value.month, value.day)
    if isinstance(value, dt.time):
        return dt.time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)
    if isinstance(value, dt.timedelta):
        return dt.timedelta(value.days, value.seconds, value.microseconds)
    return value


def _as_text(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, collections.UserString):
        return value.data
    if isinstance(value, memoryview):
        return value.tobytes()
    if isinstance(value, bytearray):
        return bytes(value)
    modules = {base.__module__ for base in type(value).__mro__}
    text = isinstance(value, (uuid.UUID, decimal.Decimal)) or not modules.isdisjoint({"ipaddress", "zoneinfo"})
    return str(value) if text or hasattr(type(value), "unicode_string") else value  # the last: an URL of pydantic


def _by_a_library(value: Any) -> Any:
    """What the value's own method for this gives; the value itself where it has none."""
    kind = type(value)
    dump = getattr(kind, "model_dump", None)
    if callable(dump) and hasattr(kind, "model_fields"):
        return _of_model(value)
    if hasattr(kind, "__fields__") and callable(getattr(kind, "dict", None)):  # pydantic 1
        return value.dict()
    # NumPy's arrays and scalars, tensors, pandas' series.
    unit = getattr(getattr(value, "dtype", None), "kind", None)
    if unit in {"M", "m"} and hasattr(value, "astype"):  # dates; in nanoseconds they would come as numbers
        value = value.astype("datetime64[us]" if unit == "M" else "timedelta64[us]")
    for name in ("tolist", "item", "numpy"):
        method: Callable[[Any], Any] | None = getattr(type(value), name, None)
        if callable(method):
            converted = method(value)
            # Of extended precision: Python has no such type.
            return float(converted) if type(converted) is kind else converted
    return value


def _of_model(value: Any) -> Any:
    try:
        # In its JSON mode bytes are text, where they happen to be UTF-8.
        if _has_bytes(type(value)):  # type: ignore[arg-type]
            return value.model_dump()
        dumped = value.model_dump(mode="json")
        if b"null" in msgspec.json.encode(dumped):
            _require_finite(value.model_dump())  # pydantic writes None for NaN
    except UnfitValue:
        raise
    except Exception:  # noqa: BLE001 - a field that pydantic cannot write, and that may be written here
        return dict(_attributes(value, type(value).model_fields))
    return dumped


@functools.cache
def _has_bytes(model: type) -> bool:
    return "'bytes'" in repr(getattr(model, "__pydantic_core_schema__", None))


def _require_finite(dumped: Any) -> None:
    if isinstance(dumped, float) and not math.isfinite(dumped):
        raise UnfitValue(f"is {dumped}, which JSON cannot express; return None instead")
    if isinstance(dumped, dict):
        steps = ((f".{key}", member) for key, member in dumped.items())
    elif isinstance(dumped, (list, tuple)):
        steps = ((f"[{index}]", member) for index, member in enumerate(dumped))
    else:
        return
    for step, member in steps:
        try:
            _require_finite(member)
        except UnfitValue as unfit:
            unfit.steps.append(step)
            raise


def _object(items: Iterable[tuple[Any, Any]], walk: _Walk) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    outer = walk.name
    for key, member in items:
        name = key if type(key) is str else _key(key)
        if name in plain:
            raise UnfitValue(f"has two keys that both are {name!r} in JSON; rename one")
        try:
            walk.name = name
            plain[name] = member if type(member) in _SAFE else _convert(member, walk)
        except UnfitValue as unfit:
            unfit.steps.append(f".{name}")
            raise
    walk.name = outer
    return plain


def _array(members: Iterable[Any], walk: _Walk) -> list[Any]:
    if type(members) is list and _SAFE.issuperset(map(type, members)):
        return members  # the usual case of large ones: numbers of an array
    plain = []
    for index, member in enumerate(members):
        try:
            plain.append(_convert(member, walk))
        except UnfitValue as unfit:
            unfit.steps.append(f"[{index}]")
            raise
    return plain


_SAFE = frozenset({str, float, bool, type(None)})


def _key(key: Any) -> str:
    """A key of a dict as JSON's string, as Python's own json module writes it."""
    plain = _convert(key, _Walk(None))
    if isinstance(plain, (list, dict)):
        name = type(key).__name__
        raise UnfitValue(f"has a {name} as the key of a dict; JSON has only strings there")
    if isinstance(plain, str):
        return plain
    if isinstance(plain, float) and not math.isfinite(plain):
        raise UnfitValue(f"has the key {plain}, which JSON cannot express")
    return msgspec.json.encode(plain).decode().strip('"')


def _unfit(value: object) -> UnfitValue:
    kind = type(value)
    module = kind.__module__
    name = kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
    return UnfitValue(f"is a {name}; {ADVICE.get(kind.__name__, 'return plain values')}")
