"""A tool's parameters and their JSON Schema, from its type hints."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import inspect
import re
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
import msgspec.inspect

from plugin_runtime.authoring import Upload
from plugin_runtime.tools.hints import (
    UNIONS,
    Factory,
    NeedsPydantic,
    UnfitHint,
    adapt,
    admits_none,
    field_default,
    is_field_info,
    with_none,
)
from plugin_runtime.tools.plugin_errors import message_of
from plugin_runtime.tools.pydantic_hints import PydanticHint
from plugin_runtime.tools.values import Reader, checker, reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from plugin_runtime.tools.values import Convert

UploadKind = Literal["bytes", "path"]
FILE_SCHEMA = {"type": "string", "contentMediaType": "application/octet-stream"}
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
IN_MEMORY = (bytes, bytearray, memoryview)
SEVERAL = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Collection)
OTHER_ADVICE = "use plain types, dataclasses, TypedDicts or pydantic models, bytes, pathlib.Path or Upload"
_OF_FILE = "take pathlib.Path or plugin_runtime.Upload, which callers send as a file"
ADVICE = {
    "PIL.Image": "take pathlib.Path, which callers send as a file, and PIL.Image.open it in the tool",
    "numpy.ndarray": "take list[float], or a file as pathlib.Path, and make the array in the tool",
    "torch.Tensor": "take list[float], or a file as pathlib.Path, and make the tensor in the tool",
    "pandas.DataFrame": "take list[dict], or a file as pathlib.Path, and make the frame in the tool",
    **dict.fromkeys(("typing.IO", "typing.BinaryIO", "typing.TextIO", "io.IOBase", "_io._IOBase"), _OF_FILE),
}
"""By package and name of a type that authors write for what callers send otherwise."""
ITEMS_ADVICE = "write it as in `images: list[bytes]`, and what describes or bounds an item inside the brackets"
NO_NAME = re.compile(r"__|_[A-Za-z0-9_]*[A-Za-z0-9]__")
"""Names that Python changes inside a class, or that mean something to it."""


class UnfitTool(TypeError):  # noqa: N818 - what is wrong, for the operator
    """The signatures of tools cannot be turned into schemas: a sentence for each fault."""

    def __init__(self, *faults: str) -> None:
        shown = faults if len(faults) == 1 else [f"({number}) {fault}" for number, fault in enumerate(faults, 1)]
        super().__init__(" ".join(shown))
        self.faults = faults


@contextlib.contextmanager
def gathering(faults: list[str]) -> Iterator[None]:
    """Put the faults of an UnfitTool into a list, so that all are said at once."""
    try:
        yield
    except UnfitTool as unfit:
        faults += unfit.faults


class Parameter(NamedTuple):
    """`schema` may refer to `definitions`, shared by all parameters of a tool."""

    name: str
    hint: Any
    """As msgspec takes it."""
    required: bool
    upload: UploadKind | None
    schema: dict[str, Any]
    definitions: dict[str, Any]
    takes_one: bool = True
    """Whether it accepts an upload by itself; both may be."""
    takes_many: bool = False
    """Whether it accepts uploads as a list."""
    wants_upload: bool = False
    """Whether its uploads are `plugin_runtime.Upload`."""
    admits_none: bool = False
    read: Reader = Reader()
    check: Convert | None = None
    convert: Convert | None = None
    """Pydantic's part, after msgspec."""
    default: Any = msgspec.NODEFAULT
    """What is passed where the caller gave nothing, or its `Factory`. NODEFAULT: nothing, the method has its own."""
    takes_text: bool = False
    """Whether it accepts a string: then form values are passed on as they are."""
    takes_list: bool = False
    """Whether it accepts a list: then one form value is a list of one."""
    takes_bool: bool = False
    """Whether it accepts a bool, or a list of them, and no string."""
    takes_number: bool = False
    """Whether it accepts a number, or a list of them, and no string."""
    takes_empty: bool = True
    """Whether it accepts an empty string."""


def read_parameters(tool: str, method: Callable[..., Any], *, batched: bool = False) -> list[Parameter]:
    """The parameters of a bound method. The first of a batched one is what a caller sends: one item of its list.
    Raises UnfitTool, which names tool and parameters.
    """
    function = inspect.unwrap(method)
    names = getattr(function, "__globals__", {})
    parameters: list[Parameter] = []
    faults: list[str] = []
    for index, parameter in enumerate(inspect.signature(method).parameters.values()):
        where = f"tool {tool}, parameter {parameter.name}"
        with gathering(faults):
            parameters.append(_read_parameter(where, parameter, names, is_items=batched and index == 0))
    if batched and not parameters and not faults:
        faults = [f"tool {tool}: a batched tool has a first parameter, the list of items; {ITEMS_ADVICE}"]
    if faults:
        raise UnfitTool(*faults)
    return parameters


