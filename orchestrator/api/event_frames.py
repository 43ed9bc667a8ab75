"""How events look: as JSON, and as server-sent events."""

import json
from typing import Any, Final

from orchestrator.health.health_model import health_response
from orchestrator.registry import LifecycleEvent, PluginRecord

HEARTBEAT: Final = b": still here\n\n"
OPENING: Final = b"retry: 2000\n\n"
"""Milliseconds after which a browser whose stream ended comes back."""


def event_fields(event: LifecycleEvent) -> dict[str, Any]:
    """The event as the API shows it."""
    return {
        "id": event.id,
        "time": event.time.isoformat(),
        "plugin": event.plugin,
        "generation": event.generation,
        "previous": event.previous,
        "state": event.state,
        "reason_code": event.reason_code,
        "reason": event.reason,
    }


def lifecycle_frame(event: LifecycleEvent) -> bytes:
    data = json.dumps(event_fields(event), ensure_ascii=False, separators=(",", ":"))
    return f"event: lifecycle\nid: {event.id}\ndata: {data}\n\n".encode()


def health_frame(record: PluginRecord, now: float) -> bytes:
    """Without an id: a reader that comes back is told all plugins' health anew."""
    return f"event: health\ndata: {health_response(record, now).model_dump_json()}\n\n".encode()


def cut_frame(sentence: str) -> bytes:
    """The last of a stream that is ended because of its reader."""
    return f"event: cut\ndata: {json.dumps({'reason': sentence})}\n\n".encode()
