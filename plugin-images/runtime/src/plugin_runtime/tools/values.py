"""A caller's values, by the type that they are for: what JSON cannot say, and what msgspec does not look at. Pure.

`Reader`: numbers without a fraction become integers, base64 becomes bytes, unknown keys of objects are refused.
`checker`: the checks of `hints.CHECKS`, on values that have been converted.
"""

from __future__ import annotations

import binascii
import datetime as dt
import decimal
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect as types

from plugin_runtime.tools.hints import CHECKS, Check
from plugin_runtime.tools.plugin_errors import message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Convert = Callable[[Any, str], Any]

BASE64_EXPECTED = "a base64 string or data URL is expected; a file is sent as multipart"
MAX_EXACT = 2.0**63
"""Beyond it a float is no integer that a caller means."""
BYTES = (types.BytesType, types.ByteArrayType, types.MemoryViewType)
LISTS = (types.ListType, types.SetType, types.FrozenSetType, types.VarTupleType, types.CollectionType)
DICTS = tuple(kind for name in ("DictType", "FrozenDictType") if (kind := getattr(types, name, None)))
STANDARD, URL_SAFE = b"+/", b"-_"


class Unfit(Exception):  # noqa: N818 - the caller's mistake
    """`sentence` says what is expected at `path`, which is as msgspec writes paths: `.a[0].b`."""

    def __init__(self, path: str, sentence: str, *, value: Any = msgspec.UNSET, shown: bool = True) -> None:
        super().__init__(sentence)
        self.path = path
        self.sentence = sentence
        self.value = value  # UNSET: the one at the path
        self.shown = shown  # whether the value belongs behind the sentence


class Reader:
    """How values of each JSON type are read. None in place of a function: as they are."""

    def __init__(self) -> None:
        self.reads: dict[type, Convert | None] = {}
        self.has_objects = False
        self.keys: list[Any] = []
        """The keys that its objects may have, where these are enumerated."""

    def __call__(self, value: Any, path: str) -> Any:
        """The value for msgspec. Raises Unfit."""
        read = self.reads.get(type(value))
        return value if read is None else read(value, path)


def reader(info: types.Type) -> Reader:
    """For the values of a type."""
    return _Readers().of(info)


class _Readers:
    def __init__(self) -> None:
        self._by_class: dict[int, Reader] = {}
        self._infos: list[types.Type] = []  # so that their ids stay theirs

    def of(self, info: types.Type) -> Reader:
        while isinstance(info, types.Metadata):
            info = info.type
        known = self._by_class.get(id(info))
        if known is None:
            known = self._by_class[id(info)] = Reader()
            self._infos.append(info)
            self._fill(known, info)
        return known

    def _fill(self, found: Reader, info: types.Type) -> None:
        reads = found.reads
        if isinstance(info, types.AnyType):
            reads.update(dict.fromkeys((float, str, list, dict)))
        elif isinstance(info, types.FloatType):
            reads[float] = None
        elif isinstance(info, types.IntType) or _takes_integers(info):
            reads[float] = _integer
        elif isinstance(info, BYTES):
            reads[str] = _bytes
        elif not self._fill_array(found, info) and not self._fill_object(found, info):
            if isinstance(info, types.UnionType):
                self._merge(found, [self.of(option) for option in info.types])
            elif not isinstance(info, types.BoolType | types.NoneType):
                reads[str] = None  # dates and their kind

    def _fill_array(self, found: Reader, info: types.Type) -> bool:
        if isinstance(info, LISTS):
            self._read(found, list, _items, [info.item_type])
        elif isinstance(info, types.TupleType):
            self._read(found, list, _tuple_items, info.item_types)
        elif isinstance(info, types.NamedTupleType):
            self._read(found, list, _tuple_items, [field.type for field in info.fields])
        elif isinstance(info, types.StructType) and info.array_like:
            tag = [types.AnyType()] if info.tag_field else []
            self._read(found, list, _tuple_items, [*tag, *(field.type for field in info.fields)])
        else:
            return False
        return True

    def _fill_object(self, found: Reader, info: types.Type) -> bool:
        if isinstance(info, DICTS):
            self._read(found, dict, _values, [info.value_type])
            found.keys = [*found.keys, *_choices(info.key_type)]
        elif isinstance(info, types.StructType | types.DataclassType | types.TypedDictType):
            found.has_objects = True
            fields = {field.encode_name: self.of(field.type) for field in info.fields}
            tag_field = getattr(info, "tag_field", None)
            if tag_field:
                fields[tag_field] = Reader()
            self._add(found, dict, _object(info.cls.__name__, fields), fields.values())
        else:
            return False
        return True

    def _read(self, found: Reader, kind: type, read: Any, infos: Iterable[types.Type]) -> None:
        inner = [self.of(info) for info in infos]
        self._add(found, kind, read(inner), inner)

    def _add(self, found: Reader, kind: type, read: Convert, inner: Iterable[Reader]) -> None:
        found.reads[kind] = read
        found.has_objects = found.has_objects or any(each.has_objects for each in inner)
        found.keys = [key for each in inner for key in each.keys]

    def _merge(self, found: Reader, options: list[Reader]) -> None:
        tagged: list[Convert] = []
        for option in options:
            found.has_objects = found.has_objects or option.has_objects
            found.keys += option.keys
            for kind, read in option.reads.items():
                if kind is dict and read is not None:
                    tagged.append(read)
                # What an option takes as it is, is left as it is.
                found.reads[kind] = None if kind in found.reads and None in (read, found.reads[kind]) else read
        if len(tagged) > 1:  # structs with tags, which msgspec distinguishes
            found.reads[dict] = _first_that_fits(tagged)