def _read_parameter(where: str, parameter: inspect.Parameter, names: dict[str, Any], *, is_items: bool) -> Parameter:
    if parameter.kind in VARIABLE or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise UnfitTool(f"{where}: *args, **kwargs and positional-only parameters cannot be called by name")
    if NO_NAME.match(parameter.name):
        raise UnfitTool(f"{where}: callers cannot use a name that starts with two underscores; take another")
    if parameter.annotation is inspect.Parameter.empty:
        raise UnfitTool(f"{where} has no type hint; its JSON Schema is made from it")
    hint = _resolve(where, parameter.annotation, names)
    if is_items:
        hint = _item_of(where, parameter, hint)
    try:
        return _parameter(where, parameter, hint)
    except UnfitTool:
        raise
    except UnfitHint as error:
        raise UnfitTool(f"{where}: {error}") from error
    except Exception as error:  # metadata are the author's objects: comparing them may raise anything
        text = f"{where}: its type hint cannot be read: {type(error).__name__}: {message_of(error)}"
        raise UnfitTool(text) from error


def _item_of(where: str, parameter: inspect.Parameter, hint: Any) -> Any:
    if typing.get_origin(hint) is not list or parameter.default is not inspect.Parameter.empty:
        text = "it is the items of a batch, so it has to be a list without a default"
        raise UnfitTool(f"{where}: {text}; {ITEMS_ADVICE}")
    return typing.get_args(hint)[0]


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
        renamed = {
            name: f"{name}_{parameter.name}"
            for name, definition in parameter.definitions.items()
            if definitions.get(name, definition) != definition
        }
        if renamed:  # two classes of one name
            schema["properties"][parameter.name] = _rename(parameter.schema, renamed)
        for name, definition in parameter.definitions.items():
            definitions[renamed.get(name, name)] = _rename(definition, renamed) if renamed else definition
    if definitions:
        schema["$defs"] = definitions
    return schema


def _parameter(where: str, parameter: inspect.Parameter, hint: Any) -> Parameter:
    """Raises UnfitTool or UnfitHint."""
    default, passed = _default_of(parameter)
    if is_field_info(parameter.default):
        hint = Annotated[hint, parameter.default]
    if default is None:
        hint = with_none(hint)
    by_pydantic = None
    try:
        hint, of_hint = adapt(hint)
        if default is msgspec.NODEFAULT and of_hint is not msgspec.NODEFAULT:
            default = passed = of_hint
    except NeedsPydantic:
        by_pydantic = PydanticHint(hint)
    uploads = _uploads(hint)
    kind = uploads.kind if uploads else None
    schema, definitions = by_pydantic.schema() if by_pydantic else _schema(where, hint, is_upload=uploads is not None)
    required = default is msgspec.NODEFAULT
    if not required and not isinstance(default, Factory):
        schema = schema | _default(default)
    info = _type_info(hint, guess=by_pydantic is not None)
    if by_pydantic and not uploads:
        hint = Any
    return Parameter(
        parameter.name,
        hint,
        required,
        kind,
        schema,
        definitions,
        takes_one=not uploads or uploads.one,
        takes_many=bool(uploads and uploads.many),
        wants_upload=bool(uploads and uploads.wrapped),
        admits_none=admits_none(hint),
        read=reader(info) if info else Reader(),
        check=checker(info) if info and by_pydantic is None else None,
        convert=by_pydantic.read if by_pydantic else None,
        default=passed,
        takes_text=admits(schema, "string", definitions),
        takes_list=admits(schema, "array", definitions),
        takes_bool=_takes(schema, definitions, "boolean"),
        takes_number=_takes(schema, definitions, "number", "integer"),
        takes_empty=not uploads and _takes_empty(hint, by_pydantic),
    )


def _default_of(parameter: inspect.Parameter) -> tuple[Any, Any]:
    """The default, and the one to pass because the method's own is no value. NODEFAULT where there is none."""
    default = parameter.default
    if default is inspect.Parameter.empty:
        return msgspec.NODEFAULT, msgspec.NODEFAULT
    if is_field_info(default):
        # `n: int = Field(5, ge=1)`: its metadata belong to the hint.
        found = field_default(default)
        return found, found
    if isinstance(default, dataclasses.Field) or type(default).__module__.startswith("msgspec"):
        raise UnfitHint(f"the default {default!r} means something in a class only; write the value itself")
    return default, msgspec.NODEFAULT


def _type_info(hint: Any, *, guess: bool) -> Any:
    """None where it is a guess, and fails: msgspec need not know what pydantic reads."""
    try:
        return msgspec.inspect.type_info(hint)
    except Exception:
        if guess:
            return None
        raise


def _takes_empty(hint: Any, by_pydantic: PydanticHint | None) -> bool:
    try:
        if by_pydantic is not None:
            by_pydantic.read("", "")
        else:
            msgspec.convert("", hint, strict=False)
    except BaseException:  # noqa: BLE001 - it runs the author's code
        return False
    return True


