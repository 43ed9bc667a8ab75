"""Bounds and descriptions in `Annotated` hold whoever made them, or the tool is refused at the start."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NewType, TypedDict

import annotated_types as at
import msgspec
import pydantic
import pytest
from plugin_runtime import Upload, tool
from plugin_runtime.tools.arguments import from_form, from_json
from plugin_runtime.tools.refusals import Refused
from plugin_runtime.tools.toolset import UnfitTool, collect_tools
from pydantic import Field
from typing_extensions import Doc

DAY = dt.date(2024, 1, 1)
Percent = NewType("Percent", Annotated[int, at.Interval(ge=0, le=100)])  # type: ignore[valid-newtype]


@dataclasses.dataclass
class Sized:
    width: Annotated[int, Field(gt=0)]
    name: Annotated[str, at.Predicate(str.islower)] = "a"


@dataclasses.dataclass
class Inherits(Sized):
    depth: Annotated[float, at.Le(1.5)] = 0.0
    inner: list[Sized] = dataclasses.field(default_factory=list)


class Typed(TypedDict, total=False):
    n: Annotated[int, at.Ge(1)]
    even: Annotated[int, at.Predicate(lambda n: n % 2 == 0)]


class Named(NamedTuple):
    n: Annotated[int, at.Lt(3)]


@dataclasses.dataclass
class Node:
    n: Annotated[int, at.Predicate(lambda n: n > 0)]
    kids: list[Node] = dataclasses.field(default_factory=list)


def _accepts(hint: Any, default: Any = ...) -> Any:
    """A tool with one parameter `n` of this hint."""

    def method(self: object, n: Any) -> None: ...

    method.__annotations__ = {"n": hint}
    if default is not ...:
        method.__defaults__ = (default,)
    return collect_tools(type("Plugin", (), {"t": tool(method)})())["t"]


BOUNDED = [
    (Annotated[int, Field(ge=1, le=5)], [1, 5, 3.0], [0, 6, 99]),
    (Annotated[int, at.Ge(1), at.Le(5)], [1, 5], [0, 6]),
    (Annotated[int, at.Gt(1), at.Lt(5)], [2, 4], [1, 5]),
    (Annotated[int, at.Interval(ge=1, lt=5)], [1, 4], [0, 5]),
    (Annotated[int, at.MultipleOf(3)], [3, 6], [4]),
    (Annotated[float, Field(ge=0, le=1)], [0, 1, 0.5], [7, -0.1]),
    (Annotated[int, at.Ge(0.5)], [1], [0]),
    (Annotated[int, at.Ge(10**20)], [10**20], [5]),
    (Annotated[float, at.Lt(float("inf"))], [1.0], []),
    (Annotated[int | None, at.Ge(1)], [None, 1], [0]),
    (Annotated[int, at.Ge(1)] | None, [None, 1], [0]),
    (Annotated[int | None, msgspec.Meta(ge=1)], [None, 1], [0]),
    (list[Annotated[int, at.Ge(1)]], [[], [1]], [[1, 0]]),
    (dict[str, Annotated[int, Field(ge=1)]], [{"a": 1}], [{"a": 0}]),
    (tuple[Annotated[int, at.Ge(1)], ...], [[1]], [[0]]),
    (Annotated[list[int], at.Len(1, 2)], [[1], [1, 2]], [[], [1, 2, 3]]),
    (Annotated[list[int], Field(min_length=1)], [[1]], [[]]),
    (Annotated[str, at.MinLen(2), at.MaxLen(3)], ["ab"], ["a", "abcd"]),
    (Annotated[str, Field(pattern="^a+$")], ["aa"], ["b"]),
    (Annotated[str, at.Predicate(str.islower)], ["a"], ["A"]),
    (list[Annotated[str, at.Predicate(str.islower)]], [["a"]], [["a", "B"]]),
    (dict[str, at.LowerCase[str]], [{"k": "a"}], [{"k": "B"}]),
    (Annotated[int, at.Predicate(lambda n: 10 // n > 1)], [1], [20, 0]),
    (Annotated[dt.date, at.Ge(DAY)], ["2024-01-01"], ["2023-12-31"]),
    (Annotated[decimal.Decimal, Field(gt=0)], ["0.1"], ["0"]),
    (Annotated[dt.timedelta, at.Lt(dt.timedelta(hours=1))], ["PT1M"], ["PT2H"]),
    (Annotated[float, Field(allow_inf_nan=False)], [1.0], []),
    (Percent, [0, 100], [101]),
    (pydantic.PositiveInt, [1], [0]),
    (pydantic.conint(ge=1, multiple_of=2), [2], [0, 3]),
    (pydantic.constr(min_length=2, pattern="a"), ["ab"], ["a", "bb"]),
    (pydantic.conlist(int, min_length=1), [[1]], [[]]),
    (pydantic.StrictInt, [1], ["1"]),
    (Sized, [{"width": 1}], [{"width": 0}, {"width": 1, "name": "A"}]),
    (Inherits, [{"width": 1, "depth": 1}], [{"width": 0}, {"width": 1, "depth": 2}, {"width": 1, "name": "B"}]),
    (Inherits, [{"width": 1, "inner": [{"width": 1}]}], [{"width": 1, "inner": [{"width": 1, "name": "C"}]}]),
    (list[Sized] | None, [None, [{"width": 1}]], [[{"width": 0}], [{"width": 1, "name": "A"}]]),
    (Typed, [{"n": 1, "even": 2}, {}], [{"n": 0}, {"even": 3}]),
    (Named, [[2]], [[3]]),
    (Node, [{"n": 1, "kids": [{"n": 1}]}], [{"n": 1, "kids": [{"n": 1, "kids": [{"n": 0}]}]}]),
    (Annotated[str, pydantic.AfterValidator(lambda s: s.encode("ascii") and s)], ["a"], ["é"]),
    (Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=1)], ["a"], ["  "]),
    (Annotated[decimal.Decimal, Field(max_digits=3)], ["1.23"], ["1.2345"]),
    (pydantic.HttpUrl, ["http://a.b/"], ["nonsense"]),
]


@pytest.mark.parametrize(("hint", "right", "wrong"), BOUNDED, ids=[str(hint)[:70] for hint, _, _ in BOUNDED])
def test_bounds_hold_whoever_made_them(hint, right, wrong):
    described = _accepts(hint)
    for value in right:
        assert "n" in from_json(described, msgspec.json.encode({"n": value}))
    for value in wrong:
        body = msgspec.json.encode({"n": value})
        with pytest.raises(Refused) as refused:
            from_json(described, body)
        assert refused.value.refusal.kind == "invalid_arguments"
        assert refused.value.refusal.error.startswith("parameter 'n'")


def test_a_number_in_a_form_is_finite_where_it_has_to_be():
    described = _accepts(Annotated[float, Field(allow_inf_nan=False)])
    with pytest.raises(Refused, match="finite"):
        from_form(described, {"n": ["nan"]}, {})


DESCRIBED = [
    Annotated[int, "how many"],
    Annotated[int, Doc("how many")],
    Annotated[int, Field(description="how many")],
    Annotated[int, msgspec.Meta(description="how many")],
    Annotated[int, at.Ge(0), "how many"],
    Annotated[int | None, "how many", at.Ge(0)],
]


@pytest.mark.parametrize("hint", DESCRIBED)
def test_descriptions_are_in_the_schema_whoever_made_them(hint):
    properties = _accepts(hint).document()["input_schema"]["properties"]
    assert properties["n"]["description"] == "how many"


def test_the_schema_has_the_bounds():
    def schema(hint: Any) -> Any:
        return _accepts(hint).document()["input_schema"]["properties"]["n"]

    bounds = {"minimum": 1, "maximum": 5}
    assert schema(Annotated[int, Field(ge=1, le=5)]) == {"type": "integer", **bounds}
    assert schema(Annotated[float, at.Interval(gt=0, lt=1)]) == {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
    }
    assert schema(Annotated[int, at.Ge(10**20)])["minimum"] == 10**20
    assert schema(list[Annotated[str, at.MinLen(2)]])["items"] == {"type": "string", "minLength": 2}
    nested = _accepts(Sized).document()["input_schema"]["$defs"]["Sized"]
    assert nested["properties"]["width"] == {"type": "integer", "exclusiveMinimum": 0}


def test_a_field_as_the_default_has_bounds_and_the_default_is_passed():
    described = _accepts(int, Field(5, ge=1, description="how many"))
    schema = described.document()["input_schema"]
    assert schema["properties"]["n"] == {"type": "integer", "minimum": 1, "description": "how many", "default": 5}
    assert schema["required"] == []
    assert from_json(described, b"{}") == {"n": 5}
    assert from_json(described, b'{"n": 2}') == {"n": 2}
    with pytest.raises(Refused):
        from_json(described, b'{"n": 0}')


def test_a_field_without_a_default_is_required():
    for default in (Field(ge=1), Field(...)):
        described = _accepts(int, default)
        assert described.document()["input_schema"]["required"] == ["n"]
        with pytest.raises(Refused, match="missing"):
            from_json(described, b"{}")


def test_a_default_that_is_made_is_made_for_each_call():
    described = _accepts(list[int], Field(default_factory=list))
    first, second = from_json(described, b"{}")["n"], from_json(described, b"{}")["n"]
    assert first == second == []
    assert first is not second
    assert from_json(_accepts(Annotated[int, Field(7)]), b"{}") == {"n": 7}
    assert from_json(_accepts(int, Field(None)), b'{"n": null}') == {"n": None}


class Marker:
    def __repr__(self) -> str:
        return "Marker()"


class InStruct(msgspec.Struct):
    n: Annotated[int, at.Ge(1)]


@dataclasses.dataclass
class FieldDefault:
    n: int = Field(5, ge=1)


@dataclasses.dataclass
class Marked:
    n: Annotated[int, Marker()]


UNFIT = [
    (Annotated[int, Marker()], ..., "Marker()"),
    (list[Annotated[int, Marker()]], ..., "Marker()"),
    (Marked, ..., "Marked.n: Marker()"),
    (Annotated[list[int], at.Ge(1)], ..., "ge=1"),
    (Annotated[int, at.MinLen(1)], ..., "min_length=1"),
    (Annotated[int | str, at.Ge(1), at.MaxLen(3)], ..., "max_length=3"),
    (Annotated[int, Field(alias="other")], ..., "alias"),
    (int, Field(5, alias="other"), "alias"),
    (InStruct, ..., "InStruct.n"),
    (FieldDefault, ..., "FieldDefault.n"),
    (int, dataclasses.field(default=5), "default"),
    (list[Annotated[int, Field(5)]], ..., "default"),
    (dict[str, Upload], ..., "Upload"),
    (list[list[bytes]] | Path, ..., "no JSON Schema"),
]


@pytest.mark.parametrize(("hint", "default", "says"), UNFIT)
def test_what_cannot_be_honoured_is_refused_at_the_start(hint, default, says):
    with pytest.raises(UnfitTool) as unfit:
        _accepts(hint, default)
    assert str(unfit.value).startswith("tool t, parameter n")
    assert says in str(unfit.value)


def _dunder(self: object, __x: int) -> None: ...


def test_a_name_that_callers_cannot_use_is_refused_at_the_start():
    with pytest.raises(UnfitTool, match="tool t, parameter __x: callers cannot use"):
        collect_tools(type("Plugin", (), {"t": tool(_dunder)})())


# Pydantic's classes


class Model(pydantic.BaseModel):
    x: int = Field(ge=1)
    label: str = "a"

    @pydantic.field_validator("label")
    @classmethod
    def known(cls, label: str) -> str:
        if label == "raise":
            raise KeyError(label)
        if label == "assert":
            raise AssertionError("label must differ")
        return label.upper()


class Strict(pydantic.BaseModel, extra="forbid"):
    inner: Model


@pydantic.dataclasses.dataclass
class Data:
    n: Annotated[int, Field(ge=1)]
    m: int = Field(5, ge=1)


@dataclasses.dataclass
class Holds:
    model: Model
    n: Annotated[int, Field(ge=1)] = 1


PYDANTIC = [
    (Model, {"x": 1}, Model(x=1), {"x": 0}, "(at n.x)"),
    (Model | None, {"x": 1}, Model(x=1), {"x": 0}, "n.x"),
    (list[Model], [{"x": 1}], [Model(x=1)], [{"x": 1}, {"x": 0}], "(at n[1].x)"),
    (dict[str, Model], {"a": {"x": 1}}, {"a": Model(x=1)}, {"a": {"x": 0}}, "(at n.a.x)"),
    (Strict, {"inner": {"x": 1}}, Strict(inner=Model(x=1)), {"inner": {"x": 1}, "typo": 1}, "(at n.typo)"),
    (Data, {"n": 1}, Data(1), {"n": 0}, "(at n.n)"),
    (Holds, {"model": {"x": 1}}, Holds(Model(x=1)), {"model": {"x": 1}, "n": 0}, "(at n.n)"),
    (list[Holds], [{"model": {"x": 1}}], [Holds(Model(x=1))], [{"model": {}}], "(at n[0].model.x)"),
    (Model, {"x": 1}, Model(x=1), {"x": 1, "label": "raise"}, "KeyError"),
    (Model, {"x": 1}, Model(x=1), {"x": 1, "label": "assert"}, "label must differ"),
    (Model, {"x": 1}, Model(x=1), 5, "got int 5"),
]


@pytest.mark.parametrize(("hint", "right", "expected", "wrong", "says"), PYDANTIC)
def test_pydantics_classes_are_read_by_pydantic(hint, right, expected, wrong, says):
    described = _accepts(hint)
    assert from_json(described, msgspec.json.encode({"n": right})) == {"n": expected}
    assert from_form(described, {"n": [msgspec.json.encode(right).decode()]}, {}) == {"n": expected}
    body = msgspec.json.encode({"n": wrong})
    with pytest.raises(Refused) as refused:
        from_json(described, body)
    assert refused.value.refusal.kind == "invalid_arguments"
    assert refused.value.refusal.error.startswith("parameter 'n'")
    assert says in refused.value.refusal.error


def test_a_models_schema_is_pydantics_own_and_refers_to_nothing_outside():
    schema = _accepts(list[Strict]).document()["input_schema"]
    assert schema["properties"]["n"]["items"] == {"$ref": "#/$defs/Strict"}
    assert schema["$defs"]["Strict"]["additionalProperties"] is False
    assert schema["$defs"]["Model"]["properties"]["x"]["minimum"] == 1
    alone = _accepts(Model).document()["input_schema"]
    assert alone["properties"]["n"]["properties"]["x"] == {"minimum": 1, "title": "X", "type": "integer"}


def test_two_classes_of_one_name_are_two_definitions():
    def one() -> Any:
        @dataclasses.dataclass
        class Same:
            a: int

        return Same

    def other() -> Any:
        @dataclasses.dataclass
        class Same:
            b: int

        return Same

    def method(self: object, x: Any, y: Any) -> None: ...

    method.__annotations__ = {"x": one(), "y": list[other()]}  # type: ignore[misc]
    schema = collect_tools(type("Plugin", (), {"t": tool(method)})())["t"].document()["input_schema"]
    assert schema["properties"]["x"] == {"$ref": "#/$defs/Same"}
    assert schema["properties"]["y"]["items"] == {"$ref": "#/$defs/Same_y"}
    assert "b" in schema["$defs"]["Same_y"]["properties"]


# Uploads

SEVERAL = [
    (list[bytes], "bytes"),
    (list[bytes] | None, "bytes"),
    (tuple[bytes, ...], "bytes"),
    (Annotated[list[bytes], "pictures"], "bytes"),
    (list[Annotated[bytes, msgspec.Meta(max_length=9)]], "bytes"),
    (list[Path], "path"),
    (tuple[Path, ...], "path"),
    (Annotated[list[Path] | None, at.MaxLen(3)], "path"),
    (list[Upload], "path"),
    (set[Path], "path"),
]


@pytest.mark.parametrize(("hint", "kind"), SEVERAL)
def test_a_list_of_files_is_an_upload_that_takes_several(hint, kind):
    described = _accepts(hint)
    document = described.document()
    assert document["uploads"] == {"n": kind}
    schema = document["input_schema"]["properties"]["n"]
    assert "array" in [schema.get("type"), *(option["type"] for option in schema.get("anyOf", []))]
    files = [b"a", b"b"] if kind == "bytes" else [Path("/a"), Path("/b")]
    if "Upload" not in str(hint):
        for several in (files, files[:1]):
            assert list(from_form(described, {}, {"n": several})["n"]) == several or "set" in str(hint)


def test_bounds_on_the_number_of_files_hold():
    described = _accepts(Annotated[list[Path], at.MaxLen(1)])
    with pytest.raises(Refused, match="parameter 'n': expected `array` of length <= 1"):
        from_form(described, {}, {"n": [Path("/a"), Path("/b")]})


def test_one_or_several_files_come_as_they_were_sent():
    described = _accepts(bytes | list[bytes])
    assert from_form(described, {}, {"n": [b"a"]}) == {"n": b"a"}
    assert from_form(described, {}, {"n": [b"a", b"b"]}) == {"n": [b"a", b"b"]}


@pytest.mark.parametrize("hint", [Path, list[Path], Upload, list[Upload], Path | None])
def test_files_on_disk_are_not_sent_in_json(hint):
    described = _accepts(hint)
    for value in ("/etc/passwd", ["/etc/passwd"], 5, {}):
        body = msgspec.json.encode({"n": value})
        with pytest.raises(Refused, match="parameter 'n' is an upload: a file is sent as multipart"):
            from_json(described, body)
    with pytest.raises(Refused, match="parameter 'n' is missing: a file is sent as multipart"):
        from_json(described, b"{}")
