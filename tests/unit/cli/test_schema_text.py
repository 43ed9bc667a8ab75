"""`orchestrator tools` shows types as a person writes them, whatever schema a tool has."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest

from orchestrator.cli.schema_text import parameter_lines, result_text, tool_notes


class Mode(enum.Enum):
    FAST = "fast"
    GOOD = "good"


class Size(TypedDict, total=False):
    width: int


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Box:
    x: int
    width: int
    y: int = 0
    label: str | None = None


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


def line(hint: Any, **rest: Any) -> str:
    """The line of a parameter `x` with this type hint."""
    (schema,), definitions = msgspec.json.schema_components([hint], ref_template="#/$defs/{name}")
    required = [] if "default" in rest else ["x"]
    return of({"properties": {"x": schema | rest}, "required": required, "$defs": definitions})


def of(schema: Any, uploads: Any = ()) -> str:
    ((found, _),) = parameter_lines({"input_schema": schema, "uploads": uploads})
    return found


HINTS = [
    (int, "x: integer"),
    (float, "x: number"),
    (str, "x: string"),
    (bool, "x: boolean"),
    (Any, "x: any"),
    (None, "x: null"),
    (bytes, "x: base64"),
    (UUID, "x: string (uuid)"),
    (Literal["fast", "good"], 'x: "fast" or "good"'),
    (Literal[1, "a"] | None, 'x: 1 or "a" or null'),
    (Mode, 'x: "fast" or "good"'),
    (Mode | None, 'x: "fast" or "good" or null'),
    (int | None, "x: integer or null"),
    (int | str, "x: integer or string"),
    (list[int], "x: list of integer"),
    (list, "x: list"),
    (set[str], "x: set of string"),
    (list[Mode], 'x: list of ("fast" or "good")'),
    (list[list[float]], "x: list of list of number"),
    (tuple[int, str], "x: [integer, string]"),
    (tuple[int, ...], "x: list of integer"),
    (Point, "x: [integer, integer]"),
    (dict, "x: object"),
    (dict[str, float], "x: object of number"),
    (dict[str, Box], "x: object of Box {x: integer, width: integer, y: integer = 0, label: string or null (optional)}"),
    (Size, "x: Size {width: integer (optional)}"),
    (Box, "x: Box {x: integer, width: integer, y: integer = 0, label: string or null (optional)}"),
    (Tree, "x: Tree {value: integer, children: list of Tree (optional)}"),
    (tuple[Box, Box], "x: [Box {x: integer, width: integer, y: integer = 0, label: string or null (optional)}, Box]"),
    (Annotated[int, msgspec.Meta(ge=1, le=5)], "x: integer 1 to 5"),
    (Annotated[int, msgspec.Meta(ge=1)], "x: integer at least 1"),
    (Annotated[float, msgspec.Meta(gt=0, lt=1)], "x: number over 0, under 1"),
    (Annotated[float, msgspec.Meta(gt=0, le=1)], "x: number at most 1, over 0"),
    (Annotated[int, msgspec.Meta(multiple_of=8)], "x: integer in steps of 8"),
    (Annotated[str, msgspec.Meta(min_length=1, max_length=3)], "x: string of 1 to 3 characters"),
    (Annotated[str, msgspec.Meta(pattern="^a+$")], "x: string matching ^a+$"),
    (Annotated[list[int], msgspec.Meta(min_length=2, max_length=4)], "x: list of integer, 2 to 4 of them"),
    (Annotated[list[int], msgspec.Meta(min_length=4, max_length=4)], "x: list of integer, 4 of them"),
    (list[Annotated[int, msgspec.Meta(ge=0, le=255)]], "x: list of integer 0 to 255"),
]


@pytest.mark.parametrize(("hint", "shown"), HINTS, ids=[shown for _, shown in HINTS])
def test_a_type_hint_is_shown_as_what_callers_send(hint, shown):
    assert line(hint) == shown


@pytest.mark.parametrize(
    ("hint", "default", "shown"),
    [
        (Mode, "fast", 'x: "fast" or "good" = "fast"'),
        (int, 3, "x: integer = 3"),
        (bool, False, "x: boolean = false"),
        (int | None, None, "x: integer or null (optional)"),
        (list[int], [], "x: list of integer = []"),
        (str, "\u00e4", 'x: string = "\u00e4"'),
    ],
)
def test_a_default_is_shown_as_callers_write_it(hint, default, shown):
    assert line(hint, default=default) == shown


FILE = {"type": "string", "contentMediaType": "application/octet-stream"}


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        (FILE, "x: file"),
        ({"anyOf": [FILE, {"type": "null"}], "default": None}, "x: file (optional)"),
        ({"type": "array", "items": FILE}, "x: files"),
        ({"anyOf": [{"type": "array", "items": FILE}, {"type": "null"}], "default": None}, "x: files (optional)"),
        ({"$ref": "#/$defs/Many"}, "x: files"),
        ({"type": "array", "items": FILE, "minItems": 2, "maxItems": 4}, "x: files, 2 to 4 of them"),
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "path"])
def test_an_upload_is_a_file_or_several(schema, shown, kind):
    required = [] if "default" in schema else ["x"]
    definitions = {"Many": {"type": "array", "items": FILE}}
    whole = {"properties": {"x": schema}, "required": required, "$defs": definitions}
    assert of(whole, {"x": kind}) == shown


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"properties": {"x": True}},
        {"properties": {"x": 5}, "required": 7},
        {"properties": {"x": {"$ref": "#/$defs/Nowhere"}}},
        {"properties": {"x": {"$ref": 5}}},
        {"properties": {"x": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"properties": {"x": {"anyOf": 5}}},
        {"properties": {"x": {"enum": "ab", "type": []}}},
        {"properties": {"x": {"type": "object", "properties": 5, "required": None}}},
        {"properties": []},
    ],
)
@pytest.mark.parametrize("uploads", [None, {"x": "bytes"}])
def test_no_schema_of_a_foreign_image_is_too_odd(schema, uploads):
    for found, _ in parameter_lines({"input_schema": schema, "uploads": uploads}):
        assert found.startswith("x: ")


def test_a_schema_that_unfolds_without_end_is_short():
    wide = {f"f{number}": {"$ref": f"#/$defs/D{number % 20}"} for number in range(50)}
    definitions = {f"D{number}": {"type": "object", "properties": wide} for number in range(20)}
    assert len(of({"properties": {"x": {"$ref": "#/$defs/D0"}}, "$defs": definitions})) < 100_000


def test_names_of_a_plugin_move_no_cursor():
    assert "\x1b" not in of({"properties": {"x\x1b[2J": {"enum": ["\x1b[2J"], "default": "\x1b"}}})


def test_descriptions_stand_beside_their_parameters_and_results_below(api):
    box = {
        "type": "object",
        "title": "Box",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
    }
    tool = {
        "name": "find",
        "description": "Find boxes.",
        "input_schema": {
            "type": "object",
            "properties": {
                "images": {"type": "array", "items": FILE},
                "mode": {"enum": ["fast", "good"], "default": "fast", "description": "how carefully"},
                "box": {"$ref": "#/$defs/Box", "description": "where to look"},
            },
            "required": ["images", "box"],
            "$defs": {"Box": box},
        },
        "output_schema": {"type": "array", "items": {"$ref": "#/$defs/Box"}, "$defs": {"Box": box}},
        "streaming": False,
        "uploads": {"images": "bytes"},
    }
    api.says("/v1/plugins/p/tools", [tool, {**tool, "name": "follow", "streaming": True}])
    printed = [line.rstrip() for line in api.call("tools", "p").stdout.splitlines()]
    assert printed == [
        "find  Find boxes.",
        "    images: files",
        '    mode: "fast" or "good" = "fast"  how carefully',
        "    box: Box {x: integer}  where to look",
        "    returns list of Box {x: integer}",
        "follow  Find boxes.",
        "    images: files",
        '    mode: "fast" or "good" = "fast"  how carefully',
        "    box: Box {x: integer}  where to look",
        "    yields list of Box {x: integer}",
    ]


def test_what_is_special_about_a_tool_is_said():
    batch = {"max_size": 16, "max_wait_ms": 5.0}
    assert tool_notes({"batch": batch}) == "batched: up to 16 callers' items at once, after 5 ms at most"
    assert tool_notes({"idempotent": True}) == "may be made again after its instance died (--retry)"
    assert tool_notes({"batch": batch, "idempotent": True}).count(";") == 1
    assert tool_notes({"batch": None, "idempotent": False}) == tool_notes({}) == ""


def test_a_tool_without_an_output_schema_shows_no_result():
    assert result_text({"name": "find"}) is None


REFERENCE = {
    "title": "File",
    "type": "object",
    "properties": {
        "file": {"type": "string", "description": "Its name."},
        "media_type": {"type": "string"},
        "size": {"type": "integer"},
        "sha256": {"type": "string"},
        "url": {"type": "string", "format": "uri-reference"},
    },
    "required": ["file", "media_type", "size", "sha256", "url"],
}


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        (REFERENCE, "File"),
        ({"$ref": "#/$defs/File", "$defs": {"File": REFERENCE}}, "File"),
        ({"type": "array", "items": REFERENCE}, "list of File"),
        ({"anyOf": [{"type": "null"}, REFERENCE]}, "File or null"),
        (
            {"type": "object", "title": "Page", "properties": {"scan": REFERENCE}, "required": ["scan"]},
            "Page {scan: File}",
        ),
        (
            {"title": "File", "type": "object", "properties": {"lines": {"type": "integer"}}, "required": ["lines"]},
            "File {lines: integer}",
        ),
    ],
)
def test_a_file_of_a_result_is_a_file_and_not_its_fields(schema, shown):
    assert result_text({"output_schema": schema}) == shown