def _takes(schema: dict[str, Any], definitions: dict[str, Any], *kinds: str) -> bool:
    """Whether it admits a JSON type, or a list of it, and no string."""
    if admits(schema, "string", definitions):
        return False
    options = [schema, *schema.get("anyOf", ())]
    items = [option["items"] for option in options if isinstance(option.get("items"), dict)]
    return any(admits(option, kind, definitions) for option in [*options, *items] for kind in kinds)


def _resolve(where: str, annotation: Any, names: dict[str, Any]) -> Any:
    # `from __future__ import annotations` leaves strings. Each is resolved by itself, so that the fault is attributed.
    holder = types.SimpleNamespace(__annotations__={"hint": annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
    except BaseException as error:
        text = f"{where}: the type hint {annotation!r} cannot be resolved: {error}"
        raise UnfitTool(f"{text}; import its names outside `if TYPE_CHECKING`") from error


def _schema(where: str, hint: Any, *, is_upload: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        (schema,), definitions = msgspec.json.schema_components(
            [hint], ref_template="#/$defs/{name}", schema_hook=_file_schema if is_upload else None
        )
        msgspec.json.Decoder(hint)
    except Exception as error:
        reason = str(error).strip().rpartition("\n")[2]
        text = f"{where}: no JSON Schema can be made of its type hint: {reason}"
        raise UnfitTool(f"{text}; {next(_advice(hint), OTHER_ADVICE)}") from error
    return _closed(schema), {name: _closed(definition) for name, definition in definitions.items()}


def _advice(hint: Any) -> Iterator[str]:
    """What to use in the stead of a well-known type, wherever it is in the hint."""
    for inner in typing.get_args(hint):
        yield from _advice(inner)
    kind = typing.get_origin(hint) or hint
    for base in getattr(kind, "__mro__", (kind,)):
        top, name = str(getattr(base, "__module__", "")).partition(".")[0], getattr(base, "__name__", "")
        if (advice := ADVICE.get(f"{top}.{name}")) is not None:
            yield advice


def _file_schema(kind: type) -> dict[str, Any]:
    if kind in (Path, Upload):
        return dict(FILE_SCHEMA)
    raise NotImplementedError


def _closed(schema: Any) -> Any:
    """With `additionalProperties: false` on the objects whose fields are known, since others are refused."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A default is a value, and may look like a schema.
    closed = {key: item if key in {"default", "examples", "enum"} else _closed(item) for key, item in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def _rename(schema: Any, names: dict[str, str]) -> Any:
    if isinstance(schema, list):
        return [_rename(item, names) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _rename(item, names) for key, item in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        head, slash, name = reference.rpartition("/")
        renamed["$ref"] = f"{head}{slash}{names.get(name, name)}"
    return renamed


def _default(value: Any) -> dict[str, Any]:
    """The schema's `default`, where JSON can express it."""
    try:
        if hasattr(value, "model_dump"):
            value = value.model_dump(mode="json")
        plain = msgspec.json.decode(msgspec.json.encode(value))
    except Exception:  # noqa: BLE001 - any kind of object may be a default; it is then left out
        return {}
    # NaN becomes null in JSON, so it is left out as well.
    return {} if plain is None and value is not None else {"default": plain}


class _Uploads(NamedTuple):
    kind: UploadKind
    one: bool
    many: bool
    wrapped: bool


def _uploads(hint: Any) -> _Uploads | None:
    """How a parameter takes uploads: `bytes`, `Path` and `Upload` do, and lists of them, also with `| None`."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _uploads(typing.get_args(hint)[0])
    if origin in UNIONS:
        found = [_uploads(option) for option in typing.get_args(hint) if option is not type(None)]
        if None in found or len({(each.kind, each.wrapped) for each in found if each}) != 1:
            return None
        uploads = [each for each in found if each]
        one, many = any(each.one for each in uploads), any(each.many for each in uploads)
        return uploads[0]._replace(one=one, many=many)
    if origin in SEVERAL:
        items = {_uploads(item) for item in typing.get_args(hint) if item is not ...}
        inner = items.pop() if len(items) == 1 else None
        return inner._replace(one=False, many=True) if inner and not inner.many else None
    if hint in IN_MEMORY:
        return _Uploads("bytes", one=True, many=False, wrapped=False)
    return _Uploads("path", one=True, many=False, wrapped=hint is Upload) if hint in (Path, Upload) else None


def admits(schema: dict[str, Any], kind: str, definitions: dict[str, Any]) -> bool:
    """Whether a schema admits a JSON type."""
    if "$ref" in schema:
        return admits(definitions.get(schema["$ref"].rpartition("/")[2], {}), kind, definitions)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return any(admits(option, kind, definitions) for option in schema[word])
    if "enum" in schema:
        return kind == "string" and any(isinstance(value, str) for value in schema["enum"])
    if "const" in schema:
        return kind == "string" and isinstance(schema["const"], str)
    return bool(schema.get("type") == kind)
