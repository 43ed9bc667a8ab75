"""What callers write and authors' types make of it: the value, or 422 with parameter, path and what is expected."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from plugin_runtime import tool
from plugin_runtime.tools.arguments import from_form, from_json
from plugin_runtime.tools.refusals import Refused
from plugin_runtime.tools.toolset import collect_tools

ERRORS = {
    "key": KeyError("red"),
    "assert": AssertionError("must be < 100"),
    "zero": ZeroDivisionError("division by zero"),
    "attribute": AttributeError("no such"),
    "runtime": RuntimeError("r"),
    "value": ValueError("v"),
    "type": TypeError("t"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "stop": StopIteration("s"),
    "generator": GeneratorExit(),
    "base": BaseException("b"),
    "recursion": RecursionError("deep"),
    "memory": MemoryError(),
    "os": OSError(28, "No space left on device"),
}


@dataclasses.dataclass
class Picky:
    what: str = ""

    def __post_init__(self) -> None:
        if self.what:
            raise ERRORS[self.what]


class PickyStruct(msgspec.Struct):
    what: str = ""

    def __post_init__(self) -> None:
        if self.what:
            raise ERRORS[self.what]


@dataclasses.dataclass(frozen=True)
class Unhashable:
    x: int = 0

    def __hash__(self) -> int:
        raise KeyError("no hash")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise SystemExit(value)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = None  # type: ignore[assignment]


class Options(TypedDict, total=False):
    points: list[Point]
    level: int


class Pair(NamedTuple):
    a: int
    b: int = None  # type: ignore[assignment]


class Box(msgspec.Struct):
    x: int
    corner: Point | None = None


@dataclasses.dataclass
class Tree:
    n: int
    kids: list[Tree] = dataclasses.field(default_factory=list)


class Plugin:
    @tool
    def picky(
        self,
        one: Picky = None,  # type: ignore[assignment]
        many: list[Picky] = [],  # noqa: B006
        named: dict[str, list[Picky]] = {},  # noqa: B006
        maybe: Picky | None = None,
        struct: PickyStruct | None = None,
        keys: set[Unhashable] | None = None,
        n: int = 0,
    ) -> None: ...

    @tool
    def numbers(
        self,
        n: int = 0,
        m: Annotated[int, msgspec.Meta(ge=0, le=5)] = 0,
        many: list[int] = [],  # noqa: B006
        table: dict[str, int] = {},  # noqa: B006
        pair: tuple[int, str] = (0, ""),
        either: int | str = 0,
        number: int | float = 0,  # noqa: PYI041
        level: Level = Level.LOW,
        step: Literal[1, 2] = 1,
        maybe: int | None = None,
        point: Point | None = None,
        nums: Pair | None = None,
        flag: bool = False,
        any_: Any = None,
    ) -> None: ...

    @tool
    def none(
        self,
        x: int = None,  # type: ignore[assignment]  # noqa: RUF013 - as authors write it
        s: str = None,  # type: ignore[assignment]  # noqa: RUF013 - as authors write it
        d: Annotated[int, msgspec.Meta(ge=1, description="how many")] = None,  # type: ignore[assignment]  # noqa: RUF013 - as authors write it
        items: list[int] = None,  # type: ignore[assignment]  # noqa: RUF013 - as authors write it
        point: Point = None,  # type: ignore[assignment]
        nums: Pair = None,  # type: ignore[assignment]
        image: bytes = b"default",
        mask: bytes = None,  # type: ignore[assignment]  # noqa: RUF013 - as authors write it
        video: Path = None,  # type: ignore[assignment]  # noqa: RUF013 - as authors write it
    ) -> None: ...

    @tool
    def data(self, image: bytes) -> None: ...

    @tool
    def images(self, images: list[bytes], more: tuple[bytes, ...] | None = None) -> None: ...

    @tool
    def nested_bytes(self, parts: dict[str, bytes], pair: tuple[int, bytes] | None = None) -> None: ...

    @tool
    def choices(
        self,
        color: Color = Color.RED,
        mode: Literal["fast", "good"] = "fast",
        level: Level = Level.LOW,
        colors: list[Color] = [],  # noqa: B006
        by_color: dict[Color, int] = {},  # noqa: B006
        maybe: Literal["a", "b"] | None = None,
        long: Literal[tuple(f"v{i}" for i in range(50))] = "v0",  # type: ignore[valid-type]
    ) -> None: ...

    @tool
    def objects(
        self,
        point: Point | None = None,
        options: Options | None = None,
        box: Box | None = None,
        tree: Tree | None = None,
        boxes: dict[str, list[Box]] = {},  # noqa: B006
    ) -> None: ...

    @tool
    def fields(
        self,
        n: int = 1,
        flag: bool = False,
        flags: list[bool] = [],  # noqa: B006
        text: str = "t",
        when: dt.date | None = None,
        mode: Literal["fast", "good"] = "fast",
        any_: Any = None,
        maybe: int | None = 3,
        nums: list[int] = [1],  # noqa: B006
    ) -> None: ...

    @tool
    def required(self, n: int, maybe: int | None, text: str) -> None: ...


TOOLS = collect_tools(Plugin())


def refusal(name: str, arguments: Any, *, form: bool = False) -> str:
    body = msgspec.json.encode(arguments)
    with pytest.raises(Refused) as refused:
        from_form(TOOLS[name], arguments, {}) if form else from_json(TOOLS[name], body)
    assert refused.value.refusal.kind == "invalid_arguments"
    return refused.value.refusal.error


def taken(name: str, arguments: Any) -> dict[str, Any]:
    return from_json(TOOLS[name], msgspec.json.encode(arguments))


@pytest.mark.parametrize("what", ERRORS)
@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (lambda bad: {"one": bad}, "parameter 'one'"),
        (lambda bad: {"n": 1.0, "many": [{}, bad]}, "parameter 'many' (at many[1])"),
        (lambda bad: {"named": {"k": [{}, {}, bad]}}, "parameter 'named' (at named"),
        (lambda bad: {"maybe": bad}, "parameter 'maybe'"),
        (lambda bad: {"struct": bad}, "parameter 'struct'"),
    ],
    ids=["alone", "in a list", "in a dict", "optional", "struct"],
)
def test_whatever_an_authors_type_raises_names_the_parameter_and_what_was_raised(what, arguments, where):
    sentence = refusal("picky", arguments({"what": what}))
    assert sentence.startswith(where)
    assert type(ERRORS[what]).__name__ in sentence
    assert str(ERRORS[what]) in sentence


def test_what_a_form_makes_an_authors_type_raise_is_refused_as_well():
    sentence = refusal("picky", {"one": ['{"what": "key"}']}, form=True)
    assert sentence.startswith("parameter 'one': KeyError: 'red'")


def test_a_hash_that_raises_is_refused():
    assert refusal("picky", {"keys": [{"x": 1}]}).startswith("parameter 'keys'")


INTEGERS = [
    ({"n": 2.0}, {"n": 2}),
    ({"n": -0.0}, {"n": 0}),
    ({"n": 1e3}, {"n": 1000}),
    ({"m": 5.0}, {"m": 5}),
    ({"many": [1, 2.0]}, {"many": [1, 2]}),
    ({"table": {"a": 3.0}}, {"table": {"a": 3}}),
    ({"pair": [1.0, "a"]}, {"pair": (1, "a")}),
    ({"either": 2.0}, {"either": 2}),
    ({"number": 2.0}, {"number": 2.0}),
    ({"level": 2.0}, {"level": Level.HIGH}),
    ({"step": 2.0}, {"step": 2}),
    ({"maybe": 2.0}, {"maybe": 2}),
    ({"point": {"x": 1.0, "y": 2.0}}, {"point": Point(1, 2)}),
    ({"nums": [1.0, 2.0]}, {"nums": Pair(1, 2)}),
    ({"n": 1.0, "any_": 2.0}, {"n": 1, "any_": 2.0}),
]


@pytest.mark.parametrize(("arguments", "expected"), INTEGERS)
def test_a_number_without_a_fraction_is_an_integer(arguments, expected):
    given = taken("numbers", arguments)
    assert given == expected
    assert {name: type(value) for name, value in given.items()} == {n: type(v) for n, v in expected.items()}


@pytest.mark.parametrize(
    "arguments",
    [{"n": 2.5}, {"m": 6.0}, {"m": -1.0}, {"many": [2.5]}, {"n": 1e300}, {"n": True}, {"flag": 1.0}, {"step": 3.0}],
)
def test_other_numbers_are_no_integers(arguments):
    assert refusal("numbers", arguments).startswith(f"parameter {next(iter(arguments))!r}")


def test_a_default_of_none_takes_null_and_its_schema_says_so():
    names = ["x", "s", "d", "items", "point", "nums", "mask", "video"]
    assert taken("none", dict.fromkeys(names)) == dict.fromkeys(names)
    properties = TOOLS["none"].document()["input_schema"]["properties"]
    for name in names:
        assert properties[name]["default"] is None
        assert {"type": "null"} in properties[name]["anyOf"], name
    assert properties["d"]["description"] == "how many"
    assert refusal("none", {"d": 0}).startswith("parameter 'd'")


def test_a_default_of_none_in_a_class_takes_null():
    assert taken("none", {"point": {"x": 1, "y": None}}) == {"point": Point(1, None)}  # type: ignore[arg-type]
    assert taken("none", {"nums": [1, None]}) == {"nums": Pair(1, None)}  # type: ignore[arg-type]
    definitions = TOOLS["none"].document()["input_schema"]["$defs"]
    assert {"type": "null"} in definitions["Point"]["properties"]["y"]["anyOf"]


def test_null_for_an_optional_upload_is_not_given():
    assert taken("none", {"image": None, "x": 1}) == {"x": 1}
    assert refusal("data", {"image": None}).startswith("parameter 'image'")


PICTURE = bytes(range(256))
ENCODED = base64.b64encode(PICTURE).decode()
FORMS = {
    "standard": ENCODED,
    "without padding": ENCODED.rstrip("="),
    "URL-safe": base64.urlsafe_b64encode(PICTURE).decode(),
    "URL-safe without padding": base64.urlsafe_b64encode(PICTURE).decode().rstrip("="),
    "wrapped": base64.encodebytes(PICTURE).decode(),
    "wrapped as by Windows": base64.encodebytes(PICTURE).decode().replace("\n", "\r\n"),
    "data URL": f"data:image/png;base64,{ENCODED}",
    "data URL with parameters": f"data:text/plain;charset=utf-8;base64,{ENCODED}",
    "bare data URL": f"DATA:;BASE64,{ENCODED}",
    "quoted data URL": f"data:image/png;base64,{ENCODED}".replace("=", "%3D").replace("+", "%2B"),
}


@pytest.mark.parametrize("form", FORMS)
def test_base64_is_read_as_callers_write_it(form):
    assert taken("data", {"image": FORMS[form]}) == {"image": PICTURE}
    assert taken("images", {"images": [FORMS[form], ""], "more": None})["images"] == [PICTURE, b""]
    assert taken("nested_bytes", {"parts": {"a": FORMS[form]}, "pair": [1, FORMS[form]]}) == {
        "parts": {"a": PICTURE},
        "pair": (1, PICTURE),
    }
    assert from_form(TOOLS["data"], {"image": [FORMS[form]]}, {}) == {"image": PICTURE}


@pytest.mark.parametrize(
    "text", ["photo.png", "a", "%%%", "é", "data:image/png,abc", "AA=A", "A-+A", "====", "AAA=====", "data:"]
)
def test_what_is_no_base64_is_refused_with_what_is_expected(text):
    expected = "a base64 string or data URL is expected; a file is sent as multipart"
    assert expected in refusal("data", {"image": text})
    assert "parameter 'images' (at images[1])" in refusal("images", {"images": ["", text]})


@pytest.mark.parametrize("value", [5, [1], {"a": 1}, True])
def test_bytes_are_not_made_of_other_json(value):
    sentence = refusal("data", {"image": value})
    assert "parameter 'image': a base64 string or data URL is expected; a file is sent as multipart, got" in sentence


def test_the_schema_says_that_bytes_are_base64():
    assert TOOLS["data"].document()["input_schema"]["properties"]["image"]["contentEncoding"] == "base64"
    schema = TOOLS["images"].document()["input_schema"]["properties"]["images"]
    assert schema == {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}}


CHOICES = [
    ({"color": "green"}, ["parameter 'color'", "'blue', 'red'", "got str 'green'"]),
    ({"mode": "best"}, ["parameter 'mode'", "'fast', 'good'", "got str 'best'"]),
    ({"level": 9}, ["parameter 'level'", "1, 2", "got int 9"]),
    ({"colors": ["red", "green"]}, ["parameter 'colors' (at colors[1])", "'blue', 'red'"]),
    ({"by_color": {"green": 1}}, ["parameter 'by_color'", "'red', 'blue'"]),
    ({"maybe": "c"}, ["parameter 'maybe'", "'a', 'b'"]),
    ({"long": "x"}, ["'v0', ", "(50 in all)"]),
]


@pytest.mark.parametrize(("arguments", "phrases"), CHOICES)
def test_a_wrong_choice_names_the_right_ones(arguments, phrases):
    sentence = refusal("choices", arguments)
    for phrase in phrases:
        assert phrase in sentence
    assert len(sentence) < 400


UNKNOWN = [
    ({"point": {"x": 1, "typo": 2}}, ["(at point.typo)", "Point has no field 'typo'", "x, y"]),
    ({"options": {"colour": 1}}, ["(at options.colour)", "level, points"]),
    ({"options": {"points": [{"x": 1}, {"x": 1, "z": 1}]}}, ["(at options.points[1].z)"]),
    ({"box": {"x": 1, "corner": {"x": 1, "w": 1}}}, ["(at box.corner.w)"]),
    ({"box": {"x": 1, "more": 1}}, ["(at box.more)"]),
    ({"tree": {"n": 1, "kids": [{"n": 1, "kids": [{"n": 2, "m": 1}]}]}}, ["(at tree.kids[0].kids[0].m)"]),
    ({"boxes": {"a": [{"x": 1, "y": 1}]}}, ["(at boxes.a[0].y)"]),
]


@pytest.mark.parametrize(("arguments", "phrases"), UNKNOWN)
def test_an_unknown_key_in_an_object_is_refused_as_one_at_the_top_is(arguments, phrases):
    sentence = refusal("objects", arguments)
    for phrase in phrases:
        assert phrase in sentence
    assert refusal("objects", {k: [msgspec.json.encode(v).decode()] for k, v in arguments.items()}, form=True)


def test_the_schema_says_that_objects_take_no_other_keys():
    definitions = TOOLS["objects"].document()["input_schema"]["$defs"]
    assert {each["additionalProperties"] for each in definitions.values()} == {False}


def test_a_deeply_nested_object_is_refused():
    depth = 3000
    body = b'{"tree": ' + b'{"n":1,"kids":[' * depth + b"]}" * depth + b"}"
    with pytest.raises(Refused) as refused:
        from_json(TOOLS["objects"], body)
    assert refused.value.refusal.kind == "bad_request"


EMPTY = {"n": [""], "flag": [""], "when": [""], "mode": [""], "maybe": [""], "nums": [""], "flags": [""]}


def test_a_field_that_was_left_empty_is_not_given():
    assert from_form(TOOLS["fields"], EMPTY, {}) == {}
    assert from_form(TOOLS["fields"], {"text": [""], "any_": [""]}, {}) == {"text": "", "any_": ""}
    given = from_form(TOOLS["required"], {"n": ["1"], "maybe": [""], "text": [""]}, {})
    assert given == {"n": 1, "maybe": None, "text": ""}
    assert "parameter 'n'" in refusal("required", {"n": [""], "maybe": ["1"], "text": ["x"]}, form=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [("on", True), ("off", False), ("yes", True), ("no", False), ("ON", True), ("True", True), ("0", False)],
)
def test_checkboxes_are_read(text, value):
    assert from_form(TOOLS["fields"], {"flag": [text]}, {}) == {"flag": value}
    assert from_form(TOOLS["fields"], {"flags": [text, "no"]}, {}) == {"flags": [value, False]}
    assert from_form(TOOLS["fields"], {"text": [text]}, {}) == {"text": text}


def test_json_takes_no_words_for_a_bool():
    assert refusal("fields", {"flag": "on"}).startswith("parameter 'flag'")
