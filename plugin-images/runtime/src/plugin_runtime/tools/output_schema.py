"""The JSON Schema of what a tool returns, or of each item that it yields, from its return hint."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import inspect
import os
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union

import msgspec

from plugin_runtime.authoring import File, InvalidInput, Progress
from plugin_runtime.tools.parameters import UnfitTool
from plugin_runtime.tools.plain_values import ADVICE, SCALARS, WRITTEN_BY_MSGSPEC

if TYPE_CHECKING:
    from collections.abc import Callable

ABC = collections.abc
STREAMED = (ABC.Generator, ABC.AsyncGenerator, ABC.AsyncIterator, ABC.AsyncIterable)
YIELDED = (*STREAMED, ABC.Iterator, ABC.Iterable)
ARRAYS = (list, tuple, set, frozenset, collections.deque, range, collections.UserList, ABC.Sequence, ABC.Set)
VIEWS = (ABC.ValuesView, ABC.Iterator, ABC.Iterable, ABC.Collection)
OBJECTS = (dict, ABC.Mapping)
METHODS = ("tolist", "item", "numpy", "model_dump", "__fspath__", "__attrs_attrs__", "__fields__", "unicode_string")
"""By which `plain_values` writes what it does not know."""
UNFIT = {"Callable", "IO", "TextIO", "BinaryIO", "Pattern", "Match", "Type", *ADVICE}
OTHER_ADVICE = "return plain values, a dataclass, a TypedDict or a pydantic model"
MAX_DEPTH = 20
FILE_SCHEMA = {
    "title": "File",
    "description": "A file of the result, under this URL of the orchestrator.",
    "type": "object",
    "properties": {
        "file": {"type": "string", "description": "Its name."},
        "media_type": {"type": "string"},
        "size": {"type": "integer", "description": "Bytes."},
        "sha256": {"type": "string"},
        "url": {"type": "string"},
    },
    "required": ["file", "media_type", "size", "sha256", "url"],
}


class _GivenFile(msgspec.Struct):
    """Stands for a file in hints: msgspec takes it in unions, as it takes no type that it does not know."""


class _Unfit(Exception):  # noqa: N818 - carries the type
    def __init__(self, kind: Any) -> None:
        super().__init__(kind)
        self.kind = kind


class Output(NamedTuple):
    """A hint: of the result, or of an item."""

    hint: Any
    streamed: bool


def output_schema(
    tool: str, method: Callable[..., Any], *, streaming: bool, batched: bool = False
) -> dict[str, Any] | None:
    """None where the hint says nothing, or nothing that a schema could. Of a batched tool that of one item's result.
    Raises UnfitTool for what no result can be.
    """
    output = _output(method, streaming=streaming)
    if output is None or output.hint in (Any, object, inspect.Signature.empty):
        return None
    if batched:
        output = output._replace(hint=_item_of(tool, output.hint))
    try:
        hint = _known(output.hint, 0)
    except _Unfit as unfit:
        what = "each item" if output.streamed else "the result"
        raise UnfitTool(f"tool {tool}: {what} cannot be a {_name(unfit.kind)} in JSON; {_advice(unfit.kind)}") from None
    schema = None if hint is Any else _schema(hint)
    if schema is None:
        return None
    # Bytes that are yielded are a part of one whole, and stay base64.
    return _with_bytes_as_files(schema) if not output.streamed or not _is_part(schema) else schema


def _item_of(tool: str, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is list:
        return Any
    if origin is not list:
        text = f"a batched tool returns a list with a result for each item, not a {_name(hint)}"
        raise UnfitTool(f"tool {tool}: {text}; write it as in `-> list[dict[str, float]]`")
    return _without(InvalidInput, arguments[0])


def _is_part(schema: dict[str, Any]) -> bool:
    name = schema.get("$ref", "").rpartition("/")[2]
    return _is_bytes(schema) or _is_typed_bytes(schema.get("$defs", {}).get(name, schema))


def _with_bytes_as_files(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_bytes_as_files(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    if (
        schema.get("$ref") == f"#/$defs/{_GivenFile.__name__}"
        or _is_bytes(schema)
        or (_is_typed_bytes(schema) and len(schema["properties"]) == 2)
    ):
        about = {key: schema[key] for key in ("description",) if key in schema}
        return {**FILE_SCHEMA, **about}
    replaced = {key: _with_bytes_as_files(member) for key, member in schema.items() if key != _GivenFile.__name__}
    return replaced if replaced.get("$defs", True) else {key: replaced[key] for key in replaced if key != "$defs"}


def _is_bytes(schema: Any) -> bool:
    return isinstance(schema, dict) and (
        schema.get("contentEncoding") == "base64" or (schema.get("type"), schema.get("format")) == ("string", "binary")
    )


def _is_typed_bytes(schema: dict[str, Any]) -> bool:
    """As `plain_values.typed_bytes`."""
    properties = schema.get("properties")
    return isinstance(properties, dict) and "media_type" in properties and _is_bytes(properties.get("data"))


def _output(method: Callable[..., Any], *, streaming: bool) -> Output | None:
    function = inspect.unwrap(method)
    try:
        annotation = inspect.signature(function).return_annotation
        names = getattr(function, "__globals__", {})
        if annotation is None:
            return Output(type(None), streamed=False)
        holder = types.SimpleNamespace(__annotations__={"hint": annotation})
        hint = typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
    except Exception:  # noqa: BLE001 - a name that only type checkers import: the hint says nothing here
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (ABC.Awaitable, ABC.Coroutine) and arguments:
        hint = arguments[-1]
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in STREAMED or (streaming and origin in YIELDED):
        return Output(_without(Progress, arguments[0]), streamed=True) if arguments else None
    if streaming or hint in YIELDED:
        return None  # a bare Iterator; or a generator whose hint is none of its kind
    return Output(hint, streamed=False)


def _without(kind: type, hint: Any) -> Any:
    """The hint of what is left where such values mean something else."""
    if hint is kind:
        return Any
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = tuple(option for option in typing.get_args(hint) if option is not kind)
        return Union[rest] if rest else Any  # noqa: UP007 - of a tuple
    return hint


def _known(hint: Any, depth: int) -> Any:  # noqa: C901, PLR0911 - a table of kinds
    """The hint in types that msgspec describes as `plain_values` writes them; Any for what is not known before a value
    comes. Raises _Unfit.
    """
    if depth > MAX_DEPTH:  # a type that contains itself
        return hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _known_type(hint, depth)
    if origin is Annotated:
        inner = _known(arguments[0], depth + 1)
        return inner if inner is Any else Annotated[(inner, *hint.__metadata__)]
    if origin is typing.Literal:
        return hint
    if origin in (Union, types.UnionType):
        options = [_known(option, depth + 1) for option in arguments]
        return Any if Any in options else Union[tuple(options)]  # noqa: UP007 - of a tuple
    if origin is type or origin is ABC.Callable or _base_name(origin) in UNFIT:
        raise _Unfit(hint)
    inner = [argument if argument is ... else _known(argument, depth + 1) for argument in arguments]
    if origin is tuple:
        return tuple[tuple(inner)]  # type: ignore[misc]
    if not isinstance(origin, type):
        return Any
    if issubclass(origin, collections.Counter):
        return dict[inner[0], int]  # type: ignore[valid-type]
    if issubclass(origin, OBJECTS) and len(inner) == 2:
        return dict[inner[0], inner[1]]  # type: ignore[valid-type]
    if issubclass(origin, (*ARRAYS, *VIEWS)) and len(inner) == 1:
        return list[inner[0]]  # type: ignore[valid-type]
    return hint if dataclasses.is_dataclass(origin) or issubclass(origin, msgspec.Struct) else Any


def _known_type(kind: Any, depth: int) -> Any:  # noqa: C901, PLR0911, PLR0912 - a table of kinds
    if kind in SCALARS or kind in WRITTEN_BY_MSGSPEC or kind in (None, bytearray, memoryview):
        return kind
    if typing.is_typeddict(kind):
        return _checked(kind, depth)
    if kind is Any or not isinstance(kind, type):
        return Any
    if issubclass(kind, File) or _is_image(kind):
        return _GivenFile
    if issubclass(kind, (enum.Enum, msgspec.Struct)):
        return kind
    if dataclasses.is_dataclass(kind) or hasattr(kind, "__attrs_attrs__") or hasattr(kind, "_fields"):
        return _checked(kind, depth)
    for base in (str, bytes, float, int, *WRITTEN_BY_MSGSPEC):
        if issubclass(kind, base):
            return base
    if issubclass(kind, os.PathLike) or kind.__module__ in {"ipaddress", "zoneinfo"}:
        return str
    if callable(getattr(kind, "model_json_schema", None)):
        return kind
    if issubclass(kind, OBJECTS):
        return dict
    if issubclass(kind, ARRAYS):
        return list
    if not _may_be_written(kind):
        raise _Unfit(kind)
    return Any


def _checked(kind: Any, depth: int) -> Any:
    """The type, where its fields can be written."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - as in `_output`
        return Any
    for hint in hints.values():
        _known(hint, depth + 1)
    return kind


