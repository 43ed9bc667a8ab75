"""A tool's result → JSON bytes, within the limit; its files beside it."""

from __future__ import annotations

import collections.abc
import gc
import math
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from plugin_runtime.tools.plain_values import (
    BYTES,
    CONTAINERS,
    MAX_DEPTH,
    SCALARS,
    UnfitValue,
    to_plain,
    typed_bytes,
)
from plugin_runtime.tools.plugin_errors import message_of
from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugin_runtime.tools.output_files import OutputFiles

MAX_SEARCHED = 50  # levels to which a value that is not finite is searched for
MAX_LOOKED_AT = 16  # containers, or members of one, that are looked at one by one; of larger results level by level
PLAIN = SCALARS - {bytes}


def encode_item(value: Any, max_bytes: int, files: OutputFiles) -> bytes:
    """Encode what a generator has yielded, as `encode_result` does. Bytes, also beside their media type, are a part of
    one whole, which callers join: they stay in the item, as base64.
    """
    if type(value) is dict and PLAIN.issuperset(map(type, value.values())):  # as most are
        is_part = False
    else:
        is_part = isinstance(value, BYTES) or (
            isinstance(value, collections.abc.Mapping) and typed_bytes(value.items()) is not None
        )
    return encode_result(value, max_bytes, None if is_part else files, what="the item")


def encode_result(value: Any, max_bytes: int, files: OutputFiles | None = None, *, what: str = "the result") -> bytes:
    """Encode as JSON. Files in it become members of `files`, and their marks stand for them; without `files`, bytes are
    written as base64. Raises Refused with the kind `invalid_output`.
    """
    try:
        plain = value if _is_plain(value, [MAX_LOOKED_AT]) else to_plain(value, files)
        try:
            encoded = _encoder.encode(plain)
        except (OverflowError, TypeError):
            if plain is not value:
                raise
            # An integer beyond 64 bits, or a key that JSON does not have.
            plain = to_plain(value, files)
            encoded = _encoder.encode(plain)
        # msgspec writes null for NaN and infinity, which a caller could not distinguish from a missing value. Searching
        # takes longer than encoding, so that is left for results with a null in them.
        not_finite = _find_not_finite(plain) if b"null" in encoded else None
    except UnfitValue as unfit:
        raise Refused("invalid_output", f"{what} is no JSON: {unfit.sentence()}") from None
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


_encoder = msgspec.json.Encoder()


def _is_plain(value: Any, left: list[int]) -> bool:  # noqa: PLR0911 - each is a kind of value
    """Whether `value` consists of dicts with strings as keys, lists, tuples and scalars, of just these types."""
    kind = type(value)
    if kind in PLAIN:
        return True
    left[0] -= 1
    if kind is dict:
        if left[0] < 0 or len(value) > MAX_LOOKED_AT:
            return _has_plain_types(value)
        for key in value:
            if type(key) is not str:
                return False
        members = value.values()
    elif kind is list or kind is tuple:
        if left[0] < 0 or len(value) > MAX_LOOKED_AT:
            return _has_plain_types(value)
        members = value
    else:
        return False
    for member in members:
        kind = type(member)
        if kind not in PLAIN and not (kind in CONTAINERS and _is_plain(member, left)):
            return False
    return True


def _has_plain_types(value: Any) -> bool:
    # The garbage collector knows the members of built-in containers, in a fraction of the time of a loop.
    level = [value]
    for _ in range(MAX_DEPTH):
        keys = chain.from_iterable(container for container in level if type(container) is dict)
        if not ONLY_TEXTS.issuperset(map(type, keys)):
            return False  # two of them may be the same in JSON, 1 and "1"
        members = gc.get_referents(*level)
        kinds = set(map(type, members))
        if not kinds <= PLAIN_OR_CONTAINER:
            return False
        if kinds.isdisjoint(CONTAINERS):
            return True
        level = members if kinds <= CONTAINERS else [member for member in members if type(member) in CONTAINERS]
    return False


PLAIN_OR_CONTAINER = PLAIN | CONTAINERS
ONLY_TEXTS = frozenset({str})


def _find_not_finite(plain: Any) -> str | None:
    for path, child in _walk(plain, "result"):
        if isinstance(child, float) and not math.isfinite(child):
            return f"{path} is {child}"
    return None


def _walk(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    yield path, value
    if depth > MAX_SEARCHED:
        return
    children: Iterator[tuple[str, Any]]
    if isinstance(value, dict):
        children = ((f"{path}.{key}", child) for key, child in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        children = ((f"{path}[{index}]", child) for index, child in enumerate(value))
    else:
        return
    for child_path, child in children:
        yield from _walk(child, child_path, depth + 1)
