"""Post-mortems as JSON text and back. Pure."""

import json
from dataclasses import asdict, fields, replace
from typing import Any, Final

import msgspec

from orchestrator.registry.records import PostMortem

_LONGEST: Final = 256 * 1024
"""Characters of one text in a post-mortem; of a longer one the end is kept, which is where it says why."""


def encoded(report: PostMortem) -> str:
    """Never raises: what JSON cannot hold is kept as text, or as question marks."""
    texts = {field.name: getattr(report, field.name) for field in fields(report)}
    long: dict[str, Any] = {
        name: text[-_LONGEST:] for name, text in texts.items() if isinstance(text, str) and len(text) > _LONGEST
    }
    report = replace(report, **long) if long else report
    try:
        return msgspec.json.encode(report).decode()
    except (TypeError, ValueError):
        return json.dumps(asdict(report), default=str, ensure_ascii=False).encode("utf-8", "replace").decode()


def decoded(text: str | None) -> PostMortem | None:
    """None for what an older or newer program wrote in another shape."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=PostMortem)
    except (TypeError, ValueError):
        return None
