"""Tools as MCP lists them: every result fits the schema that is listed for it."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from orchestrator.client import Upload
from orchestrator.mcp.backend import ListedTool
from orchestrator.mcp.schemas import listed, output_schema, structured
from orchestrator.mcp.uploads import UploadError, decoded, in_base64

SIZE = {"type": "object", "properties": {"length": {"type": "integer"}}, "required": ["length"]}
TREE = {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}, "additionalProperties": False}


def about(**members: Any) -> dict[str, Any]:
    return {"name": "t", "description": "", "input_schema": {"type": "object"}, "streaming": False, **members}


@pytest.mark.parametrize(
    ("schema", "streaming", "result"),
    [
        (SIZE, False, {"length": 1}),
        (SIZE, True, [{"length": 1}, {"length": 2}]),
        ({"type": "integer"}, False, 3),
        ({"type": "string"}, True, []),
        ({"type": "array", "items": {"type": "string"}}, False, ["a"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, False, None),
        ({"$ref": "#/$defs/Size", "$defs": {"Size": SIZE}}, False, {"length": 1}),
        ({"$ref": "#/$defs/Size", "$defs": {"Size": SIZE}}, True, [{"length": 1}]),
        ({"$ref": "#/$defs/Tree", "$defs": {"Tree": TREE}}, False, {"left": {"left": {}}}),
        ({"type": "array", "items": {"$ref": "#/$defs/Size"}, "$defs": {"Size": SIZE}}, False, [{"length": 1}]),
        ({}, False, {"anything": 1}),
    ],
)
def test_a_result_fits_the_listed_schema(schema: dict[str, Any], streaming: bool, result: Any) -> None:
    """Which is of an object at its root, as older versions of the protocol want it; a wrong result does not fit."""
    tool = about(output_schema=schema, streaming=streaming)
    shown = output_schema(tool)
    assert shown is not None and shown["type"] == "object"
    Draft202012Validator.check_schema(shown)
    content = structured(result, tool)
    assert Draft202012Validator(shown).is_valid(content)
    if schema:
        assert not Draft202012Validator(shown).is_valid({"result": {"length": "long"}, "length": "long", "right": 1})


@pytest.mark.parametrize("result", [{"a": 1}, [1], None, "text", 1.5, True])
def test_without_a_schema_an_object_is_itself_and_all_else_is_wrapped(result: Any) -> None:
    assert output_schema(about(output_schema=None)) is None
    assert structured(result, about()) == (result if isinstance(result, dict) else {"result": result})


def test_a_tool_that_says_little_is_listed_all_the_same() -> None:
    """A prebuilt image may give no description and no schema."""
    shown = listed(ListedTool("p", {"name": "t", "description": "", "input_schema": {}}))
    assert shown["name"] == "p.t" and shown["description"] == "The tool t of p."
    assert shown["inputSchema"] == {"type": "object"}
    assert "outputSchema" not in shown and "annotations" not in shown


def test_files_are_base64_wherever_they_are_in_the_schema() -> None:
    """And nothing else is."""
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    schema = {
        "type": "object",
        "properties": {
            "one": {**file, "description": "A film."},
            "many": {"type": "array", "items": file, "default": []},
            "maybe": {"anyOf": [file, {"type": "null"}], "default": None},
            "text": {"type": "string"},
        },
    }
    shown = in_base64(schema, {"uploads": {"one": "path", "many": "path", "maybe": "path"}})["properties"]
    encoded = {**file, "contentEncoding": "base64"}
    assert shown["one"] == {**encoded, "description": "A film."}
    assert shown["many"]["items"] == encoded and shown["maybe"]["anyOf"] == [encoded, {"type": "null"}]
    assert shown["text"] == {"type": "string"}
    assert "contentEncoding" not in str(schema)
    assert in_base64(schema, {"uploads": None}) == schema


def test_base64_becomes_a_file_for_those_that_take_one_on_disk() -> None:
    """As callers write it; a data URL names its type. `bytes` parameters decode it themselves."""
    tool = {"uploads": {"film": "path", "data": "bytes", "pages": "path"}}
    arguments = {"film": "data:image/png;base64,aGk=", "data": "aGk=", "pages": ["aGk", "aG-_"], "n": "aGk="}
    found = decoded(arguments, tool)
    assert found["film"] == Upload(b"hi", "film.png", "image/png")
    assert [page.content for page in found["pages"]] == [b"hi", b"ho\xbf"]
    assert (found["data"], found["n"]) == ("aGk=", "aGk=")
    assert decoded({"film": None}, tool) == {"film": None}
    assert decoded({"film": 5}, tool) == {"film": 5}  # the plugin says what is wrong with it


@pytest.mark.parametrize("text", ["***", "a", "data:image/png,x", "ä", "/tmp/film.mp4!"])
def test_what_is_no_base64_is_named(text: str) -> None:
    with pytest.raises(UploadError, match=r"pages\[1\]: a file in base64"):
        decoded({"pages": ["aGk=", text]}, {"uploads": {"pages": "path"}})
