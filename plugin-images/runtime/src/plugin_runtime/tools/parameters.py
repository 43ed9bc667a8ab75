"""A tool's parameters and their JSON Schema, from its type hints."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

Upload = Literal["bytes", "path"]
PATH_SCHEMA = {"type": "string", "contentMediaType": "application/octet-stream"}
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class UnfitTool(TypeError):  # noqa: N818 - what is wrong, in one sentence for the operator
    """The signature of a tool cannot be turned into a schema."""


class Parameter(NamedTuple):
    """`schema` may refer to `definitions`, shared by all parameters of a tool."""

    name: str
    hint: Any
    required: bool
    upload: Upload | None
    schema: dict[str, Any]
    definitions: dict[str, Any]

    @property
    def takes_text(self) -> bool:
        """Whether it accepts a string: then form values are passed on as they are."""
        return _admits(self.schema, "string", self.definitions)

    @property
    def takes_list(self) -> bool:
        """Whether it accepts a list: then one form value is a list of one."""
        return _admits(self.schema, "array", self.definitions)


def read_parameters(tool: str, method: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a bound method. Raises UnfitTool, which names tool and parameter."""
    function = inspect.unwrap(method)
    names = getattr(function, "__globals__", {})
    parameters = []
    for parameter in inspect.signature(method).parameters.values():
        where = f"tool {tool}, parameter {parameter.name}"
        if parameter.kind in VARIABLE or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise UnfitTool(f"{where}: *args, **kwargs and positional-only parameters cannot be called by name")
        if parameter.annotation is inspect.Parameter.empty:
            raise UnfitTool(f"{where} has no type hint; its JSON Schema is made from it")
        hint = _resolve(where, parameter.annotation, names)
        parameters.append(_parameter(where, parameter, hint))
    return parameters


def input_schema(parameters: list[Parameter]) -> dict[str, Any]:
    """One self-contained JSON Schema for all parameters."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {parameter.name: parameter.schema for parameter in parameters},
        "required": [parameter.name for parameter in parameters if parameter.required],
        "additionalProperties": False,
    }
    definitions: dict[str, Any] = {}
    for parameter in parameters:
        definitions |= parameter.definitions
    if definitions:
        schema["$defs"] = definitions
    return schema


def _parameter(where: str, parameter: inspect.Parameter, hint: Any) -> Parameter:
    upload = _upload(hint)
    if upload == "path":
        schema, definitions = _path_schema(hint)
    else:
        schema, definitions = _schema(where, hint)
    required = parameter.default is inspect.Parameter.empty
    if not required:
        schema |= _default(parameter.default)
    return Parameter(parameter.name, hint, required, upload, schema, definitions)


def _resolve(where: str, annotation: Any, names: dict[str, Any]) -> Any:
    # `from __future__ import annotations` leaves strings. Each is resolved by itself, so that the fault is attributed.
    holder = types.SimpleNamespace(__annotations__={"hint": annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
    except BaseException as error:
        text = f"{where}: the type hint {annotation!r} cannot be resolved: {error}"
        raise UnfitTool(f"{text}; import its names outside `if TYPE_CHECKING`") from error


def _schema(where: str, hint: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        (schema,), definitions = msgspec.json.schema_components([hint], ref_template="#/$defs/{name}")
        msgspec.json.Decoder(hint)
    except Exception as error:
        reason = str(error).strip().rpartition("\n")[2]
        text = f"{where}: no JSON Schema can be made of its type hint: {reason}"
        raise UnfitTool(f"{text}; use plain types, dataclasses or TypedDicts, bytes, or pathlib.Path") from error
    return schema, definitions


def _path_schema(hint: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    description = _description(hint)
    return PATH_SCHEMA | ({"description": description} if description else {}), {}


def _default(value: Any) -> dict[str, Any]:
    """The schema's `default`, where JSON can express it."""
    try:
        plain = msgspec.json.decode(msgspec.json.encode(value))
    except Exception:  # noqa: BLE001 - any kind of object may be a default; it is then left out
        return {}
    # NaN becomes null in JSON, so it is left out as well.
    return {} if plain is None and value is not None else {"default": plain}


def _upload(hint: Any) -> Upload | None:
    """How a parameter takes an upload: `bytes` and `Path` do, also with `| None` and inside `Annotated`."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _upload(typing.get_args(hint)[0])
    if origin in (Union, types.UnionType):
        kinds = {_upload(option) for option in typing.get_args(hint) if option is not type(None)}
        return kinds.pop() if len(kinds) == 1 else None
    if hint is bytes:
        return "bytes"
    return "path" if hint is Path else None


def _description(hint: Any) -> str | None:
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, msgspec.Meta) and extra.description:
            return extra.description
    return None


def _admits(schema: dict[str, Any], kind: str, definitions: dict[str, Any]) -> bool:
    if "$ref" in schema:
        return _admits(definitions.get(schema["$ref"].rpartition("/")[2], {}), kind, definitions)
    if "anyOf" in schema:
        return any(_admits(option, kind, definitions) for option in schema["anyOf"])
    if "enum" in schema:
        return kind == "string" and any(isinstance(value, str) for value in schema["enum"])
    return bool(schema.get("type") == kind)