def _may_be_written(kind: type) -> bool:
    if any(hasattr(kind, name) for name in METHODS) or kind is types.SimpleNamespace:
        return True
    # What returns is a subclass then, which may be anything.
    return kind is object or inspect.isabstract(kind) or getattr(kind, "_is_protocol", False)


def _schema(hint: Any) -> dict[str, Any] | None:
    definitions: dict[str, Any] = {}

    def describe(kind: Any) -> dict[str, Any]:
        """Of a type that msgspec does not know, within one that it does."""
        known = _known(kind, 0)
        if callable(getattr(known, "model_json_schema", None)):
            schema: dict[str, Any] = known.model_json_schema(
                mode="serialization", by_alias=False, ref_template="#/$defs/{model}"
            )
            definitions.update(schema.pop("$defs", {}))
            return schema
        if known is Any or known is kind:
            return {}
        (schema,), more = msgspec.json.schema_components([known], schema_hook=describe, ref_template="#/$defs/{name}")
        definitions.update(more)
        return schema

    try:
        (schema,), more = msgspec.json.schema_components([hint], schema_hook=describe, ref_template="#/$defs/{name}")
    except Exception:  # noqa: BLE001 - a schema is a help, and its absence no reason to refuse a tool
        return None
    definitions.update(more)
    return {**schema, "$defs": definitions} if definitions else schema or None


def _base_name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _name(kind: Any) -> str:
    if not isinstance(kind, type):
        return str(kind)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_image(kind: type) -> bool:
    """Whether it is PIL's."""
    return any(_name(base) == "PIL.Image.Image" for base in kind.__mro__)


def _advice(kind: Any) -> str:
    return ADVICE.get(_base_name(kind), OTHER_ADVICE)
