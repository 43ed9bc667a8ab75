"""Decoded requests → keyword arguments: strict for JSON, lax for form and query values."""

# Argument types are the author's: making one may raise anything, SystemExit included. A caller's value made it raise,
# so the caller gets it, as 422.

from __future__ import annotations

import copy
import json
import math
import re
import reprlib
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from plugin_runtime.authoring import Upload
from plugin_runtime.tools.hints import Factory
from plugin_runtime.tools.plugin_errors import message_of
from plugin_runtime.tools.refusals import Refused
from plugin_runtime.tools.values import BASE64_EXPECTED, Unfit, decode_base64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plugin_runtime.tools.parameters import Parameter
    from plugin_runtime.tools.toolset import Tool
    from plugin_runtime.tools.uploads import File

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
JSON_NAMES = {dict: "object", list: "array", str: "str", bool: "bool", int: "int", float: "float", type(None): "null"}
BUILTINS = (bytes, bytearray, memoryview)
MAX_ALLOWED = 20
"""Values of an enumeration that a refusal lists."""
BY_JSON = "a file is sent as multipart/form-data or as the raw body, not in JSON"
BY_FORM = "send it as a file: curl -F {name}=@{file}"
A_PATH = re.compile(r"[\w./~+@%-]{1,80}")
WORDS = {"on": "true", "yes": "true", "off": "false", "no": "false"}
"""What browsers and people write for a bool, beside true, false, 1 and 0."""


def from_json(tool: Tool, body: bytes) -> dict[str, Any]:
    """The arguments of a body that is a JSON object, or empty. Raises Refused."""
    body = body or b"{}"
    _refuse_repeated(tool, body)
    if not tool.reads_all:
        try:
            arguments = tool.decoder.decode(body)
        except BaseException:  # noqa: BLE001, S110 - what is wrong, if anything, is found below
            pass
        else:
            return _complete(tool, arguments) if tool.completes else _given(arguments)
    values = _decode_anything(body)
    if values is OUT_OF_RANGE:
        return _out_of_range(tool, body)
    if not isinstance(values, dict):
        raise Refused("invalid_arguments", f"the arguments have to be one JSON object, got a JSON {json_name(values)}")
    return _convert(tool, values, BY_JSON, strict=True)


