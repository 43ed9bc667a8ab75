"""Decoded requests → keyword arguments: strict for JSON, lax for form and query values. Pure."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

import msgspec

from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plugin_runtime.tools.parameters import Parameter
    from plugin_runtime.tools.toolset import Tool

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
JSON_NAMES = {dict: "object", list: "array", str: "str", bool: "bool", int: "int", float: "float", type(None): "null"}
BUILTINS = (bytes, bytearray, memoryview)


def from_json(tool: Tool, body: bytes) -> dict[str, Any]:
    """The arguments of a body that is a JSON object, or empty. Raises Refused."""
    try:
        arguments = tool.decoder.decode(body or b"{}")
    except msgspec.ValidationError as error:
        raise _refuse(tool, str(error), _decode_anything(body or b"{}"), BY_JSON) from None
    except (ValueError, RecursionError) as error:
        raise _no_json(error) from None
    _require_paths(tool, {})
    return _given(arguments)


def from_form(tool: Tool, texts: Mapping[str, list[str]], uploads: Mapping[str, bytes | Path]) -> dict[str, Any]:
    """The arguments of form or query values, one list per name, and uploads. Raises Refused."""
    values: dict[str, Any] = {name: _value(tool.parameters.get(name), texts[name]) for name in texts}
    paths = {}
    for name, upload in uploads.items():
        if name in values:
            raise Refused("invalid_arguments", f"parameter {name!r} was sent twice: as a value and as an upload")
        if isinstance(upload, bytes):
            values[name] = upload
        else:
            paths[name] = upload
    try:
        # Lax, since a form has only text: "1" is an integer and "true" a bool.
        arguments = msgspec.convert(values, tool.arguments, strict=False, builtin_types=BUILTINS)
    except msgspec.ValidationError as error:
        raise _refuse(tool, str(error), values, BY_FORM) from None
    _require_paths(tool, paths)
    return _given(arguments) | paths


def _given(arguments: msgspec.Struct) -> dict[str, Any]:
    fields = arguments.__struct_fields__
    return {name: value for name in fields if (value := getattr(arguments, name)) is not msgspec.UNSET}


def _require_paths(tool: Tool, paths: Mapping[str, Path]) -> None:
    for name, parameter in tool.parameters.items():
        if parameter.upload == "path" and parameter.required and name not in paths:
            raise Refused("invalid_arguments", f"parameter {name!r} is missing: {BY_JSON}")


BY_JSON = "a file is sent as multipart/form-data or as the raw body, not in JSON"
BY_FORM = "a file is sent as a part with a file name"


def _value(parameter: Parameter | None, texts: list[str]) -> Any:
    if parameter is None:
        return texts[0]  # the check of the arguments says that there is no such parameter
    values = [text if parameter.takes_text else _json_or_text(text) for text in texts]
    if len(values) > 1:
        return values
    if parameter.takes_list and not parameter.takes_text and not isinstance(values[0], list):
        return None if values[0] is None else values
    return values[0]


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text


OUT_OF_RANGE = object()
"""Stands for a body that is JSON, with a number in it that no Python value can hold."""


def _decode_anything(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError:
        return OUT_OF_RANGE
    except (ValueError, RecursionError) as error:
        raise _no_json(error) from None


def _no_json(error: ValueError | RecursionError) -> Refused:
    if isinstance(error, RecursionError):
        return Refused("bad_request", "the body is no JSON that can be read: it is nested too deep")
    return Refused("bad_request", f"the body is no JSON: {error}")


def _refuse(tool: Tool, message: str, values: Any, upload_hint: str) -> Refused:
    return Refused("invalid_arguments", describe_mismatch(tool, message, values, upload_hint))


def describe_mismatch(tool: Tool, message: str, values: Any, upload_hint: str = "") -> str:
    """Msgspec's message → a sentence with the parameter, the value received and what was expected."""
    expected, _, path = message.partition(" - at `$")
    path = path.rstrip("`")
    unseen = values is OUT_OF_RANGE
    if not isinstance(values, dict) and not (unseen and (path or expected.startswith("Object "))):
        got = (expected.partition(", got ")[2].strip("`") or "number") if unseen else json_name(values)
        return f"the arguments have to be one JSON object, got a JSON {got}"
    if not path:
        return _describe_names(tool, expected, upload_hint)
    name = path.lstrip(".").replace("[", ".").partition(".")[0]
    inner = "" if path == f".{name}" else f" (at {path.lstrip('.')})"
    expected = expected[:1].lower() + expected[1:]
    if unseen:
        return f"parameter {name!r}{inner}: {expected}"
    value = follow(values, path)
    expected = expected.partition(", got ")[0]
    return f"parameter {name!r}{inner}: {expected}, got {json_name(value)} {_short.repr(value)}"


def _describe_names(tool: Tool, message: str, upload_hint: str) -> str:
    name = message.partition("`")[2].rstrip("`")
    if message.startswith("Object missing required field"):
        parameter = tool.parameters.get(name)
        wanted = _wanted(parameter) if parameter else ""
        return f"parameter {name!r} is missing{wanted}"
    if name in tool.parameters:
        return f"parameter {name!r} is an upload: {upload_hint}"
    known = ", ".join(tool.parameters) or "none"
    return f"no parameter named {name!r}; tool {tool.name} takes: {known}"


def _wanted(parameter: Parameter) -> str:
    kind = parameter.upload or parameter.schema.get("type")
    return f" (expected: {kind})" if kind else ""


def follow(values: Any, path: str) -> Any:
    """The value at a path as msgspec writes it, `.a[0].b`, or the one before a step that it cannot follow, `[...]`."""
    for step in path.replace("[", ".[").split("."):
        if not step:
            continue
        try:
            values = values[int(step[1:-1])] if step.startswith("[") else values[step]
        except (ValueError, LookupError, TypeError):
            return values
    return values


def json_name(value: Any) -> str:
    """JSON's name for the type of a decoded value."""
    return JSON_NAMES.get(type(value), type(value).__name__)
