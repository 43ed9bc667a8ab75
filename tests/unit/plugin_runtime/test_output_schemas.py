"""A return hint becomes the schema of the result, or is refused at the start where no result can be of its kind."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import io
import ipaddress
import pathlib
import re
import typing
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict, Union

import msgspec
import numpy as np
import pydantic
import pytest
from PIL import Image
from plugin_runtime import File, Progress, tool
from plugin_runtime.tools.output_schema import FILE_SCHEMA
from plugin_runtime.tools.results import encode_result
from plugin_runtime.tools.toolset import UnfitTool, collect_tools

if typing.TYPE_CHECKING:
    pass  # type: ignore[import-not-found]


@dataclasses.dataclass
class Box:
    x: int
    where: pathlib.Path | None = None


class Model(pydantic.BaseModel):
    boxes: list[int]
    inner: Inner | None = None


class Inner(pydantic.BaseModel):
    a: int = 1


class Row(TypedDict):
    name: str
    score: float


class Pair(NamedTuple):
    left: int
    right: str


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Custom:
    pass


class Shown(typing.Protocol):
    pass


@dataclasses.dataclass
class WithImage:
    page: Image.Image


class Typed(TypedDict):
    media_type: str
    data: bytes


class WithBytes(pydantic.BaseModel):
    page: bytes


BOX = {
    "$ref": "#/$defs/Box",
    "$defs": {
        "Box": {
            "title": "Box",
            "type": "object",
            "properties": {
                "x": {"type": "integer"},
                "where": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            },
            "required": ["x"],
        }
    },
}


def schema_of(hint: Any, *, streams: bool = False) -> Any:
    def method(self):
        pass

    def generator(self):
        yield

    function = generator if streams else method
    function.__annotations__ = {"return": hint}
    plugin = type("Plugin", (), {"run": tool(function)})()
    return collect_tools(plugin)["run"].document()["output_schema"]


DESCRIBED = [
    (int, {"type": "integer"}),
    (None, {"type": "null"}),
    (str, {"type": "string"}),
    (Text, {"type": "string"}),
    (bytes, FILE_SCHEMA),
    (bytearray, FILE_SCHEMA),
    (File, FILE_SCHEMA),
    (Image.Image, FILE_SCHEMA),
    (Annotated[bytes, msgspec.Meta(description="The page.")], {**FILE_SCHEMA, "description": "The page."}),
    (list[bytes], {"type": "array", "items": FILE_SCHEMA}),
    (dict[str, int | File], {"type": "object", "additionalProperties": {"anyOf": [{"type": "integer"}, FILE_SCHEMA]}}),
    (File | str, {"anyOf": [{"type": "string"}, FILE_SCHEMA]}),
    (dict[str, Image.Image], {"type": "object", "additionalProperties": FILE_SCHEMA}),
    (Image.Image | None, {"anyOf": [FILE_SCHEMA, {"type": "null"}]}),
    (pathlib.Path, {"type": "string"}),
    (ipaddress.IPv4Address, {"type": "string"}),
    (decimal.Decimal, {"type": "string", "format": "decimal"}),
    (dt.date, {"type": "string", "format": "date"}),
    (dict, {"type": "object"}),
    (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
    (Mapping[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
    (collections.OrderedDict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
    (collections.Counter[str], {"type": "object", "additionalProperties": {"type": "integer"}}),
    (list[int], {"type": "array", "items": {"type": "integer"}}),
    (set[int], {"type": "array", "items": {"type": "integer"}}),
    (collections.deque[int], {"type": "array", "items": {"type": "integer"}}),
    (Sequence[Text], {"type": "array", "items": {"type": "string"}}),
    (Iterable[int], {"type": "array", "items": {"type": "integer"}}),
    (list, {"type": "array"}),
    (list[Any], {"type": "array"}),
    (list[np.ndarray], {"type": "array"}),
    (np.float64, {"type": "number"}),
    (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
    (Union[int, str], {"anyOf": [{"type": "integer"}, {"type": "string"}]}),  # noqa: UP007
    (Literal["a", "b"], {"enum": ["a", "b"]}),
    (Colour, {"$ref": "#/$defs/Colour", "$defs": {"Colour": {"title": "Colour", "enum": ["red"]}}}),
    (Annotated[int, msgspec.Meta(ge=0)], {"type": "integer", "minimum": 0}),
    (Annotated[int, "a note"], {"type": "integer"}),
    (Box, BOX),
    ("Box", BOX),
    (list[Box], {"type": "array", "items": {"$ref": "#/$defs/Box"}, "$defs": BOX["$defs"]}),
]


@pytest.mark.parametrize(("hint", "schema"), DESCRIBED, ids=str)
def test_a_return_hint_is_described(hint: Any, schema: Any) -> None:
    assert schema_of(hint) == schema


def test_records_are_described_with_their_fields() -> None:
    row, pair = schema_of(Row), schema_of(Pair)
    assert row["$defs"]["Row"]["properties"] == {"name": {"type": "string"}, "score": {"type": "number"}}
    assert pair["$defs"]["Pair"]["type"] == "array"
    assert encode_result(Pair(1, "a"), 100) == b'[1,"a"]'


def test_files_are_described_wherever_they_stand() -> None:
    assert schema_of(WithImage)["$defs"]["WithImage"]["properties"] == {"page": FILE_SCHEMA}
    assert schema_of(WithBytes)["properties"] == {"page": FILE_SCHEMA}
    assert schema_of(Typed)["$defs"]["Typed"] == FILE_SCHEMA
    pieces = schema_of(Iterator[Typed], streams=True)
    assert pieces["$defs"]["Typed"]["properties"]["data"] == {"type": "string", "contentEncoding": "base64"}


def test_a_pydantic_model_is_described_as_pydantic_does() -> None:
    for hint in (Model, list[Model], dict[str, Model]):
        schema = schema_of(hint)
        text = str(schema)
        assert "'boxes'" in text
        assert "#/$defs/Inner" in text
        assert schema["$defs"]["Inner"]["properties"]["a"]["type"] == "integer"


UNKNOWN = [Any, object, np.ndarray, np.float32, Shown, "Missing", "list[Missing]", "no python", Any | None, Iterator]


@pytest.mark.parametrize("hint", UNKNOWN, ids=str)
def test_a_hint_that_says_nothing_is_no_schema_and_no_fault(hint: Any) -> None:
    assert schema_of(hint) is None


def test_no_hint_is_no_schema() -> None:
    class Plugin:
        @tool
        def run(self):  # type: ignore[no-untyped-def]
            pass

    assert collect_tools(Plugin())["run"].document()["output_schema"] is None


STREAMED = [
    (Iterator[int], {"type": "integer"}),
    (Iterable[int], {"type": "integer"}),
    (Generator[Text, None, None], {"type": "string"}),
    (AsyncIterator[Box], BOX),
    (Iterator[Progress | int], {"type": "integer"}),
    (Iterator[Progress], None),
    (object, None),
    (int, None),
    (Iterator[bytes], {"type": "string", "contentEncoding": "base64"}),
    (Iterator[File | Progress], FILE_SCHEMA),
    (Iterator[dict[str, bytes]], {"type": "object", "additionalProperties": FILE_SCHEMA}),
]


@pytest.mark.parametrize(("hint", "schema"), STREAMED, ids=str)
def test_of_a_generator_it_is_the_item(hint: Any, schema: Any) -> None:
    assert schema_of(hint, streams=True) == schema


REFUSED = [
    (Custom, ["Custom", "dataclass"]),
    (complex, ["complex"]),
    (Callable[[], int], ["Callable"]),
    (type[int], ["type[int]"]),
    (io.BytesIO, ["BytesIO"]),
    (typing.IO[bytes], ["IO"]),
    (re.Pattern, ["Pattern"]),
    (Exception, ["Exception"]),
]


@pytest.mark.parametrize(("hint", "phrases"), REFUSED, ids=str)
def test_what_can_be_no_result_is_refused_at_the_start(hint: Any, phrases: list[str]) -> None:
    """With the tool and with what to do."""
    for streams, wanted in ((False, hint), (True, Iterator[hint])):
        with pytest.raises(UnfitTool) as unfit:
            schema_of(wanted, streams=streams)
        for phrase in ("tool run", *phrases):
            assert phrase in str(unfit.value)
