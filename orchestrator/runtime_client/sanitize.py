"""Pure: bounds on what a runtime, which need not be ours, reports of itself: it is stored and shown to everybody."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import msgspec

MAX_ITEMS: Final = 256
"""Tools, checks, uploads of a tool."""
MAX_TEXT: Final = 4 * 1024
"""Characters of a sentence."""
MAX_TRACEBACK: Final = 64 * 1024
"""Characters."""
MAX_NUMBER: Final = 2**53
MAX_BOUNDS: Final = 64
"""Of a histogram."""
MAX_BATCH: Final = 1024
"""Items."""
MAX_BATCH_WAIT: Final = 60_000.0
"""Milliseconds."""
MAX_SCHEMA_DEPTH: Final = 32
"""Levels; what writes JSON gives up somewhere beyond 900."""
_MAX_SCHEMA: Final = 256 * 1024  # bytes as JSON
# It is part of a URL, here and in the container.
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)
_SCHEMA_OMITTED: Final = {
    "type": "object",
    "description": "The schema that the plugin gives is too deep or too large.",
}


def text(value: Any, limit: int = MAX_TEXT) -> str | None:
    """The text, cut at `limit` characters; None for anything else."""
    return value[:limit] if isinstance(value, str) else None


def checks(value: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {
            "name": text(item.get("name")) or "",
            "ok": item.get("ok") is True,
            "detail": text(item.get("detail")) or "",
        }
        for item in mappings(value)[:MAX_ITEMS]
    )


def tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The tools whose names can stand in a URL, each once; a schema out of bounds is replaced."""
    found: dict[str, Mapping[str, Any]] = {}
    for item in mappings(value):
        name = item.get("name")
        if isinstance(name, str) and _TOOL_NAME.fullmatch(name) and name not in found and len(found) < MAX_ITEMS:
            found[name] = {
                "name": name,
                "description": text(item.get("description")) or "",
                "input_schema": _schema(item.get("input_schema")),
                "output_schema": _schema(item["output_schema"])
                if isinstance(item.get("output_schema"), dict)
                else None,
                "streaming": item.get("streaming") is True,
                "uploads": _uploads(item.get("uploads")),
                "batch": _batch(item.get("batch")),
                "idempotent": item.get("idempotent") is True,
            }
    return tuple(found.values())


def batches(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The counts of batched tools, by size and by wait; of each tool once, and none that are no counts."""
    found: dict[str, Mapping[str, Any]] = {}
    for item in mappings(value)[:MAX_ITEMS]:
        name, sizes, waits = item.get("tool"), _histogram(item.get("sizes")), _histogram(item.get("waits"))
        if isinstance(name, str) and _TOOL_NAME.fullmatch(name) and sizes and waits:
            seconds = max(0.0, _number(item["waits"].get("sum_seconds")))
            found.setdefault(name, {"tool": name, "sizes": sizes, "waits": waits, "sum_seconds": seconds})
    return tuple(found.values())


def mappings(value: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _schema(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        return {}
    shown = _depth(value) <= MAX_SCHEMA_DEPTH and len(msgspec.json.encode(value)) <= _MAX_SCHEMA
    return value if shown else _SCHEMA_OMITTED


def _uploads(value: Any) -> Mapping[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: kind for name, kind in tuple(items)[:MAX_ITEMS] if kind in ("bytes", "path")}


def _batch(value: Any) -> Mapping[str, Any] | None:
    size, wait = (value.get("max_size"), value.get("max_wait_ms")) if isinstance(value, dict) else (None, None)
    if type(size) is not int or not 0 < size <= MAX_BATCH:
        return None
    milliseconds = _number(wait)
    return {"max_size": size, "max_wait_ms": milliseconds if 0 <= milliseconds <= MAX_BATCH_WAIT else 0.0}


def _histogram(value: Any) -> Mapping[str, Any] | None:
    """`bounds` that rise, and one count more than them; None for anything else."""
    bounds, counts = (value.get("bounds"), value.get("counts")) if isinstance(value, dict) else (None, None)
    if not isinstance(bounds, list) or not isinstance(counts, list):
        return None
    if not 0 < len(bounds) <= MAX_BOUNDS or len(counts) != len(bounds) + 1:
        return None
    limits = tuple(map(_number, bounds))
    if any(one >= other for one, other in pairwise(limits)):
        return None
    if not all(type(count) is int and 0 <= count < MAX_NUMBER for count in counts):
        return None
    return {"bounds": limits, "counts": tuple(counts)}


def _number(value: Any) -> float:
    """0 for what is none, or too large to be summed up."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
    return float(value) if known else 0.0


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted to one beyond the bound."""
    level, depth = [value], 0
    while level and depth <= MAX_SCHEMA_DEPTH:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1
    return depth
