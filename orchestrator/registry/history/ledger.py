"""An open history file, for its one writer: groups of writes, each whole or not at all."""

# ruff: noqa: S608 - statements are made of constants; values are bound

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from orchestrator.lifecycle import FINAL_STATES
from orchestrator.registry.history.records import Counters, Restored, RunState
from orchestrator.registry.history.rows import (
    COUNTER_COLUMNS,
    EVENT_COLUMNS,
    RUN_COLUMNS,
    counters_of,
    counters_row,
    event_of,
    event_row,
    run_of,
    run_row,
)
from orchestrator.registry.history.writes import EventWrite, PostMortemWrite, Write, counting, latest_runs, shares

_ASYNCHRONOUS_KEPT: Final = 1000
"""More runs in flight than this are not told of; the rest are called interrupted."""

Applied = tuple[str, int]
"""A journal's id, and the number of its last write that is in the file."""


def _marks(columns: str) -> str:
    return ", ".join("?" for _ in columns.split(","))


_RUN: Final = (
    f"INSERT INTO runs ({RUN_COLUMNS}) VALUES ({_marks(RUN_COLUMNS)}) ON CONFLICT (run_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in RUN_COLUMNS.split(", ") if name != "run_id")
)
_EVENT: Final = f"INSERT INTO events ({EVENT_COLUMNS}) VALUES ({_marks(EVENT_COLUMNS)})"
_COUNTERS: Final = f"INSERT OR REPLACE INTO counters ({COUNTER_COLUMNS}) VALUES ({_marks(COUNTER_COLUMNS)})"
_APPLIED: Final = "INSERT OR REPLACE INTO journals (id, applied) VALUES (?, ?)"
_FINAL: Final = ", ".join(f"'{state}'" for state in sorted(FINAL_STATES))
_POST_MORTEM: Final = f"""
    UPDATE events SET post_mortem = ? WHERE id = (
        SELECT max(id) FROM events WHERE plugin = ? AND generation = ? AND state IN ({_FINAL})
    )
"""
_INTERRUPT: Final = f"""
    UPDATE runs SET state = '{RunState.INTERRUPTED}', outcome = '{RunState.INTERRUPTED}'
    WHERE state = '{RunState.IN_FLIGHT}' AND id NOT IN (
        SELECT id FROM runs WHERE state = '{RunState.IN_FLIGHT}' AND asynchronous ORDER BY id DESC LIMIT ?
    )
"""
_IN_FLIGHT: Final = f"SELECT {RUN_COLUMNS}, id FROM runs WHERE state = '{RunState.IN_FLIGHT}' ORDER BY id"
_LAST_EVENTS: Final = f"SELECT {EVENT_COLUMNS} FROM events WHERE id IN (SELECT max(id) FROM events GROUP BY plugin)"


class Ledger:
    """Commits groups of writes. Counters are summed here and written whole, so that what is counted twice or not at
    all after a failure is impossible: the sums move on only when the group is committed.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` leads to a file with today's tables; it belongs to the ledger. Raises `sqlite3.Error`."""
        self.connection = connection
        self.counters: Mapping[str, Counters] = dict(
            counters_of(row) for row in connection.execute(f"SELECT {COUNTER_COLUMNS} FROM counters")
        )
        row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        self.last_event_id: int = row[0] if row else 0
        self.taken: Applied | None = None
        """By the last commit."""

    def restore(self) -> Restored:
        """Settle what the time before this start left in flight, and tell what it left behind."""
        with _Transaction(self.connection):
            interrupted = self.connection.execute(_INTERRUPT, (_ASYNCHRONOUS_KEPT,)).rowcount
        asynchronous = tuple(run_of(row) for row in self.connection.execute(_IN_FLIGHT))
        events = [event_of(row) for row in self.connection.execute(_LAST_EVENTS)]
        return Restored(
            dict(self.counters),
            self.last_event_id,
            interrupted,
            asynchronous,
            {event.plugin: event for event in events},
        )

    def applied(self, journal: str) -> int:
        """The number of the last write of this journal that is in the file."""
        row = self.connection.execute("SELECT applied FROM journals WHERE id = ?", (journal,)).fetchone()
        return row[0] if row else 0

    def keep_journals(self, journals: Iterable[str]) -> None:
        """Forget how far all others were applied: their files are gone."""
        known = [row[0] for row in self.connection.execute("SELECT id FROM journals")]
        gone = set(known).difference(journals)
        if gone:
            with _Transaction(self.connection):
                self.connection.executemany("DELETE FROM journals WHERE id = ?", [(journal,) for journal in gone])

    def adopt(self, counters: Mapping[str, Counters], applied: Applied) -> None:
        """Begin with the counters of the file before, and what is in them; only for a file that has none."""
        with _Transaction(self.connection):
            self.connection.executemany(_COUNTERS, [counters_row(name, sums) for name, sums in counters.items()])
            self.connection.execute(_APPLIED, applied)
        self.counters = dict(counters)

    def commit(self, writes: Sequence[Write], debts: Mapping[str, Counters], applied: Applied) -> None:
        """Write all of `writes`, in their order, and add `debts` to the counters; or raise and write none of it.
        `applied`, in the same transaction: a journal's write is never counted a second time.

        An event whose id is taken already gets the next free one: its place in the order, not its number, is what
        counts.
        """
        counters, touched = dict(self.counters), set(debts)
        for plugin, debt in debts.items():
            counters[plugin] = counters.get(plugin, Counters()).plus(debt)
        runs = latest_runs(writes)
        for plugin, part in filter(None, map(shares, counting(writes, runs))):
            counters[plugin] = counters.get(plugin, Counters()).plus(part)
            touched.add(plugin)
        event_id, events = self.last_event_id, []
        for write in writes:
            if isinstance(write, EventWrite):
                event_id = max(write.event.id, event_id + 1)
                events.append(event_row(write.event, event_id))
        connection = self.connection
        with _Transaction(connection):
            connection.executemany(_RUN, map(run_row, runs.values()))
            connection.executemany(_EVENT, events)
            connection.executemany(_POST_MORTEM, [_post_mortem(w) for w in writes if isinstance(w, PostMortemWrite)])
            connection.executemany(_COUNTERS, [counters_row(plugin, counters[plugin]) for plugin in touched])
            connection.execute(_APPLIED, applied)
        self.counters, self.last_event_id, self.taken = counters, event_id, applied

    def probe(self) -> None:
        """Write something that changes nothing. Raises `sqlite3.Error` when writing does not work."""
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        self.connection.execute(f"PRAGMA user_version = {version}")

    def checkpoint(self) -> None:
        """Write the log back into the file as far as no reader needs it. Raises `sqlite3.Error`."""
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Never raises."""
        with suppress(sqlite3.Error):
            self.connection.close()


class _Transaction:
    """Commits at its end, rolls back when something is raised in it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _post_mortem(write: PostMortemWrite) -> tuple[str, str, int]:
    return write.text, write.plugin, write.generation
