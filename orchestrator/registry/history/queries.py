"""Reads of the history: each off the event loop, beside the writer, over a read-only connection of its own."""

# ruff: noqa: S608 - statements are made of constants; values are bound

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from orchestrator.registry.history.database_file import connect_read_only
from orchestrator.registry.history.errors import read_problem
from orchestrator.registry.history.records import RunRecord, RunState
from orchestrator.registry.history.schema import EVENT_COLUMNS, RUN_COLUMNS, event_from_row, run_from_row
from orchestrator.registry.records import LifecycleEvent

_MAX_PAGE_ROWS: Final = 1000
_THREADS: Final = 2
_READ_TIMEOUT: Final = 5.0  # seconds
# Seconds after a failed read, since no other is made just to see whether reads work again.
_PROBLEM_SHOWN_FOR: Final = 5.0
_INSTRUCTIONS_PER_CHECK: Final = 100_000  # of SQLite's, between checks of the deadline: some milliseconds

_T = TypeVar("_T")
Patterns = tuple[str, ...]
"""Of names of plugins, with `*` and `?`; all where it is empty."""
Query = Callable[[sqlite3.Connection], _T]

_log = logging.getLogger(__name__)


class HistoryReader:
    """Raises nothing but cancellation: a read that fails returns its default, and `problem` says why."""

    def __init__(self, path: Path) -> None:
        self._problem: str | None = None
        self._problem_until = 0.0
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="history-reader")

    @property
    def problem(self) -> str | None:
        """Why a recent read failed."""
        return self._problem if time.monotonic() < self._problem_until else None

    async def read(self, query: Query[_T], default: _T) -> _T:
        try:
            # Also bounds the wait for a thread. The query itself ends by the progress handler, which frees its thread.
            async with asyncio.timeout(_READ_TIMEOUT):
                result = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, query)
        except Exception as error:  # noqa: BLE001 - a failed read of the history must break nothing else
            self._fail(error)
            return default
        self._problem = None
        return result

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, query: Query[_T]) -> _T:
        deadline = time.monotonic() + _READ_TIMEOUT
        # A new connection for each read: it sees the file that is at the path now, even if that was replaced.
        with closing(connect_read_only(self._path)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS_PER_CHECK)
            return query(connection)

    def _fail(self, error: Exception) -> None:
        problem = read_problem(error)
        if problem != self.problem:
            _log.error("%s", problem)
        self._problem, self._problem_until = problem, time.monotonic() + _PROBLEM_SHOWN_FOR


def runs(
    connection: sqlite3.Connection,
    *,
    plugin: str | None,
    state: RunState | None,
    before: int | None,
    since: int | None,
    limit: int,
    among: Patterns = (),
    caller: str | None = None,
) -> list[RunRecord]:
    """Newest first; `before`: the id of the previous page's last run; `since`: in microseconds."""
    where, values = _where(
        ("plugin = ?", plugin),
        ("state = ?", state),
        ("id < ?", before),
        ("accepted >= ?", since),
        ("caller = ?", caller),
        among=among,
    )
    rows = connection.execute(
        f"SELECT {RUN_COLUMNS}, id FROM runs {where} ORDER BY id DESC LIMIT ?",
        (*values, _page_rows(limit)),
    )
    return [run_from_row(row) for row in rows]


def run(connection: sqlite3.Connection, run_id: str) -> RunRecord | None:
    row = connection.execute(f"SELECT {RUN_COLUMNS}, id FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return run_from_row(row) if row else None


def events(
    connection: sqlite3.Connection, *, plugin: str | None, after: int, limit: int, among: Patterns = ()
) -> list[LifecycleEvent]:
    """Oldest first; `after`: the id of the previous page's last event."""
    where, values = _where(("id > ?", after), ("plugin = ?", plugin), among=among)
    rows = connection.execute(
        f"SELECT {EVENT_COLUMNS} FROM events {where} ORDER BY id LIMIT ?",
        (*values, _page_rows(limit)),
    )
    return [event_from_row(row) for row in rows]


def latest_events(
    connection: sqlite3.Connection, *, plugin: str | None, before: int | None, limit: int, among: Patterns = ()
) -> list[LifecycleEvent]:
    """The last ones, or the last with ids below `before`; oldest first."""
    where, values = _where(("id < ?", before), ("plugin = ?", plugin), among=among)
    rows = connection.execute(
        f"SELECT {EVENT_COLUMNS} FROM events {where} ORDER BY id DESC LIMIT ?", (*values, _page_rows(limit))
    )
    return [event_from_row(row) for row in rows][::-1]


def post_mortem(connection: sqlite3.Connection, plugin: str, generation: int | None) -> str | None:
    """As JSON text, of this generation or of the last that has one."""
    where, values = _where(("plugin = ?", plugin), ("generation = ?", generation))
    row = connection.execute(
        f"SELECT post_mortem FROM events {where} AND post_mortem IS NOT NULL ORDER BY id DESC LIMIT 1",
        values,
    ).fetchone()
    return row[0] if row else None


def _where(*conditions: tuple[str, str | int | None], among: Patterns = ()) -> tuple[str, list[str | int]]:
    """A clause of the conditions that have a value, and those values. `among`: of plugins that one of these matches."""
    given = [(condition, value) for condition, value in conditions if value is not None]
    clauses = [condition for condition, _ in given]
    if among:
        clauses.append(f"({' OR '.join(['plugin GLOB ?'] * len(among))})")
    clause = " AND ".join(clauses)
    return f"WHERE {clause}" if clause else "", [*(value for _, value in given), *among]


def _page_rows(limit: int) -> int:
    return max(1, min(limit, _MAX_PAGE_ROWS))
