"""Arguments are checked before the tool runs; a refusal names the parameter, what came and what was expected."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from plugin_runtime import tool
from plugin_runtime.tools.arguments import from_form, from_json
from plugin_runtime.tools.refusals import Refused
from plugin_runtime.tools.toolset import collect_tools


class Plugin:
    @tool
    def t(
        self,
        n: Annotated[int, msgspec.Meta(ge=0)] = 0,
        x: float = 0.0,
        s: str = "",
        flag: bool = False,
        maybe: int | None = None,
        mode: Literal["a", "b"] = "a",
        items: list[int] | None = None,
        names: list[str] = [],  # noqa: B006
        table: dict[str, float] = {},  # noqa: B006
        when: dt.date | None = None,
        any_: Any = None,
        image: bytes = b"",
    ) -> None: ...

    @tool
    def needs(self, a: int, image: bytes) -> None: ...

    @tool
    def video(self, file: Path, n: int = 1) -> None: ...


TOOLS = collect_tools(Plugin())

TAKEN_JSON = [
    (b"", {}),
    (b"{}", {}),
    (b'{"n": 3, "x": 2}', {"n": 3, "x": 2.0}),
    (b'{"maybe": null}', {"maybe": None}),
    (b'{"image": "aGk="}', {"image": b"hi"}),
    (b'{"when": "2024-05-01"}', {"when": dt.date(2024, 5, 1)}),
    (b'{"any_": {"deep": [1]}}', {"any_": {"deep": [1]}}),
]


@pytest.mark.parametrize(("body", "expected"), TAKEN_JSON)
def test_json_arguments_that_fit_are_passed_on_and_defaults_stay_with_the_tool(body, expected):
    assert from_json(TOOLS["t"], body) == expected


REFUSED_JSON = [
    ("t", b'{"n": "3"}', "invalid_arguments", ["parameter 'n'", "expected `int`", "got str '3'"]),
    ("t", b'{"n": -1}', "invalid_arguments", ["parameter 'n'", "expected `int` >= 0", "got int -1"]),
    ("t", b'{"x": true}', "invalid_arguments", ["parameter 'x'", "`float`", "got bool True"]),
    ("t", b'{"mode": "c"}', "invalid_arguments", ["parameter 'mode'", "'c'"]),
    ("t", b'{"items": [1, "z"]}', "invalid_arguments", ["parameter 'items' (at items[1])", "`int`", "got str 'z'"]),
    ("t", b'{"table": {"k": "z"}}', "invalid_arguments", ["parameter 'table'", "`float`"]),
    ("t", b'{"image": "%%%"}', "invalid_arguments", ["parameter 'image'", "base64"]),
    ("t", b'{"other": 1}', "invalid_arguments", ["no parameter named 'other'", "n, x, s"]),
    ("t", b"[1]", "invalid_arguments", ["one JSON object", "array"]),
    ("t", b'"text"', "invalid_arguments", ["one JSON object", "str"]),
    ("t", b"null", "invalid_arguments", ["one JSON object", "null"]),
    ("needs", b"{}", "invalid_arguments", ["parameter 'a' is missing"]),
    ("needs", b'{"a": 1}', "invalid_arguments", ["parameter 'image' is missing", "bytes"]),
    ("video", b'{"file": "/etc/passwd"}', "invalid_arguments", ["parameter 'file' is an upload", "multipart"]),
    ("video", b"{}", "invalid_arguments", ["parameter 'file' is missing", "multipart"]),
    ("t", b'{"n": ', "bad_request", ["no JSON"]),
    ("t", b'{"s": "\xff"}', "bad_request", ["no JSON"]),
    ("t", b'{"any_": ' + b"[" * 100_000, "bad_request", ["no JSON"]),
    ("t", b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_request", ["nested too deep"]),
    ("t", b'{"any_": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_request", ["nested too deep"]),
    ("t", b"[" * 100_000 + b"]" * 100_000, "bad_request", ["nested too deep"]),
    ("t", b'{"n": 1e400}', "invalid_arguments", ["parameter 'n': number out of range"]),
    ("t", b'{"x": 1e400}', "invalid_arguments", ["parameter 'x': number out of range"]),
    ("t", b'{"any_": 1e400}', "invalid_arguments", ["parameter 'any_': number out of range"]),
    ("t", b'{"items": [1, 1e400]}', "invalid_arguments", ["parameter 'items' (at items[1]): number out of range"]),
    ("t", b'{"n": ' + b"9" * 5000 + b"}", "invalid_arguments", ["parameter 'n': integer value out of range"]),
    ("t", b'{"n": "3", "x": 1e400}', "invalid_arguments", ["parameter 'n': expected `int`, got `str`"]),
    ("t", b'{"other": 1e400}', "invalid_arguments", ["no parameter named 'other'"]),
    ("t", b"[1e400]", "invalid_arguments", ["one JSON object", "got a JSON array"]),
    ("t", b"1e400", "invalid_arguments", ["one JSON object", "got a JSON number"]),
    ("t", b'{"n": "3"} junk', "bad_request", ["no JSON", "trailing"]),
    ("t", b'{"n": 1, "n": 2}', "invalid_arguments", ["parameter 'n' was sent twice in one object"]),
    ("t", b'{"n": 1, "s": "x", "n" : 2, "n":3}', "invalid_arguments", ["parameter 'n' was sent 3 times"]),
    ("t", b'{"n": 1, "n": 2', "bad_request", ["no JSON"]),
]


@pytest.mark.parametrize(("name", "body", "kind", "phrases"), REFUSED_JSON)
def test_json_arguments_that_do_not_fit_are_refused_with_a_sentence(name, body, kind, phrases):
    with pytest.raises(Refused) as refused:
        from_json(TOOLS[name], body)
    assert refused.value.refusal.kind == kind
    for phrase in phrases:
        assert phrase in refused.value.refusal.error


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"n": 1, "table": {"n": 2}}', {"n": 1, "table": {"n": 2.0}}),
        (b'{"n": 1, "any_": [{"n": 2, "n": 3}]}', {"n": 1, "any_": [{"n": 3}]}),
        (b'{"s": "\\"n\\"", "n": 1, "names": ["n", "n"]}', {"s": '"n"', "n": 1, "names": ["n", "n"]}),
    ],
)
def test_a_name_within_a_value_is_no_second_argument(body, expected):
    assert from_json(TOOLS["t"], body) == expected


def test_what_came_is_shown_in_bounds():
    with pytest.raises(Refused) as refused:
        from_json(TOOLS["t"], b'{"n": "' + b"y" * 100_000 + b'"}')
    assert len(refused.value.refusal.error) < 300


TAKEN_FORM = [
    ({"n": ["3"]}, {"n": 3}),
    ({"x": ["0.5"]}, {"x": 0.5}),
    ({"s": ["3"]}, {"s": "3"}),
    ({"s": ["null"]}, {"s": "null"}),
    ({"flag": ["true"]}, {"flag": True}),
    ({"flag": ["1"]}, {"flag": True}),
    ({"maybe": ["null"]}, {"maybe": None}),
    ({"mode": ["b"]}, {"mode": "b"}),
    ({"items": ["[1,2]"]}, {"items": [1, 2]}),
    ({"items": ["1", "2"]}, {"items": [1, 2]}),
    ({"items": ["7"]}, {"items": [7]}),
    ({"names": ["a", "b"]}, {"names": ["a", "b"]}),
    ({"names": ["a"]}, {"names": ["a"]}),
    ({"table": ['{"k": 1}']}, {"table": {"k": 1.0}}),
    ({"when": ["2024-05-01"]}, {"when": dt.date(2024, 5, 1)}),
    ({"any_": ['{"a": 1}']}, {"any_": {"a": 1}}),
    ({"any_": ["plain"]}, {"any_": "plain"}),
]


@pytest.mark.parametrize(("texts", "expected"), TAKEN_FORM)
def test_form_values_become_what_the_parameter_takes(texts, expected):
    assert from_form(TOOLS["t"], texts, {}) == expected


REFUSED_FORM = [
    ("t", {"n": ["x"]}, {}, ["parameter 'n'", "`int`", "'x'"]),
    ("t", {"n": ["1", "2"]}, {}, ["parameter 'n' takes one value, and was sent twice: '1', '2'"]),
    ("t", {"s": ["a", "b", "c"]}, {}, ["parameter 's' takes one value, and was sent 3 times"]),
    ("t", {"other": ["1"]}, {}, ["no parameter named 'other'"]),
    ("t", {"image": ["x"]}, {"image": b"y"}, ["parameter 'image' was sent twice"]),
    ("video", {"file": ["/etc/passwd"]}, {}, ["parameter 'file' is an upload"]),
    ("video", {}, {}, ["parameter 'file' is missing"]),
]


@pytest.mark.parametrize(("name", "texts", "uploads", "phrases"), REFUSED_FORM)
def test_form_values_that_do_not_fit_are_refused_with_a_sentence(name, texts, uploads, phrases):
    with pytest.raises(Refused) as refused:
        from_form(TOOLS[name], texts, uploads)
    assert refused.value.refusal.kind == "invalid_arguments"
    for phrase in phrases:
        assert phrase in refused.value.refusal.error


def test_uploads_go_to_their_parameters():
    assert from_form(TOOLS["needs"], {"a": ["1"]}, {"image": b"\xff"}) == {"a": 1, "image": b"\xff"}
    assert from_form(TOOLS["video"], {}, {"file": Path("/x")}) == {"file": Path("/x")}


class Lists:
    @tool
    def t(
        self,
        numbers: list[int],
        texts: list[str],
        raw: list[bytes],
        paths: list[Path],
        unique: set[int],
        several: tuple[int, ...],
        maybe: list[int] | None,
        anything: Any,
    ) -> None: ...


@pytest.mark.parametrize("name", ["numbers", "texts", "raw", "paths", "unique", "several", "maybe", "anything"])
def test_an_empty_list_in_a_form_is_an_empty_list(name):
    """As the client sends one beside files."""
    lists = collect_tools(Lists())["t"]
    fields = {parameter: ["[]"] for parameter in lists.parameters}
    found = from_form(lists, fields, {})[name]
    assert isinstance(found, list | set | tuple) and not found
