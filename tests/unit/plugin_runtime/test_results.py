"""Whatever a tool returns becomes JSON or a sentence that says which of its values is none."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import itertools
import json
import math
import pathlib
import types
import typing
import uuid
import zoneinfo
from typing import Any

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from plugin_runtime.tools.refusals import Refused
from plugin_runtime.tools.results import encode_result


class Scalar:
    """As a NumPy scalar."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value


class Array(Scalar):
    """As a NumPy array."""

    def tolist(self) -> Any:
        return self.value


class Broken:
    def tolist(self) -> Any:
        raise SystemExit(1)


@dataclasses.dataclass
class Box:
    x: float
    label: Any = None


class Shape(msgspec.Struct):
    box: Any


class Colour(enum.Enum):
    RED = "red"


GOOD = [
    (None, b"null"),
    ({"a": [1, 2.5, "x", None, True]}, b'{"a":[1,2.5,"x",null,true]}'),
    ((1, {2}), b"[1,[2]]"),
    (b"hi", b'"aGk="'),
    (dt.date(2024, 5, 1), b'"2024-05-01"'),
    (Colour.RED, b'"red"'),
    (Box(1.0), b'{"x":1.0,"label":null}'),
    (Shape([1]), b'{"box":[1]}'),
    ({"a": Scalar(3)}, b'{"a":3}'),
    (Array([[1, 2], [3, 4]]), b"[[1,2],[3,4]]"),
    ({"boxes": [Box(1.0, Array([1]))]}, b'{"boxes":[{"x":1.0,"label":[1]}]}'),
    ({1: "one"}, b'{"1":"one"}'),
]


@pytest.mark.parametrize(("value", "expected"), GOOD)
def test_what_json_can_express_is_written(value, expected):
    assert encode_result(value, 1000) == expected


class Text(str):
    """As lxml's and BeautifulSoup's strings."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


class Number(int):
    def __int__(self) -> int:
        return -1


class Ratio(float):
    pass


class Members(list):
    pass


class Pair(typing.NamedTuple):
    left: int
    right: Any = None


class Level(enum.IntEnum):
    HIGH = 2


class Flags(enum.Flag):
    A = 1
    B = 2


class Shade(str, enum.Enum):  # noqa: UP042 - as authors write it
    DARK = "dark"


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    label: str = "point"
    _private: int = 1
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Slotted:
    x: int
    more: Any = None


@attrs.define
class Mark:
    at: Any
    weight: float = 1.0


class Line(msgspec.Struct, tag="line", rename="camel"):
    start_at: Any
    width: int = 1


class Coordinates(msgspec.Struct, array_like=True):
    x: int
    more: Any = None


class Person(pydantic.BaseModel):
    name: str
    born: dt.date = dt.date(2000, 1, 1)
    home: pathlib.PurePosixPath = pathlib.PurePosixPath("/home")
    extra: Any = None


class Names(pydantic.RootModel[list[str]]):
    pass


class Timestamp(dt.datetime):
    """As pandas'."""


class NotATime(Timestamp):
    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = Timestamp.__hash__


class LongDouble:
    """As NumPy's: `item` gives the same type again."""

    def item(self) -> LongDouble:
        return self

    def __float__(self) -> float:
        return 1.5


class Dates:
    """As a NumPy array of dates."""

    dtype = types.SimpleNamespace(kind="M")

    def astype(self, unit: str) -> Array:
        assert unit == "datetime64[us]"
        return Array([dt.datetime(2024, 5, 1)])  # noqa: DTZ001 - NumPy has no zones

    def tolist(self) -> Any:
        return [1714521600000000000]


class Folder:
    def __fspath__(self) -> str:
        return "/a/b"


def made_by_msgspec(kind: Any, **values: Any) -> Any:
    """As an argument is: fields with a default that was not given are missing in `__dict__`."""
    return msgspec.convert(values, kind)