def _refuse_repeated(tool: Tool, body: bytes) -> None:
    """Raises Refused for an argument that stands twice in a JSON object: decoders take the last, without a word."""
    # Nearly no body has a name twice, also not within other values: those are read once more.
    if not any(body.count(b'"%b"' % name.encode()) > 1 for name in tool.parameters):
        return
    pairs: list[tuple[str, Any]] = []

    def remember(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal pairs
        pairs = found  # the outermost object is the last to end
        return {}

    try:
        outermost = json.loads(body, object_pairs_hook=remember)
    except (ValueError, RecursionError):
        return  # what is wrong with it is said later
    names = [name for name, _ in pairs] if isinstance(outermost, dict) else []
    for name in tool.parameters:
        if names.count(name) > 1:
            raise Refused("invalid_arguments", f"parameter {name!r} was sent {_times(names.count(name))} in one object")


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"


def from_form(tool: Tool, texts: Mapping[str, list[str]], uploads: Mapping[str, File | list[File]]) -> dict[str, Any]:
    """The arguments of form or query values, one list per name, and uploads. Raises Refused."""
    values: dict[str, Any] = {}
    for name, of_name in texts.items():
        if name in uploads and any(of_name):
            raise Refused("invalid_arguments", f"parameter {name!r} was sent twice: as a value and as an upload")
        value = _value(tool.parameters.get(name), of_name)
        if value is not msgspec.UNSET:
            values[name] = value
    for name, upload in uploads.items():
        files = upload if isinstance(upload, list) else [upload]
        parameter = tool.parameters[name]
        values[name] = files if parameter.takes_many and (len(files) > 1 or not parameter.takes_one) else files[0]
    # Lax, since a form has only text: "1" is an integer and "true" a bool.
    return _convert(tool, values, "", strict=False)


def _convert(tool: Tool, values: dict[str, Any], upload_hint: str, *, strict: bool) -> dict[str, Any]:
    read = {name: _read(tool.parameters.get(name), value) for name, value in values.items()}
    try:
        arguments = msgspec.convert(read, tool.arguments, strict=strict, builtin_types=BUILTINS, str_keys=True)
    except msgspec.ValidationError as error:
        raise _mismatch(tool, error, values, upload_hint) from None
    except BaseException as error:  # noqa: BLE001 - the author's
        raise _raised(tool, read, error, strict=strict) from None
    return _complete(tool, arguments) if tool.completes else _given(arguments)


def _read(parameter: Parameter | None, value: Any) -> Any:
    if parameter is None:
        return value  # the check of the arguments says that there is no such parameter
    try:
        return parameter.read(value, "")
    except Unfit as unfit:
        raise _unfit(parameter.name, unfit, value) from None
    except RecursionError:
        raise Refused("bad_request", f"parameter {parameter.name!r} is nested too deep") from None


def _given(arguments: msgspec.Struct) -> dict[str, Any]:
    fields = arguments.__struct_fields__
    return {name: value for name in fields if (value := getattr(arguments, name)) is not msgspec.UNSET}


def _complete(tool: Tool, arguments: msgspec.Struct) -> dict[str, Any]:
    """With defaults that the method itself does not have, and checked by what msgspec does not know."""
    given = _given(arguments)
    for name, parameter in tool.parameters.items():
        if parameter.upload and given.get(name, ...) is None and not parameter.required and not parameter.admits_none:
            del given[name]
        if name in given:
            given[name] = _checked(parameter, given[name])
        elif parameter.default is not msgspec.NODEFAULT:
            default = parameter.default
            given[name] = default.make() if isinstance(default, Factory) else copy.deepcopy(default)
    return given


def _checked(parameter: Parameter, value: Any) -> Any:
    try:
        if parameter.check is not None:
            parameter.check(value, "")
        if parameter.convert is not None:
            return parameter.convert(value, "")
    except Unfit as unfit:
        raise _unfit(parameter.name, unfit, value) from None
    except BaseException as error:  # noqa: BLE001 - the author's
        raise Refused("invalid_arguments", f"parameter {parameter.name!r}: {_named(error)}") from None
    return value


def _value(parameter: Parameter | None, texts: list[str]) -> Any:
    """UNSET for a field that was left empty."""
    if parameter is None:
        return texts[0]  # the check of the arguments says that there is no such parameter
    if not parameter.takes_empty and not any(texts):
        if parameter.required and parameter.admits_none:
            return None
        if parameter.upload or not parameter.required:
            return msgspec.UNSET
    if parameter.upload:
        return _text_of_files(parameter, texts)
    if parameter.takes_bool:
        texts = [WORDS.get(text.strip().lower(), text) for text in texts]
    if len(texts) > 1 and not parameter.takes_list:
        shown = ", ".join(_short.repr(text) for text in texts[:MAX_ALLOWED])
        sentence = f"parameter {parameter.name!r} takes one value, and was sent {_times(len(texts))}: {shown}"
        raise Refused("invalid_arguments", sentence)
    values = [text if parameter.takes_text else _json_or_text(text) for text in texts]
    if parameter.takes_number:
        values = [_number(value) if isinstance(value, str) else value for value in values]
    one_of_list = parameter.takes_list and not parameter.takes_text and not isinstance(values[0], list | None)
    return values if len(values) > 1 or one_of_list else values[0]


def _text_of_files(parameter: Parameter, texts: list[str]) -> Any:
    """Base64, as in JSON: any other text is the name of a file that was not read. Raises Refused."""
    several = len(texts) != 1 or (parameter.takes_many and not parameter.takes_one)
    if parameter.takes_many and not texts[1:] and isinstance(given := _json_or_text(texts[0]), list):
        several, texts = True, given
    for text in texts:
        if parameter.upload == "path" or not (isinstance(text, str) and _is_base64(text)):
            what = "an upload" if parameter.upload == "path" else "an upload or its base64"
            sentence = f"parameter {parameter.name!r} is {what}, got {_shown(text)}; {as_a_file(parameter.name, text)}"
            raise Refused("invalid_arguments", sentence)
    return texts if several else texts[0]


def _is_base64(text: str) -> bool:
    try:
        decode_base64(text)
    except ValueError:
        return False
    return True


def as_a_file(name: str, text: str = "") -> str:
    """How a form's file is sent, whose path `text` may be."""
    return BY_FORM.format(name=name, file=text if isinstance(text, str) and A_PATH.fullmatch(text) else "FILE")


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text


def _number(text: str) -> Any:
    """What Python takes for a number, and JSON does not: `.5`, `+3`, `1_000`. Any other text as it is."""
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text
    return text


OUT_OF_RANGE = object()
"""Stands for a body that is JSON, with a number in it that no Python value can hold."""


def _decode_anything(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError:
        return OUT_OF_RANGE
    except RecursionError:
        raise Refused("bad_request", "the body is no JSON that can be read: it is nested too deep") from None
    except ValueError as error:
        raise Refused("bad_request", f"the body is no JSON: {error}") from None


def _out_of_range(tool: Tool, body: bytes) -> dict[str, Any]:
    """Raises Refused as msgspec says where the number is."""
    try:
        return _complete(tool, tool.decoder.decode(body))
    except msgspec.ValidationError as error:
        raise _mismatch(tool, error, OUT_OF_RANGE, BY_JSON) from None
    except Refused:
        raise
    except BaseException as error:  # noqa: BLE001 - the author's
        raise Refused("invalid_arguments", f"a number is out of range, and {_named(error)} was raised") from None


# What is wrong


def _mismatch(tool: Tool, error: msgspec.ValidationError, values: Any, upload_hint: str) -> Refused:
    cause = error.__cause__
    message = str(error)
    if isinstance(values, dict) and cause is None and not PATH.search(message) and not message.startswith("Object "):
        # An author's type raised msgspec's own error, which then comes without a path.
        for name, value in values.items():
            if name in tool.parameters and not _converts(tool.parameters[name], value):
                return _unfit(name, Unfit("", _named(error)), value)
    if cause is None:
        return Refused("invalid_arguments", describe_mismatch(tool, str(error), values, upload_hint))
    # What the author's own type raised; msgspec adds where.
    match = PATH.search(str(error))
    path = match[2] if match else ""
    name = first_step(path)
    value = values if values is OUT_OF_RANGE else follow(values, path)
    return _unfit(name, Unfit(path.removeprefix(f".{name}"), _named(cause), value=value), None)


def _unfit(name: str, unfit: Unfit, value: Any) -> Refused:
    where = f"parameter {name!r}" + (f" (at {name}{unfit.path})" if unfit.path else "")
    found = follow(value, unfit.path) if unfit.value is msgspec.UNSET else unfit.value
    got = f", got {_shown(found)}" if unfit.shown and found is not OUT_OF_RANGE else ""
    return Refused("invalid_arguments", f"{where}: {unfit.sentence}{got}")


def _raised(tool: Tool, read: dict[str, Any], error: BaseException, *, strict: bool) -> Refused:
    """What an author's type raised that msgspec passes on, and so without where: found by another try."""
    for name, value in read.items():
        parameter = tool.parameters.get(name)
        if parameter is not None and (second := _raises(parameter.hint, value, strict=strict)) is not None:
            path = _locate(parameter.hint, value, strict=strict)
            return _unfit(name, Unfit(path, _named(second)), value)
    return Refused("invalid_arguments", f"the arguments cannot be made: {_named(error)}")


def _raises(hint: Any, value: Any, *, strict: bool) -> BaseException | None:
    try:
        msgspec.convert(value, hint, strict=strict, builtin_types=BUILTINS, str_keys=True)
    except msgspec.ValidationError:
        return None
    except BaseException as error:  # noqa: BLE001 - the author's
        return error
    return None


def _converts(parameter: Parameter, value: Any) -> bool:
    try:
        msgspec.convert(parameter.read(value, ""), parameter.hint, strict=False, str_keys=True)
    except Exception:  # noqa: BLE001 - whatever it is
        return False
    return True


def _locate(hint: Any, value: Any, *, strict: bool) -> str:
    """The path of the item within lists and dicts that raises."""
    arguments = [item for item in typing.get_args(hint) if item not in (type(None), ...)]
    if typing.get_origin(hint) is not None and arguments and isinstance(value, list | dict):
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        for inner in {id(item): item for item in (arguments[0], arguments[-1])}.values():
            for key, item in pairs:
                if _raises(inner, item, strict=strict) is not None:
                    step = f".{key}" if isinstance(value, dict) else f"[{key}]"
                    return step + _locate(inner, item, strict=strict)
        if len(arguments) == 1 or typing.get_origin(hint) is typing.Annotated:
            return _locate(arguments[0], value, strict=strict)
    return ""


def _named(error: BaseException) -> str:
    message = message_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


PATH = re.compile(r" - at (`key` in )?`\$(.*)`$", re.DOTALL)


def describe_mismatch(tool: Tool, message: str, values: Any, upload_hint: str = "") -> str:
    """Msgspec's message → a sentence with the parameter, the value received and what was expected. `upload_hint`: how
    a file is sent; empty for a form.
    """
    match = PATH.search(message)
    expected = message[: match.start()] if match else message
    of_key, path = (match[1], match[2]) if match else (None, "")
    unseen = values is OUT_OF_RANGE
    if not isinstance(values, dict) and not (unseen and (path or expected.startswith("Object "))):
        got = (expected.partition(", got ")[2].strip("`") or "number") if unseen else json_name(values)
        return f"the arguments have to be one JSON object, got a JSON {got}"
    if not path:
        return _describe_names(tool, expected, upload_hint)
    name = first_step(path)
    parameter = tool.parameters.get(name)
    inner = "" if path == f".{name}" else f" (at {path.lstrip('.')})"
    if parameter is not None and parameter.upload == "path" and " of length " not in expected:
        return f"parameter {name!r} is an upload: {upload_hint or as_a_file(name)}"
    expected = _wanted_there(parameter, path, expected, of_key) or expected[:1].lower() + expected[1:]
    if of_key:
        return f"parameter {name!r}{inner}: a key of it: {expected}"
    if unseen:
        return f"parameter {name!r}{inner}: {expected}"
    expected = expected.partition(", got ")[0]
    return f"parameter {name!r}{inner}: {expected}, got {_shown(follow(values, path))}"


ONE_TYPE = re.compile(r"Expected `(str|int)( \| null)?`, got ")


def _wanted_there(parameter: Parameter | None, path: str, expected: str, of_key: str | None) -> str | None:
    """What the schema says better than msgspec does: the values of an enumeration, and that bytes are base64."""
    if parameter is None:
        return None
    if expected.startswith(("Expected `bytes`, got", "Expected `bytes | null`, got", "Invalid base64")):
        return BASE64_EXPECTED
    if not expected.startswith("Invalid enum value") and not ONE_TYPE.match(expected):
        return None
    within = path.removeprefix(f".{parameter.name}")
    allowed = parameter.read.keys if of_key else list(_allowed(parameter.schema, parameter.definitions, within))
    if not allowed:
        return None
    shown = ", ".join(_short.repr(value) for value in allowed[:MAX_ALLOWED])
    more = f" … ({len(allowed)} in all)" if len(allowed) > MAX_ALLOWED else ""
    return f"expected one of {shown}{more}"


def _allowed(schema: Any, definitions: dict[str, Any], path: str) -> typing.Iterator[Any]:
    """The enumerated values at a path of a schema, of every option that there is."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        yield from _allowed(definitions.get(schema["$ref"].rpartition("/")[2]), definitions, path)
    for option in schema.get("anyOf", ()):
        yield from _allowed(option, definitions, path)
    if not path:
        yield from schema.get("enum", ())
        return
    step, rest = STEP.match(path).groups()  # type: ignore[union-attr]
    if step == "[...]":
        yield from _allowed(schema.get("items"), definitions, rest)
        yield from _allowed(schema.get("additionalProperties"), definitions, rest)
    elif step.startswith("["):
        prefix, index = schema.get("prefixItems", ()), int(step[1:-1])
        yield from _allowed(prefix[index] if index < len(prefix) else schema.get("items"), definitions, rest)
    else:
        yield from _allowed(schema.get("properties", {}).get(step[1:]), definitions, rest)


STEP = re.compile(r"(\[[^\]]*\]|\.[^.\[]*|[^.\[]+)(.*)", re.DOTALL)


def _describe_names(tool: Tool, message: str, upload_hint: str) -> str:
    name = message.partition("`")[2].rstrip("`")
    if message.startswith("Object missing required field"):
        parameter = tool.parameters.get(name)
        return f"parameter {name!r} is missing{_wanted(parameter, upload_hint) if parameter else ''}"
    known = ", ".join(tool.parameters) or "none"
    return f"no parameter named {name!r}; tool {tool.name} takes: {known}"


def _wanted(parameter: Parameter, upload_hint: str) -> str:
    if parameter.upload == "path" or (parameter.upload and not upload_hint):
        return f": {upload_hint or as_a_file(parameter.name)}"
    kind = parameter.upload or parameter.schema.get("type")
    return f" (expected: {kind})" if kind else ""


def first_step(path: str) -> str:
    """The parameter of a path."""
    return path.lstrip(".").replace("[", ".").partition(".")[0]


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


def _shown(value: Any) -> str:
    """A caller's value, cut; of an upload not where it is stored."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if type(value) in JSON_NAMES or isinstance(value, int | float | str):
        return f"{json_name(value)} {_short.repr(value)}"
    return "an upload" if isinstance(value, Path | Upload) else type(value).__name__


def json_name(value: Any) -> str:
    """JSON's name for the type of a decoded value."""
    return JSON_NAMES.get(type(value), type(value).__name__)
