"""Whatever has one obvious JSON form → dicts with strings as keys, lists and scalars.

Libraries are recognised by what their objects have, so that none need be imported.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import math
import operator
import os
import types
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
}
"""By the name of a type; for all others: return plain values."""
IMAGE_ADVICE = 'save it to bytes and return those: image.save(buffer, "PNG"), then buffer.getvalue()'


class UnfitValue(TypeError):  # noqa: N818 - what is wrong, for the operator
    """A value that JSON cannot express. `steps` lead to it from the result, the last first."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str] = []

    def sentence(self) -> str:
        """What is wrong, where, and what to do."""
        return f"result{''.join(reversed(self.steps))} {self.problem}"


def to_plain(value: Any) -> Any:
    """Raises UnfitValue, and whatever the value's own code raises."""
    return _convert(value, set())


def _convert(value: Any, within: set[int]) -> Any:
    kind = type(value)
    if kind in SCALARS and kind is not int:
        return value
    if isinstance(value, (str, int, float, bytes, enum.Enum)):
        return _scalar(value, within)
    if kind in WRITTEN_BY_MSGSPEC:
        return value
    if id(value) in within:
        raise UnfitValue("contains itself; return plain values")
    if len(within) > MAX_DEPTH:
        raise UnfitValue(f"is nested deeper than {MAX_DEPTH} levels; return a flatter value")
    within.add(id(value))
    try:
        return _composite(value, within)
    finally:
        within.discard(id(value))


def _scalar(value: Any, within: set[int]) -> Any:
    if isinstance(value, enum.Enum):
        return _convert(value.value, within)
    # The base's own method: a subclass may have replaced it.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, bool):
        return value
    number = int.__int__(value)
    return number if MIN_INTEGER <= number <= MAX_INTEGER else msgspec.Raw(str(number).encode())


def _composite(value: Any, within: set[int]) -> Any:
    if isinstance(value, type):
        raise _unfit(value)
    fields = _fields(value)
    if fields is not None:
        return _object(fields, within)
    members = _members(value)
    if members is not None:
        return _array(members, within)
    for convert in (_date_or_time, _as_text, _by_a_library):
        converted = convert(value)
        if converted is not value:
            return _convert(converted, within)
    raise _unfit(value)


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
        dumped = value.model_dump(mode="json")
        if b"null" in msgspec.json.encode(dumped):
            _require_finite(value.model_dump())  # pydantic writes None for NaN
    except UnfitValue:
        raise
    except Exception:  # noqa: BLE001 - a field that pydantic cannot write, and that may be written here
        return dict(_attributes(value, type(value).model_fields))
    return dumped


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


def _object(items: Iterable[tuple[Any, Any]], within: set[int]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, member in items:
        name = key if type(key) is str else _key(key)
        if name in plain:
            raise UnfitValue(f"has two keys that both are {name!r} in JSON; rename one")
        try:
            plain[name] = member if type(member) in SCALARS and type(member) is not int else _convert(member, within)
        except UnfitValue as unfit:
            unfit.steps.append(f".{name}")
            raise
    return plain


def _array(members: Iterable[Any], within: set[int]) -> list[Any]:
    if type(members) is list and _SAFE.issuperset(map(type, members)):
        return members  # the usual case of large ones: numbers of an array
    plain = []
    for index, member in enumerate(members):
        try:
            plain.append(_convert(member, within))
        except UnfitValue as unfit:
            unfit.steps.append(f"[{index}]")
            raise
    return plain


_SAFE = frozenset({str, float, bool, type(None)})


def _key(key: Any) -> str:
    """A key of a dict as JSON's string, as Python's own json module writes it."""
    plain = _convert(key, set())
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
    if module.partition(".")[0] == "PIL" and hasattr(value, "save"):
        advice = IMAGE_ADVICE
    else:
        advice = ADVICE.get(kind.__name__, "return plain values")
    return UnfitValue(f"is a {name}; {advice}")
