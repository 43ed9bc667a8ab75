"""Retention: prunes the history by age and size, in steps so small that no write waits for long."""

# ruff: noqa: S608 - statements are made of constants; values are bound

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from orchestrator.registry.history import deliveries
from orchestrator.registry.history.records import DeliveryState, RunState

_MAX_STEP_ROWS: Final = 500
_MAX_STEP_PAGES: Final = 64
# Pruning by size goes down to this share of the limit, or each new row would start it again.
_LOW_WATER: Final = 0.9
_SPARE_PAGES: Final = 256  # stay in the file for the next rows
_MAX_LOG_BYTES: Final = 4 * 1024**2
_MAX_JOURNAL_BYTES: Final = 4 * 1024**2

_TIME_COLUMNS: Final = {"events": "time", "runs": "accepted", "deliveries": "created"}
# A run in flight stays, however old: its end is still to be written.
_PRUNABLE: Final = {"events": "1", "runs": f"state != '{RunState.IN_FLIGHT}'", "deliveries": "1"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """As the operator sets them."""

    max_age: timedelta
    max_bytes: int
    """Of the file, its write-ahead log and its journal together."""

    @property
    def log_bytes(self) -> int:
        return min(_MAX_LOG_BYTES, self.max_bytes // 4)

    @property
    def journal_bytes(self) -> int:
        return min(_MAX_JOURNAL_BYTES, self.max_bytes // 8)

    @property
    def file_bytes(self) -> int:
        return self.max_bytes - self.log_bytes - self.journal_bytes


def jump_safe_clock(
    wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
) -> Callable[[], int]:
    """The age of rows is measured by it, in microseconds since 1970."""
    # A wall clock that jumps ahead ages nothing, one that jumps back retains rows longer.
    offset = wall() - steady()
    return lambda: int(min(wall(), steady() + offset) * 1e6)


class Retention:
    """Prunes one database, a step at a time."""

    def __init__(self, limits: RetentionLimits, clock: Callable[[], int] | None = None) -> None:
        self._limits = limits
        self._clock = clock or jump_safe_clock()
        self._shrinking = False
        self.lost_deliveries = 0
        """Deliveries of webhooks that were still pending when they were pruned."""

    def configure(self, connection: sqlite3.Connection) -> None:
        """Bound the write-ahead log. Raises `sqlite3.Error`."""
        page_size: int = connection.execute("PRAGMA page_size").fetchone()[0]
        pages = min(1000, max(1, self._limits.log_bytes // page_size // 2))
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        connection.execute(f"PRAGMA journal_size_limit = {self._limits.log_bytes}")

    def step(self, connection: sqlite3.Connection) -> bool:
        """Prune a little; True while there is more to do. Raises `sqlite3.Error`."""
        return (
            self._by_age(connection)
            or self._by_size(connection)
            or self._deliveries(connection)
            or self._vacuum(connection)
        )

    def _by_age(self, connection: sqlite3.Connection) -> bool:
        oldest = self._clock() - int(self._limits.max_age.total_seconds() * 1e6)
        deleted = [self._delete(connection, table, f"{time} < {oldest}") for table, time in _TIME_COLUMNS.items()]
        return any(deleted)

    def _by_size(self, connection: sqlite3.Connection) -> bool:
        pages, free, page_size = _pages(connection)
        used, limit = (pages - free) * page_size, self._limits.file_bytes
        self._shrinking = used > (limit * _LOW_WATER if self._shrinking else limit)
        if not self._shrinking:
            return False
        oldest = {table: _oldest(connection, table) for table in _TIME_COLUMNS}
        prunable = {table: time for table, time in oldest.items() if time is not None}
        # From the table with the older row: runs and events reach back to about the same moment.
        return bool(prunable) and self._delete(connection, min(prunable, key=lambda table: prunable[table]), "1")

    def _deliveries(self, connection: sqlite3.Connection) -> bool:
        deleted, lost = deliveries.prune(connection, _MAX_STEP_ROWS)
        self._count_lost(lost)
        return deleted > 0

    def _count_lost(self, deliveries: int) -> None:
        if deliveries:
            self.lost_deliveries += deliveries
            _log.warning("%d pending deliveries of webhooks were dropped: too many wait, or for too long", deliveries)

    def _vacuum(self, connection: sqlite3.Connection) -> bool:
        pages, free, page_size = _pages(connection)
        if free == 0 or (pages * page_size <= self._limits.file_bytes and free <= max(_SPARE_PAGES, pages // 4)):
            return False
        # Each row of its answer is a page that was freed: it works only as far as it is read.
        connection.execute(f"PRAGMA incremental_vacuum({_MAX_STEP_PAGES})").fetchall()
        return True

    def _delete(self, connection: sqlite3.Connection, table: str, condition: str) -> bool:
        """Delete those of the oldest rows that fulfil `condition`."""
        # The condition stands outside the limit, so that a step looks at few rows, however few fulfil it.
        which = (
            f"id IN (SELECT id FROM {table} WHERE {_PRUNABLE[table]} ORDER BY id LIMIT {_MAX_STEP_ROWS}) "
            f"AND {condition}"
        )
        if table == "deliveries":
            query = f"SELECT count(*) FROM deliveries WHERE {which} AND state = '{DeliveryState.PENDING}'"
            self._count_lost(connection.execute(query).fetchone()[0])
        return connection.execute(f"DELETE FROM {table} WHERE {which}").rowcount > 0


def _oldest(connection: sqlite3.Connection, table: str) -> int | None:
    """The time of the oldest prunable row."""
    row = connection.execute(
        f"SELECT {_TIME_COLUMNS[table]} FROM {table} WHERE {_PRUNABLE[table]} ORDER BY id LIMIT 1"
    ).fetchone()
    return row[0] if row else None


def _pages(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """All pages of the file, its free ones, the bytes of a page."""
    count, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return count, free, size
