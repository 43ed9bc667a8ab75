"""What a container may tell of itself: bounds on the words of a runtime that need not be ours. Pure.

They are shown to everybody and kept, and an image may say what it likes.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MOST: Final = 256
"""Tools, checks."""
LONGEST_TEXT: Final = 4 * 1024
"""Characters of a sentence."""
LONGEST_TRACE: Final = 64 * 1024
_DEEPEST: Final = 32
"""Levels of a schema; what writes JSON gives up somewhere beyond 900."""
_LARGEST_SCHEMA: Final = 256 * 1024
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)
"""It is part of an address, here and in the container."""
_NOT_SHOWN: Final = {"type": "object", "description": "The schema that the plugin gives is too deep or too large."}


def text(value: Any, longest: int = LONGEST_TEXT) -> str | None:
    """The text, cut; None for what is none."""
    return value[:longest] if isinstance(value, str) else None


def checks(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Those that can be shown."""
    return tuple(
        {
            "name": text(item.get("name")) or "",
            "ok": item.get("ok") is True,
            "detail": text(item.get("detail")) or "",
        }
        for item in mappings(value)[:MOST]
    )


def tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Those whose names can stand in an address, each once; a schema that is no decent one is left out."""
    told: dict[str, Mapping[str, Any]] = {}
    for item in mappings(value):
        name = item.get("name")
        if isinstance(name, str) and _TOOL_NAME.fullmatch(name) and name not in told and len(told) < MOST:
            told[name] = {
                "name": name,
                "description": text(item.get("description")) or "",
                "input_schema": _schema(item.get("input_schema")),
                "streaming": item.get("streaming") is True,
                "uploads": _uploads(item.get("uploads")),
            }
    return tuple(told.values())


def mappings(value: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _schema(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        return {}
    return value if _depth(value) <= _DEEPEST and len(msgspec.json.encode(value)) <= _LARGEST_SCHEMA else _NOT_SHOWN


def _uploads(value: Any) -> Mapping[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: kind for name, kind in tuple(items)[:MOST] if kind in ("bytes", "path")}


def _depth(value: Any) -> int:
    """Levels of lists and objects; no further than one too many."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1
    return depth
