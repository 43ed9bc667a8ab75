"""Plugins as hosts report them, with what a test says of them and the rest as of a well one."""

from typing import Any


def report(name: str = "reader", state: str = "INITIALIZED", **fields: Any) -> dict[str, Any]:
    alive = state not in ("FAILED", "UNAVAILABLE")
    instance = {"generation": 1, "state": state, "uptime_seconds": 5.0 if alive else None, "in_flight": 0, "host": None}
    known: dict[str, Any] = {
        "name": name,
        "state": state,
        "reason": None,
        "reason_code": None,
        "uptime_seconds": 5.0 if alive else None,
        "last_used": None,
        "success_count": 0,
        "error_count": 0,
        "last_execution_time_ms": None,
        "avg_execution_time_ms": None,
        "in_flight": 0,
        "queued": 0,
        "generation": 1,
        "observed_at": "2026-11-28T10:00:00+00:00",
        "stale": False,
        "gpus": [],
        "replicas": {"wanted": 1, "ready": int(alive), "in_manifest": 1},
        "degraded": False,
        "degraded_reason": None,
        "host": None,
        "instances": [instance],
        "candidate": None,
    }
    return known | fields
