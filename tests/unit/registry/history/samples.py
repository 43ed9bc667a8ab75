"""Sample records for the tests, and reading the file without the store."""

import asyncio
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import LifecycleEvent
from orchestrator.registry.history import HistoryStore, RunRecord

START = datetime.now(UTC) - timedelta(hours=2)


def store_in(folder: Path, *, max_age: timedelta = timedelta(days=30), max_bytes: int = 64 * 1024**2) -> HistoryStore:
    return HistoryStore(folder, max_age=max_age, max_bytes=max_bytes)


def accepted(plugin: str = "reader", **facts: Any) -> RunRecord:
    return RunRecord(uuid.uuid4().hex, plugin, "read_text", START, **facts)


def finished(run: RunRecord | None = None, **facts: Any) -> RunRecord:
    """A finished run: 20 ms of execution by generation 2."""
    known = {
        "generation": 2,
        "started_at": START + timedelta(seconds=1),
        "finished_at": START + timedelta(seconds=2),
        "outcome": "ok",
        "execution_ms": 20.0,
        "request_bytes": 100,
        "response_bytes": 2000,
    }
    return replace(run or accepted(), **{**known, **facts})


def event(number: int, plugin: str = "reader", **facts: Any) -> LifecycleEvent:
    state = PluginLifecycleState.LOADED
    plain = {"time": START, "generation": 1, "previous": None, "state": state, "reason_code": None, "reason": None}
    return LifecycleEvent(id=number, plugin=plugin, **{**plain, **facts})


def failed_event(number: int, plugin: str = "reader", generation: int = 1) -> LifecycleEvent:
    return event(
        number,
        plugin,
        generation=generation,
        previous=PluginLifecycleState.RUNNING,
        state=PluginLifecycleState.FAILED,
        reason_code=ReasonCode.CRASHED,
        reason="It died by SIGSEGV.",
    )


def rows(folder: Path, query: str) -> list[Any]:
    """Query the file without the store."""
    with closing(sqlite3.connect(folder / "history.sqlite3", timeout=5)) as connection:
        return connection.execute(query).fetchall()


async def until(condition: Callable[[], object], timeout: float = 15.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition did not hold in time"
        await asyncio.sleep(0.02)
