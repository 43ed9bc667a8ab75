"""Whatever a tool returns becomes JSON or a sentence that says which of its values is none."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from typing import Any

import msgspec
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
    (circle, ["RecursionError"]),
    (Broken(), ["SystemExit"]),
]


@pytest.mark.parametrize(("value", "phrases"), BAD)
def test_what_json_cannot_express_is_refused_with_its_path(value, phrases):
    with pytest.raises(Refused) as refused:
        encode_result(value, 1000)
    assert refused.value.refusal.kind == "invalid_output"
    for phrase in phrases:
        assert phrase in refused.value.refusal.error


def test_a_result_over_the_limit_is_refused_with_both_sizes():
    with pytest.raises(Refused) as refused:
        encode_result("x" * 1000, 1001)
    assert "1002 bytes" in refused.value.refusal.error
    assert "1001 are allowed" in refused.value.refusal.error
    assert encode_result("x" * 1000, 1002)
