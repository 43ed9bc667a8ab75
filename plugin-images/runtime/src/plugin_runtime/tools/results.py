"""A tool's result → JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import msgspec

from plugin_runtime.tools.plugin_errors import message_of
from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DEPTH = 50


class _UnencodableError(TypeError):
    def __init__(self, value: object) -> None:
        super().__init__(type(value).__name__)
        self.value = value


def encode_result(value: Any, max_bytes: int, what: str = "the result") -> bytes:
    """Encode as JSON. Raises Refused with the kind `invalid_output`."""
    try:
        encoded = _encoder.encode(value)
        # msgspec writes null for NaN and infinity, which a caller could not distinguish from a missing value. Searching
        # takes longer than encoding, so that is left for results with a null in them.
        not_finite = _find_not_finite(value) if b"null" in encoded else None
    except _UnencodableError as error:
        raise Refused("invalid_output", _describe_unencodable(what, value, error.value)) from None
    except BaseException as error:  # noqa: BLE001 - encoding runs the plugin's code (`tolist`, properties)
        text = f"{what} cannot be written as JSON: {type(error).__name__}: {message_of(error)}"
        raise Refused("invalid_output", text) from None
    if not_finite is not None:
        raise Refused(
            "invalid_output", f"{what} is no JSON: {not_finite}, which JSON cannot express; return None instead"
        )
    if len(encoded) > max_bytes:
        text = (
            f"{what} has {len(encoded)} bytes as JSON and {max_bytes} are allowed; return less, or yield it in pieces"
        )
        raise Refused("invalid_output", text)
    return encoded


def _plain(value: Any) -> Any:
    """Msgspec's hook for what it does not know."""
    # NumPy's arrays and scalars, and tensors: recognised by their methods, so that nothing need be imported.
    for name in ("tolist", "item"):
        method: Callable[[], Any] | None = getattr(value, name, None)
        if callable(method) and not isinstance(value, type):
            return method()
    raise _UnencodableError(value)


_encoder = msgspec.json.Encoder(enc_hook=_plain)


def _describe_unencodable(what: str, root: Any, value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if kind is tuple:
        return f"{what} has a tuple as the key of a dict; JSON has only strings there"
    found = next((path for path, child in _walk(root, "result") if child is value), None)
    hint = "; yield from the tool itself to stream" if name == "generator" else "; return plain values"
    return f"{what} is no JSON: {f'{found} is' if found else 'it holds'} a {name}{hint}"


def _find_not_finite(value: Any) -> str | None:
    plain = msgspec.to_builtins(value, enc_hook=_plain, str_keys=True)
    for path, child in _walk(plain, "result"):
        if isinstance(child, float) and not math.isfinite(child):
            return f"{path} is {child}"
    return None


def _walk(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    yield path, value
    if depth > MAX_DEPTH:
        return
    children: Iterator[tuple[str, Any]]
    if isinstance(value, dict):
        children = ((f"{path}.{key}", child) for key, child in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        children = ((f"{path}[{index}]", child) for index, child in enumerate(value))
    elif isinstance(value, msgspec.Struct):
        children = ((f"{path}.{name}", getattr(value, name)) for name in value.__struct_fields__)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        children = ((f"{path}.{name}", getattr(value, name, None)) for name in names)
    else:
        return
    for child_path, child in children:
        yield from _walk(child, child_path, depth + 1)
