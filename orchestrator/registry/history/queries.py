"""The questions that can be asked of the history, each in one read."""

# ruff: noqa: S608 - statements are made of constants; values are bound

import sqlite3
from typing import Final

from orchestrator.registry.history.records import RunRecord, RunState
from orchestrator.registry.history.rows import EVENT_COLUMNS, RUN_COLUMNS, event_of, run_of
from orchestrator.registry.records import LifecycleEvent

PAGE_MOST: Final = 1000
"""Rows of a page; who asks for more gets so many."""


def runs(
    connection: sqlite3.Connection,
    *,
    plugin: str | None,
    state: RunState | None,
    before: int | None,
    since: int | None,
    limit: int,
) -> list[RunRecord]:
    """Newest first; `before` is the id of the last run of the page before, `since` are microseconds."""
    where, values = _where(("plugin = ?", plugin), ("state = ?", state), ("id < ?", before), ("accepted >= ?", since))
    rows = connection.execute(
        f"SELECT {RUN_COLUMNS}, id FROM runs {where} ORDER BY id DESC LIMIT ?",
        (*values, _page(limit)),
    )
    return [run_of(row) for row in rows]


def run(connection: sqlite3.Connection, run_id: str) -> RunRecord | None:
    row = connection.execute(f"SELECT {RUN_COLUMNS}, id FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return run_of(row) if row else None


def events(connection: sqlite3.Connection, *, plugin: str | None, after: int, limit: int) -> list[LifecycleEvent]:
    """Oldest first; `after` is the id of the last event that is known already."""
    where, values = _where(("id > ?", after), ("plugin = ?", plugin))
    rows = connection.execute(
        f"SELECT {EVENT_COLUMNS} FROM events {where} ORDER BY id LIMIT ?",
        (*values, _page(limit)),
    )
    return [event_of(row) for row in rows]


def latest_events(
    connection: sqlite3.Connection, *, plugin: str | None, before: int | None, limit: int
) -> list[LifecycleEvent]:
    """The last ones, oldest first; `before`: of those with lower ids."""
    where, values = _where(("id < ?", before), ("plugin = ?", plugin))
    rows = connection.execute(
        f"SELECT {EVENT_COLUMNS} FROM events {where} ORDER BY id DESC LIMIT ?", (*values, _page(limit))
    )
    return [event_of(row) for row in rows][::-1]


def post_mortem(connection: sqlite3.Connection, plugin: str, generation: int | None) -> str | None:
    """Of this instance, or of the last that has one."""
    where, values = _where(("plugin = ?", plugin), ("generation = ?", generation))
    row = connection.execute(
        f"SELECT post_mortem FROM events {where} AND post_mortem IS NOT NULL ORDER BY id DESC LIMIT 1",
        values,
    ).fetchone()
    return row[0] if row else None


def _where(*conditions: tuple[str, str | int | None]) -> tuple[str, list[str | int]]:
    """Those conditions that have a value."""
    asked = [(condition, value) for condition, value in conditions if value is not None]
    clause = " AND ".join(condition for condition, _ in asked)
    return f"WHERE {clause}" if clause else "", [value for _, value in asked]


def _page(limit: int) -> int:
    return max(1, min(limit, PAGE_MOST))