def _choices(info: types.Type) -> list[Any]:
    if isinstance(info, types.LiteralType):
        return list(info.values)
    return [member.value for member in info.cls] if isinstance(info, types.EnumType) else []


def _takes_integers(info: types.Type) -> bool:
    return any(isinstance(value, int) for value in _choices(info))


def _integer(value: float, _: str) -> Any:
    return int(value) if value.is_integer() and abs(value) < MAX_EXACT else value


def _bytes(value: str, path: str) -> bytes:
    try:
        return decode_base64(value)
    except ValueError:
        raise Unfit(path, BASE64_EXPECTED) from None


def decode_base64(text: str) -> bytes:
    """Standard or URL-safe alphabet, padded or not, with white space, also as a data URL. Raises ValueError."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("a data URL that is not base64")
        if "%" in text:
            from urllib.parse import unquote  # noqa: PLC0415 - for few

            text = unquote(text)
    data = b"".join(text.encode("ascii").split())
    if b"-" in data or b"_" in data:
        if b"+" in data or b"/" in data:
            raise ValueError("two alphabets in one")
        data = data.translate(bytes.maketrans(URL_SAFE, STANDARD))
    digits = data.rstrip(b"=")
    if len(digits) % 4 == 1 or len(data) - len(digits) > 2:
        raise ValueError("no base64 has this length")
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)


def _items(inner: list[Reader]) -> Convert:
    read = inner[0]

    def read_items(value: list[Any], path: str) -> list[Any]:
        return [read(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return read_items


def _tuple_items(inner: list[Reader]) -> Convert:
    def read_items(value: list[Any], path: str) -> list[Any]:
        pairs = enumerate(value)
        return [inner[index](item, f"{path}[{index}]") if index < len(inner) else item for index, item in pairs]

    return read_items


def _values(inner: list[Reader]) -> Convert:
    read = inner[0]

    def read_values(value: dict[str, Any], path: str) -> dict[str, Any]:
        return {key: read(item, f"{path}.{key}") for key, item in value.items()}

    return read_values


def _object(name: str, fields: dict[str, Reader]) -> Convert:
    def read_object(value: dict[str, Any], path: str) -> dict[str, Any]:
        for key in value:
            if key not in fields:
                known = ", ".join(fields) or "none"
                raise Unfit(f"{path}.{key}", f"{name} has no field {key[:60]!r}; it takes: {known}", shown=False)
        return {key: fields[key](item, f"{path}.{key}") for key, item in value.items()}

    return read_object


def _first_that_fits(options: list[Convert]) -> Convert:
    def read(value: Any, path: str) -> Any:
        for option in options[:-1]:
            try:
                return option(value, path)
            except Unfit:
                continue
        return options[-1](value, path)

    return read


def checker(info: types.Type) -> Convert | None:
    """A function that raises Unfit where a check does not hold. None: there is nothing to check."""
    return _Checkers().of(info) if _has_checks(info, set()) else None


def _has_checks(info: types.Type, seen: set[int]) -> bool:
    if id(info) in seen:
        return False
    seen.add(id(info))
    if isinstance(info, types.Metadata) and CHECKS in (info.extra or {}):
        return True
    return any(_has_checks(inner, seen) for inner in _inner(info))


def _inner(info: types.Type) -> list[types.Type]:
    if isinstance(info, types.UnionType):
        return list(info.types)
    if isinstance(info, types.TupleType):
        return list(info.item_types)
    names = ("type", "item_type", "key_type", "value_type")
    found = [inner for name in names if isinstance(inner := getattr(info, name, None), types.Type)]
    return [*found, *(field.type for field in getattr(info, "fields", ()))]


class _Checkers:
    """A class within itself is checked by the function that is still being made for it."""

    def __init__(self) -> None:
        self._made: dict[int, Convert | None] = {}
        self._infos: list[types.Type] = []  # so that their ids stay theirs

    def of(self, info: types.Type) -> Convert | None:
        key = id(info)
        if key in self._made:
            made = self._made
            return lambda value, path: check(value, path) if (check := made[key]) is not None else None
        self._infos.append(info)
        self._made[key] = None
        self._made[key] = found = self._make(info)
        return found

    def _make(self, info: types.Type) -> Convert | None:
        if isinstance(info, types.Metadata):
            checks = tuple((info.extra or {}).get(CHECKS, ()))
            return _all([*(_holds(check) for check in checks), self.of(info.type)])
        if isinstance(info, types.UnionType):
            options = [(_classes(option), check) for option in info.types if (check := self.of(option))]
            return _of_option(options) if options else None
        if isinstance(info, LISTS):
            return _each(self.of(info.item_type), "list")
        if isinstance(info, DICTS):
            return _each(self.of(info.value_type), "dict")
        if isinstance(info, types.TupleType):
            return _fields([(index, f"[{index}]", self.of(each)) for index, each in enumerate(info.item_types)])
        fields = getattr(info, "fields", ())
        return _fields([(each.name, f".{each.encode_name}", self.of(each.type)) for each in fields])


def _holds(check: Check) -> Convert:
    def hold(value: Any, path: str) -> None:
        try:
            holds = check.holds(value)
        except BaseException as error:  # noqa: BLE001 - the author's
            raise Unfit(path, f"{type(error).__name__}: {message_of(error)}") from None
        if not holds:
            raise Unfit(path, f"expected {check.expected}")

    return hold


def _all(checks: list[Convert | None]) -> Convert | None:
    given = [check for check in checks if check is not None]
    if not given:
        return None

    def hold(value: Any, path: str) -> None:
        for check in given:
            check(value, path)

    return hold


def _each(check: Convert | None, kind: str) -> Convert | None:
    if check is None:
        return None

    def hold(value: Any, path: str) -> None:
        pairs = value.items() if kind == "dict" else enumerate(value)
        for key, item in pairs:
            check(item, f"{path}.{key}" if kind == "dict" else f"{path}[{key}]")

    return hold


def _fields(fields: list[tuple[Any, str, Convert | None]]) -> Convert | None:
    checked = [(name, step, check) for name, step, check in fields if check is not None]
    if not checked:
        return None

    def hold(value: Any, path: str) -> None:
        for name, step, check in checked:
            if isinstance(name, int):
                check(value[name], path + step)
            elif not isinstance(value, dict):
                check(getattr(value, name), path + step)
            elif name in value:
                check(value[name], path + step)

    return hold


def _of_option(options: list[tuple[tuple[type, ...], Convert]]) -> Convert:
    def hold(value: Any, path: str) -> None:
        for classes, check in options:
            if isinstance(value, classes) and not (isinstance(value, bool) and bool not in classes):
                check(value, path)
                return

    return hold


_CLASSES: dict[type[types.Type], tuple[type, ...]] = {
    types.AnyType: (object,),
    types.BoolType: (bool,),
    types.IntType: (int,),
    types.FloatType: (float,),
    types.StrType: (str,),
    types.BytesType: (bytes,),
    types.ByteArrayType: (bytearray,),
    types.MemoryViewType: (memoryview,),
    types.DateTimeType: (dt.datetime,),
    types.DateType: (dt.date,),
    types.TimeType: (dt.time,),
    types.TimeDeltaType: (dt.timedelta,),
    types.DecimalType: (decimal.Decimal,),
    types.ListType: (list,),
    types.SetType: (set,),
    types.FrozenSetType: (frozenset,),
    types.VarTupleType: (tuple,),
    types.TupleType: (tuple,),
    types.CollectionType: (list, tuple, set, frozenset),
    types.DictType: (dict,),
    types.TypedDictType: (dict,),
}


def _classes(info: types.Type) -> tuple[type, ...]:
    """The classes of a type's values."""
    while isinstance(info, types.Metadata):
        info = info.type
    known = _CLASSES.get(type(info))
    if known is not None:
        return known
    cls = getattr(info, "cls", None)
    return (cls,) if isinstance(cls, type) else ()
