"""Input schemas come from the type hints, and a signature that has none is refused with tool and parameter."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from plugin_runtime import tool
from plugin_runtime.tools.toolset import UnfitTool, collect_tools

if TYPE_CHECKING:
    from decimal import Decimal


@dataclasses.dataclass
class Box:
    x: int
    y: int


class Options(TypedDict, total=False):
    boxes: list[Box]


class Opaque:
    pass


class Plugin:
    @tool
    def plain(self, a: int, b: Annotated[float, msgspec.Meta(ge=0, description="how much")] = 0.5) -> float:
        """Multiply two
        numbers.

        The rest is for readers of the code.
        """
        return a * b

    @tool
    def nested(self, options: Options, mode: Literal["fast", "good"] = "fast", tags: list[str] = ["x"]) -> None:  # noqa: B006
        pass

    @tool
    def takes_uploads(
        self, image: bytes, video: Annotated[Path, msgspec.Meta(description="MP4")], mask: bytes | None = None
    ) -> None:
        pass

    @tool
    def anything(self, value: Any, opaque: Any = Opaque()) -> None:  # noqa: B008
        pass

    @tool
    async def asynchronous(self) -> None:
        pass

    @tool
    def events(self, n: int) -> Any:
        yield n

    @tool
    async def async_events(self, n: int) -> Any:
        yield n

    @tool
    @staticmethod
    def static(a: int) -> None:
        pass

    def no_tool(self, a: int) -> None:
        pass


TOOLS = collect_tools(Plugin())


def test_only_marked_methods_are_tools():
    assert set(TOOLS) == {
        "plain",
        "nested",
        "takes_uploads",
        "anything",
        "asynchronous",
        "events",
        "async_events",
        "static",
    }


def test_a_tool_is_described_by_the_first_paragraph_of_its_docstring():
    assert TOOLS["plain"].document()["description"] == "Multiply two numbers."


def test_the_schema_has_types_limits_defaults_and_descriptions_and_takes_nothing_else():
    assert TOOLS["plain"].document()["input_schema"] == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "number", "minimum": 0, "description": "how much", "default": 0.5},
        },
        "required": ["a"],
        "additionalProperties": False,
    }


def test_a_schema_refers_to_nothing_outside_itself():
    schema = TOOLS["nested"].document()["input_schema"]
    assert schema["properties"]["options"] == {"$ref": "#/$defs/Options"}
    assert schema["$defs"]["Options"]["properties"]["boxes"]["items"] == {"$ref": "#/$defs/Box"}
    assert schema["properties"]["mode"] == {"enum": ["fast", "good"], "default": "fast"}
    assert schema["properties"]["tags"]["default"] == ["x"]


def test_bytes_and_path_parameters_are_uploads():
    document = TOOLS["takes_uploads"].document()
    assert document["uploads"] == {"image": "bytes", "video": "path", "mask": "bytes"}
    assert document["input_schema"]["properties"]["image"] == {"type": "string", "contentEncoding": "base64"}
    assert document["input_schema"]["properties"]["video"]["description"] == "MP4"
    assert document["input_schema"]["required"] == ["image", "video"]


def test_a_default_that_json_cannot_express_stays_unsaid():
    assert TOOLS["anything"].document()["input_schema"]["properties"]["opaque"] == {}


def test_generators_are_streaming():
    streaming = {name for name, each in TOOLS.items() if each.streaming}
    assert streaming == {"events", "async_events"}


class FakeImage:
    """As PIL's own class is found: by its module and name."""


FakeImage.__module__, FakeImage.__name__ = "PIL.Image", "Image"


def _pictures(self, a: list[FakeImage] | None): ...


def _opened(self, a: IO[bytes]): ...


def _no_hint(self, a): ...


def _opaque(self, a: Opaque): ...


def _paths_by_name(self, a: dict[str, Path]): ...


def _unresolved(self, a: Decimal): ...


def _variable(self, *rest: int): ...


def _keywords(self, **rest: int): ...


def _positional(self, a: int, /): ...


def _two_objects(self, a: Box | Options): ...


@pytest.mark.parametrize(
    ("method", "parameter", "says"),
    [
        (_no_hint, "a", "no type hint"),
        (_opaque, "a", "Opaque"),
        (_paths_by_name, "a", "Path"),
        (_unresolved, "a", "Decimal"),
        (_variable, "rest", "called by name"),
        (_keywords, "rest", "called by name"),
        (_positional, "a", "called by name"),
        (_two_objects, "a", "more than one dict-like"),
        (_pictures, "a", "take pathlib.Path, which callers send as a file, and PIL.Image.open it"),
        (_opened, "a", "take pathlib.Path or plugin_runtime.Upload"),
    ],
)
def test_a_signature_without_a_schema_is_refused_with_tool_and_parameter(method, parameter, says):
    plugin = type("Plugin", (), {"broken": tool(method)})()
    with pytest.raises(UnfitTool) as unfit:
        collect_tools(plugin)
    assert f"tool broken, parameter {parameter}" in str(unfit.value)
    assert says in str(unfit.value)


def test_all_that_is_unfit_is_said_at_once():
    """One start, not one for each."""

    def first(self, a, b: Opaque, c: int = 1) -> Opaque: ...

    def second(self, *rest: int) -> None: ...

    with pytest.raises(UnfitTool) as unfit:
        collect_tools(type("Plugin", (), {"first": tool(first), "second": tool(second), "fine": tool(_fine)})())
    assert [fault.partition(":")[0] for fault in unfit.value.faults] == [
        "tool first, parameter a has no type hint; its JSON Schema is made from it",
        "tool first, parameter b",
        "tool first",
        "tool second, parameter rest",
    ]
    assert str(unfit.value).startswith("(1) tool first, parameter a has no type hint")
    assert "(4) tool second, parameter rest: *args" in str(unfit.value)


def _fine(self, a: int): ...
