"""Recorded answers of the orchestrator, one for each reason code, for tests that have no container.

`contract.json` beside this module is for programs in any language. The suite of faults of this project makes it, and
compares it with what the orchestrator answers.
"""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, TypedDict

__all__ = ["VERSION", "Answer", "Recorded", "answers", "normalized"]

VERSION: Final = 1
"""Of the recorded answers: another one wherever an entry has changed."""
FILE: Final = "contract.json"

_TIME: Final = "2026-01-01T00:00:00+00:00"
_CHANGES: Final[dict[str, Any]] = {
    "run_id": "0" * 32,
    "uptime_seconds": 1.0,
    "execution_time_ms": 1.0,
    "execution_ms": 1.0,
    "start_estimate_seconds": 1.0,
    "generation": 1,
    "success_count": 0,
    "error_count": 0,
    "peak_memory_bytes": 1,
    "temperature_celsius": 40,
    "Retry-After": "1",
}
"""Field → what stands for its value, where it has one: it is another in each run."""
_FIXED: Final[dict[str, Any]] = {
    "last_used": None,
    "last_execution_time_ms": None,
    "avg_execution_time_ms": None,
    "evidence": {},
    "log_tail": "…",
}
"""Field → what stands for it: it depends on what was before, or on the engine."""
_LONG: Final = frozenset({"stacks", "traceback", "build_output", "container", "activity", "line"})
"""Fields whose content is another in each run."""
_PATTERNS: Final = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), _TIME),
    (re.compile(r"\b[0-9a-f]{32}\b"), "0" * 32),
    (re.compile(r"\bsha256:[0-9a-f]{64}\b"), "sha256:" + "0" * 64),
    (re.compile(r"(?<=plugin-)([a-z0-9-]+)-[0-9a-f]{8}\b"), r"\1-00000000"),
)


class Answer(TypedDict):
    """An answer over HTTP. `headers`: those that a client acts by."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class Recorded(TypedDict):
    """What a caller sees of a reason code. `call`: the answer of the run by which the plugin comes to it, null where it
    comes to it without one; `refused`: of the next run; `health`: of the plugin, then.
    """

    state: Literal["FAILED", "UNAVAILABLE"]
    call: Answer | None
    refused: Answer
    health: dict[str, Any]


@cache
def answers() -> dict[str, Recorded]:
    """Reason code → what was recorded."""
    recorded: dict[str, Any] = json.loads((files(__package__) / FILE).read_text("utf-8"))
    found: dict[str, Recorded] = recorded["codes"]
    return found


def normalized(value: Any, field: str = "") -> Any:
    """An answer without what differs from one run to the next, as the recorded ones are. Pure."""
    if field in _FIXED:
        return _FIXED[field]
    if value is None or field in _CHANGES:
        return None if value is None else _CHANGES[field]
    if field in _LONG and value:
        return {} if isinstance(value, dict) else "…"
    if isinstance(value, dict):
        return {name: normalized(each, name) for name, each in value.items()}
    if field == "checks":  # those that pass depend on the engine
        value = [check for check in value if not check["ok"]]
    if isinstance(value, list):
        return [normalized(each, field) for each in value]
    return _sentence(value) if isinstance(value, str) else value


def _sentence(text: str) -> str:
    for pattern, stands_for in _PATTERNS:
        text = pattern.sub(stands_for, text)
    return text
