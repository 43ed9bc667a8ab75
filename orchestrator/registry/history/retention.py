"""How much history is kept: pruned by age and size, in steps so small that no write waits for long."""

# ruff: noqa: S608 - statements are made of constants; values are bound

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from orchestrator.registry.history.records import RunState

_ROWS: Final = 500
"""Rows that a step deletes at most."""
_PAGES: Final = 64
"""Pages that a step gives back to the file system at most."""
_LOW_WATER: Final = 0.9
"""Pruning by size goes on down to this share of the limit, so that it does not go on for ever."""
_SPARE: Final = 256
"""Free pages that may stay in the file for the next rows."""
_WAL_MOST: Final = 4 * 1024**2
_JOURNAL_MOST: Final = 4 * 1024**2

_TABLES: Final = {"events": "time", "runs": "accepted"}
_KEPT: Final = {"events": "1", "runs": f"state != '{RunState.IN_FLIGHT}'"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator allows."""

    max_age: timedelta
    max_bytes: int
    """Of the file, its write-ahead log and its journal together."""

    @property
    def log_bytes(self) -> int:
        return min(_WAL_MOST, self.max_bytes // 4)

    @property
    def journal_bytes(self) -> int:
        return min(_JOURNAL_MOST, self.max_bytes // 8)

    @property
    def file_bytes(self) -> int:
        return self.max_bytes - self.log_bytes - self.journal_bytes


def careful_clock(
    wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
) -> Callable[[], int]:
    """Microseconds since 1970 by which rows grow old: a wall clock that jumps ahead makes nothing old, one that jumps
    back keeps rows longer.
    """
    offset = wall() - steady()
    return lambda: int(min(wall(), steady() + offset) * 1e6)


class Retention:
    """Decides and makes the steps."""

    def __init__(self, limits: Limits, clock: Callable[[], int] | None = None) -> None:
        self._limits = limits
        self._clock = clock or careful_clock()
        self._shrinking = False

    def configure(self, connection: sqlite3.Connection) -> None:
        """Bound the write-ahead log."""
        page_size: int = connection.execute("PRAGMA page_size").fetchone()[0]
        pages = min(1000, max(1, self._limits.log_bytes // page_size // 2))
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        connection.execute(f"PRAGMA journal_size_limit = {self._limits.log_bytes}")

    def step(self, connection: sqlite3.Connection) -> bool:
        """Prune a little; True while there is more to do. Raises `sqlite3.Error`."""
        return self._by_age(connection) or self._by_size(connection) or self._vacuum(connection)

    def _by_age(self, connection: sqlite3.Connection) -> bool:
        oldest = self._clock() - int(self._limits.max_age.total_seconds() * 1e6)
        deleted = [_delete(connection, table, f"{time} < {oldest}") for table, time in _TABLES.items()]
        return any(deleted)

    def _by_size(self, connection: sqlite3.Connection) -> bool:
        pages, free, page_size = _pages(connection)
        used, limit = (pages - free) * page_size, self._limits.file_bytes
        self._shrinking = used > (limit * _LOW_WATER if self._shrinking else limit)
        if not self._shrinking:
            return False
        heads = {table: _head(connection, table) for table in _TABLES}
        known = {table: head for table, head in heads.items() if head is not None}
        return bool(known) and _delete(connection, min(known, key=lambda table: known[table]), "1")

    def _vacuum(self, connection: sqlite3.Connection) -> bool:
        pages, free, page_size = _pages(connection)
        if free == 0 or (pages * page_size <= self._limits.file_bytes and free <= max(_SPARE, pages // 4)):
            return False
        connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
        return True


def _delete(connection: sqlite3.Connection, table: str, condition: str) -> bool:
    """Delete those of the oldest rows that fulfil `condition`; a run in flight stays."""
    deleted = connection.execute(
        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {_KEPT[table]} ORDER BY id LIMIT {_ROWS}) "
        f"AND {condition}"
    ).rowcount
    return deleted > 0


def _head(connection: sqlite3.Connection, table: str) -> int | None:
    """The time of the oldest row that may be deleted."""
    row = connection.execute(
        f"SELECT {_TABLES[table]} FROM {table} WHERE {_KEPT[table]} ORDER BY id LIMIT 1"
    ).fetchone()
    return row[0] if row else None


def _pages(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Pages of the file, those of them that are free, bytes of a page."""
    count, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return count, free, size