KINDS = {
    "string subclass": (Text("a"), "a"),
    "int subclass": (Number(3), 3),
    "float subclass": (Ratio(0.5), 0.5),
    "list subclass": (Members([Text("a")]), ["a"]),
    "ordered dict": (collections.OrderedDict(a=1), {"a": 1}),
    "default dict": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "chain map": (collections.ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    "user dict": (collections.UserDict(a=(1,)), {"a": [1]}),
    "user list": (collections.UserList([1]), [1]),
    "user string": (collections.UserString("a"), "a"),
    "mapping proxy": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "namespace": (types.SimpleNamespace(a=1), {"a": 1}),
    "named tuple": (Pair(1, Pair(2)), [1, [2, None]]),
    "frozen set": (frozenset({1}), [1]),
    "deque": (collections.deque([1, Text("a")]), [1, "a"]),
    "range": (range(3), [0, 1, 2]),
    "keys": ({"a": 1}.keys(), ["a"]),
    "values": ({"a": Text("b")}.values(), ["b"]),
    "items": ({"a": 1}.items(), [["a", 1]]),
    "map": (map(str, [1, 2]), ["1", "2"]),
    "zip": (zip([1], [2], strict=True), [[1, 2]]),
    "enumerate": (enumerate("a"), [[0, "a"]]),
    "iterator": (iter([1, 2]), [1, 2]),
    "reversed": (reversed([1, 2]), [2, 1]),
    "chain": (itertools.chain([1], [2]), [1, 2]),
    "islice of count": (itertools.islice(itertools.count(), 2), [0, 1]),
    "repeat": (itertools.repeat(1, 2), [1, 1]),
    "int enum": (Level.HIGH, 2),
    "flags": (Flags.A | Flags.B, 3),
    "string enum": (Shade.DARK, "dark"),
    "dataclass": (Point(1.0), {"x": 1.0, "y": 0.0, "label": "point", "_private": 1, "tags": []}),
    "dataclass of a caller": (
        made_by_msgspec(Point, x=1.0),
        {"x": 1.0, "y": 0.0, "label": "point", "_private": 1, "tags": []},
    ),
    "dataclass with slots": (Slotted(1, Pair(1)), {"x": 1, "more": [1, None]}),
    "attrs": (Mark(Level.HIGH), {"at": 2, "weight": 1.0}),
    "attrs of a caller": (made_by_msgspec(Mark, at=1), {"at": 1, "weight": 1.0}),
    "struct": (Line(Text("a")), {"type": "line", "startAt": "a", "width": 1}),
    "struct as array": (Coordinates(1, {2}), [1, [2]]),
    "pydantic model": (Person(name="A"), {"name": "A", "born": "2000-01-01", "home": "/home", "extra": None}),
    "pydantic model with a foreign field": (
        Person(name="A", extra=Array([1])),
        {"name": "A", "born": "2000-01-01", "home": "/home", "extra": [1]},
    ),
    "pydantic root model": (Names(["a"]), ["a"]),
    "pydantic url": (pydantic.HttpUrl("http://a/b"), "http://a/b"),
    "path": (pathlib.Path("/a/b"), "/a/b"),
    "path-like": (Folder(), "/a/b"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "decimal": (decimal.Decimal("1.50"), "1.50"),
    "address": (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    "network": (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    "zone": (zoneinfo.ZoneInfo("UTC"), "UTC"),
    "time": (dt.time(12, 30), "12:30:00"),
    "duration": (dt.timedelta(seconds=90), "PT90S"),
    "datetime subclass": (Timestamp(2024, 5, 1, 12, tzinfo=dt.UTC), "2024-05-01T12:00:00Z"),
    "bytes": (b"hi", "aGk="),
    "bytearray": (bytearray(b"hi"), "aGk="),
    "memory view": (memoryview(b"hiho")[::2], "aGg="),
    "array": (array.array("d", [1.5]), [1.5]),
    "array without dimensions": (Array(2.5), 2.5),
    "array of objects": (Array([Text("a"), Pair(1)]), ["a", [1, None]]),
    "array of dates": (Dates(), ["2024-05-01T00:00:00"]),
    "extended precision": (LongDouble(), 1.5),
    "large integer": (2**80, 2**80),
    "large negative integer": (-(2**63) - 1, -(2**63) - 1),
}


@pytest.mark.parametrize(("value", "expected"), KINDS.values(), ids=KINDS)
def test_whatever_has_one_obvious_json_form_is_written(value: Any, expected: Any) -> None:
    """Iterators only once."""
    assert json.loads(encode_result(value, 1000)) == expected


NESTED = {name: case for name, case in KINDS.items() if not hasattr(case[0], "__next__")}


@pytest.mark.parametrize(("value", "expected"), NESTED.values(), ids=NESTED)
def test_it_is_written_wherever_it_stands(value: Any, expected: Any) -> None:
    """Also far down, and among many plain values."""
    many = [{"plain": number} for number in range(100)]
    for result, decoded in (
        ({"a": [1, (value,)]}, {"a": [1, [expected]]}),
        ([*many, value], [*many, expected]),
        ({"many": list(range(100)), "b": value}, {"many": list(range(100)), "b": expected}),
        (Slotted(1, {"deep": [value]}), {"x": 1, "more": {"deep": [expected]}}),
        (Person.model_construct(name="A", extra=[value]).__dict__["extra"], [expected]),
    ):
        assert json.loads(encode_result(result, 100_000)) == decoded


KEYS = [
    (1, "1"),
    (Number(2), "2"),
    (True, "true"),
    (None, "null"),
    (1.5, "1.5"),
    (Text("a"), "a"),
    (Level.HIGH, "2"),
    (Colour.RED, "red"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (dt.date(2024, 5, 1), "2024-05-01"),
    (pathlib.PurePosixPath("/a"), "/a"),
    (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    (decimal.Decimal("1.0"), "1.0"),
    (Number(2**70), str(2**70)),
]


@pytest.mark.parametrize(("key", "expected"), KEYS)
def test_whatever_can_be_a_string_is_a_key(key: Any, expected: str) -> None:
    for result in ({key: 0}, {"a": {key: 0}}, {"a": [{key: 0}] * 100}):
        assert json.loads(encode_result(result, 10_000)) == json.loads(
            encode_result(_with_key(result, expected), 10_000)
        )


def _with_key(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name if name == "a" else key: _with_key(member, key) for name, member in value.items()}
    return [_with_key(member, key) for member in value] if isinstance(value, list) else value


circle: list[Any] = []
circle.append(circle)

BAD = [
    (float("nan"), ["result is nan"]),
    ({"scores": [None, 1.0, float("inf")]}, ["result.scores[2] is inf"]),
    (Array([1.0, float("nan")]), ["result[1] is nan"]),
    (Box(float("-inf")), ["result.x is -inf"]),
    (Shape(Box(1.0, float("nan"))), ["result.box.label is nan"]),
    ({"a": [1, object()]}, ["result.a[1] is a object"]),
    (Shape([Box(1.0, {1, object})]), ["type"]),
    ((i for i in [1]), ["result is a generator", "yield from the tool itself"]),
    ({(1, 2): 3}, ["tuple as the key"]),
    ("\ud800", ["UnicodeEncodeError"]),
    (circle, ["result[0] contains itself"]),
    (Broken(), ["SystemExit"]),
    ({1: "a", "1": "b"}, ["two keys", "'1'"]),
    ({"a": [{True: 0, "true": 1}]}, ["result.a[0] has two keys"]),
    (
        [{"x": {"y": {1: 0, "1": 1}}} for _ in range(40)],
        ["result[0].x.y has two keys that both are '1' in JSON; rename"],
    ),
    ({str(key): [{"k": {2.0: 0, "2.0": 1}}] for key in range(60)}, ["result.0[0].k has two keys"]),
    ({float("nan"): 1}, ["key nan"]),
    ({frozenset({1}): 1}, ["frozenset as the key"]),
    ({"a": itertools.count()}, ["result.a is a itertools.count"]),
    (itertools.repeat(1), ["result is a itertools.repeat"]),
    ([1 + 2j], ["result[0] is a complex"]),
    ([0] * 100 + [{"a": 1j}], ["result[100].a is a complex"]),
    ({"a": int}, ["result.a is a type"]),
    ({"a": len}, ["builtin_function_or_method"]),
    (NotATime(2024, 5, 1), ["cannot express", "return None instead"]),
    (Slotted(1, {"a": object()}), ["result.more.a is a object"]),
    (Mark(math.inf), ["result.at is inf"]),
    ([[Person(name="A", extra=math.nan)]], ["result[0][0].extra is nan"]),
    ([[Ratio("nan")]], ["result[0][0] is nan"]),
]


@pytest.mark.parametrize(("value", "phrases"), BAD)
def test_what_json_cannot_express_is_refused_with_its_path(value, phrases):
    with pytest.raises(Refused) as refused:
        encode_result(value, 1000)
    assert refused.value.refusal.kind == "invalid_output"
    for phrase in phrases:
        assert phrase in refused.value.refusal.error


def test_a_value_that_is_nested_too_deep_is_refused_with_a_sentence():
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(Refused) as refused:
        encode_result(deep, 100_000)
    assert "nested deeper than" in refused.value.refusal.error
    deep = Text("a")
    for _ in range(150):
        deep = {"a": deep}
    assert encode_result(deep, 100_000).count(b"a") == 151


def test_one_value_may_stand_in_two_places():
    both = Pair(1)
    assert encode_result({"a": both, "b": both}, 1000) == b'{"a":[1,null],"b":[1,null]}'


def test_a_result_over_the_limit_is_refused_with_both_sizes():
    with pytest.raises(Refused) as refused:
        encode_result("x" * 1000, 1001)
    assert "1002 bytes" in refused.value.refusal.error
    assert "1001 are allowed" in refused.value.refusal.error
    assert encode_result("x" * 1000, 1002)


NUMPY = {
    "float": (np.float64(0.5), 0.5),
    "half": (np.float16(0.5), 0.5),
    "long": (np.longdouble(1.5), 1.5),
    "integer": (np.int64(3), 3),
    "bool": (np.bool_(1), True),
    "string": (np.str_("a"), "a"),
    "bytes": (np.bytes_(b"hi"), "aGk="),
    "matrix": (np.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
    "no dimensions": (np.array(2), 2),
    "empty": (np.zeros((0, 4)), []),
    "objects": (np.array([Text("a"), None], dtype=object), ["a", None]),
    "date": (np.datetime64("2024-05-01T12:00:00.000000000"), "2024-05-01T12:00:00"),
    "dates": (np.array(["2024-05-01"], dtype="datetime64[ns]"), ["2024-05-01T00:00:00"]),
    "duration": (np.timedelta64(90, "s"), "PT90S"),
    "record": (np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]), [[1, 2.5]]),
    "masked": (np.ma.array([1, 2], mask=[False, True]), [1, None]),
    "key": ({np.int64(1): 1, np.str_("b"): 2}, {"1": 1, "b": 2}),
}


@pytest.mark.parametrize(("value", "expected"), NUMPY.values(), ids=NUMPY)
def test_whatever_numpy_makes_is_written(value: Any, expected: Any) -> None:
    assert json.loads(encode_result(value, 1000)) == expected
    assert json.loads(encode_result({"a": [value], "b": list(range(100))}, 1000))["a"] == [expected]


def test_a_large_array_with_a_nan_in_it_is_refused() -> None:
    array_ = np.zeros(10_000)
    array_[5] = np.nan
    with pytest.raises(Refused, match=r"result\.a\[5\] is nan"):
        encode_result({"a": array_}, 1_000_000)
