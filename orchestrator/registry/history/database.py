"""The open history database, for its one writer: batches of writes, each whole or not at all."""

# ruff: noqa: S608 - statements are made of constants; values are bound

import logging
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from orchestrator.lifecycle import FINAL_STATES
from orchestrator.registry.history import deliveries
from orchestrator.registry.history.errors import is_storage_fault
from orchestrator.registry.history.records import Counters, Restored, RunState
from orchestrator.registry.history.schema import (
    COUNTER_COLUMNS,
    EVENT_COLUMNS,
    RUN_COLUMNS,
    counters_from_row,
    row_of_counters,
    row_of_event,
    row_of_run,
    run_from_row,
)
from orchestrator.registry.history.write_queue import PendingCounters, QueuedWrite, WriteBatch
from orchestrator.registry.history.writes import (
    EventWrite,
    Outbox,
    PostMortemWrite,
    RunWrite,
    Write,
    counted_writes,
    counters_delta,
    latest_runs,
)

_MAX_ASYNCHRONOUS: Final = 1000  # runs in flight that are restored as such; older ones are recorded as interrupted

JournalPosition = tuple[str, int]
"""A journal's id, and the number of its last write that is in the database."""


def _placeholders(columns: str) -> str:
    return ", ".join("?" for _ in columns.split(","))


_UPSERT_RUN: Final = (
    f"INSERT INTO runs ({RUN_COLUMNS}) VALUES ({_placeholders(RUN_COLUMNS)}) ON CONFLICT (run_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in RUN_COLUMNS.split(", ") if name != "run_id")
)
_INSERT_EVENT: Final = f"INSERT INTO events ({EVENT_COLUMNS}) VALUES ({_placeholders(EVENT_COLUMNS)})"
_REPLACE_COUNTERS: Final = (
    f"INSERT OR REPLACE INTO counters ({COUNTER_COLUMNS}) VALUES ({_placeholders(COUNTER_COLUMNS)})"
)
_REPLACE_POSITION: Final = "INSERT OR REPLACE INTO journals (id, applied) VALUES (?, ?)"
_FINAL: Final = ", ".join(f"'{state}'" for state in sorted(FINAL_STATES))
_SET_POST_MORTEM: Final = f"""
    UPDATE events SET post_mortem = ? WHERE id = (
        SELECT max(id) FROM events WHERE plugin = ? AND generation = ? AND state IN ({_FINAL})
    )
"""
_INTERRUPT_RUNS: Final = f"""
    UPDATE runs SET state = '{RunState.INTERRUPTED}', outcome = '{RunState.INTERRUPTED}'
    WHERE state = '{RunState.IN_FLIGHT}' AND id NOT IN (
        SELECT id FROM runs WHERE state = '{RunState.IN_FLIGHT}' AND asynchronous ORDER BY id DESC LIMIT ?
    )
"""
_RUNS_IN_FLIGHT: Final = f"SELECT {RUN_COLUMNS}, id FROM runs WHERE state = '{RunState.IN_FLIGHT}' ORDER BY id"
_ENDED_STATES: Final = ", ".join(f"'{state}'" for state in sorted(FINAL_STATES))
_ENDED: Final = f"SELECT DISTINCT plugin, generation FROM events WHERE state IN ({_ENDED_STATES})"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of each write of a batch."""

    stored: Sequence[QueuedWrite] = ()
    rejected: Sequence[QueuedWrite] = ()
    """Values that SQLite never accepts; lost."""
    remaining: WriteBatch | None = None
    """To be retried."""
    error: Exception | None = None
    """Why something remains."""


class HistoryDatabase:
    """Commits batches of writes, and sums the counters in memory."""

    def __init__(
        self, connection: sqlite3.Connection, outbox: Outbox | None = None, *, last_delivery_id: int = 0
    ) -> None:
        """`connection` is to a migrated file; the database owns it. `last_delivery_id`: one that was in use in the file
        before. Raises `sqlite3.Error`.
        """
        self.connection = connection
        self._outbox = outbox
        self.counters: Mapping[str, Counters] = dict(
            counters_from_row(row) for row in connection.execute(f"SELECT {COUNTER_COLUMNS} FROM counters")
        )
        # Not the highest ids in the tables: those of pruned rows are not used again.
        used = dict(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
        self.last_event_id: int = used.get("events", 0)
        self.last_delivery_id: int = max(used.get("deliveries", 0), last_delivery_id)
        self.committed: JournalPosition | None = None
        """By the last commit of this object."""

    def restore(self) -> Restored:
        """Record runs that an earlier process left in flight as interrupted, and return what it left."""
        with _Transaction(self.connection):
            lost = self._interrupted_runs() if self._outbox is not None else []
            interrupted = self.connection.execute(_INTERRUPT_RUNS, (_MAX_ASYNCHRONOUS,)).rowcount
            last_delivery_id = self._store_deliveries(lost)
        self._deliveries_stored(last_delivery_id)
        asynchronous = tuple(run_from_row(row) for row in self.connection.execute(_RUNS_IN_FLIGHT))
        ended = frozenset((plugin, generation) for plugin, generation in self.connection.execute(_ENDED))
        return Restored(
            dict(self.counters),
            self.last_event_id,
            interrupted,
            asynchronous,
            ended,
        )

    def last_applied(self, journal: str) -> int:
        """The number of this journal's last write that is in the database; 0 for an unknown journal."""
        row = self.connection.execute("SELECT applied FROM journals WHERE id = ?", (journal,)).fetchone()
        return row[0] if row else 0

    def forget_journals_except(self, journals: Collection[str]) -> None:
        """Forget the positions of journals whose files no longer exist."""
        known = [row[0] for row in self.connection.execute("SELECT id FROM journals")]
        deleted = set(known).difference(journals)
        if deleted:
            with _Transaction(self.connection):
                self.connection.executemany("DELETE FROM journals WHERE id = ?", [(journal,) for journal in deleted])

    def seed_counters(self, counters: Mapping[str, Counters], position: JournalPosition) -> None:
        """Start with the counters of the file before, and what of the journal is in them; for a file without any."""
        with _Transaction(self.connection):
            rows = [row_of_counters(plugin, totals) for plugin, totals in counters.items()]
            self.connection.executemany(_REPLACE_COUNTERS, rows)
            self.connection.execute(_REPLACE_POSITION, position)
        self.counters = dict(counters)

    def write_batch(self, batch: WriteBatch, journal: str) -> BatchResult:
        """Commit a batch; a write that SQLite rejects does not take the others with it. `journal`: the id of the one
        that numbered the writes. Raises storage faults, with nothing of the batch written.
        """
        try:
            self.commit([entry.write for entry in batch.entries], batch.pending or {}, (journal, batch.through))
        except Exception as error:
            if is_storage_fault(error):
                raise
            return self._write_one_by_one(batch, journal)
        return BatchResult(stored=batch.entries)

    def commit(self, writes: Sequence[Write], pending: PendingCounters, position: JournalPosition) -> None:
        """Write all of `writes`, in their order, and add `pending` to the counters; or raise and write nothing."""
        counters, touched = dict(self.counters), set(pending)
        for plugin, delta in pending.items():
            counters[plugin] = counters.get(plugin, Counters()).plus(delta)
        runs = latest_runs(writes)
        for plugin, delta in filter(None, map(counters_delta, counted_writes(writes, runs))):
            counters[plugin] = counters.get(plugin, Counters()).plus(delta)
            touched.add(plugin)
        event_id, events = self.last_event_id, []
        for write in writes:
            if isinstance(write, EventWrite):
                # An id that is taken becomes the next free one: an event's order matters, not its number.
                event_id = max(write.event.id, event_id + 1)
                events.append(row_of_event(write.event, event_id))
        connection = self.connection
        last_delivery_id = self.last_delivery_id
        with _Transaction(connection):
            connection.executemany(_UPSERT_RUN, map(row_of_run, runs.values()))
            connection.executemany(_INSERT_EVENT, events)
            post_mortems = [(w.text, w.plugin, w.generation) for w in writes if isinstance(w, PostMortemWrite)]
            connection.executemany(_SET_POST_MORTEM, post_mortems)
            connection.executemany(_REPLACE_COUNTERS, [row_of_counters(plugin, counters[plugin]) for plugin in touched])
            # In the same transaction: a replayed journal counts no write a second time.
            connection.execute(_REPLACE_POSITION, position)
            last_delivery_id = self._store_deliveries(writes)
        # Totals are written, and those in memory move on only now: a failure counts nothing twice and misses nothing.
        self.counters, self.last_event_id, self.committed = counters, event_id, position
        self._deliveries_stored(last_delivery_id)

    def probe(self) -> None:
        """Write the version that stands there already. Raises `sqlite3.Error` when writing does not work."""
        # The smallest possible write: a read succeeds on a full or read-only disk too.
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        self.connection.execute(f"PRAGMA user_version = {version}")

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file as far as no reader needs it. Raises `sqlite3.Error`."""
        # PASSIVE: the other modes wait for readers.
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Never raises."""
        with suppress(sqlite3.Error):
            self.connection.close()

    def _interrupted_runs(self) -> list[RunWrite]:
        """Those that `_INTERRUPT_RUNS` is about to record as such."""
        runs = [run_from_row(row) for row in self.connection.execute(_RUNS_IN_FLIGHT)]
        kept = {run.id for run in [run for run in runs if run.asynchronous][-_MAX_ASYNCHRONOUS:]}
        state = RunState.INTERRUPTED
        return [RunWrite(replace(run, outcome=state.value), state=state) for run in runs if run.id not in kept]

    def _store_deliveries(self, writes: Sequence[Write]) -> int:
        """What the writes bring for webhooks. Returns the highest id in use."""
        if self._outbox is None:
            return self.last_delivery_id
        return deliveries.store(self.connection, writes, self._outbox, self.last_delivery_id)

    def _deliveries_stored(self, last_id: int) -> None:
        if last_id > self.last_delivery_id and self._outbox is not None:
            self.last_delivery_id = last_id
            self._outbox.stored()

    def _write_one_by_one(self, batch: WriteBatch, journal: str) -> BatchResult:
        before = batch.entries[0].number - 1 if batch.entries else batch.through
        # The counters of dropped writes with their position, so that no replay of the journal counts those again.
        self.commit((), batch.pending or {}, (journal, before))
        stored: list[QueuedWrite] = []
        rejected: list[QueuedWrite] = []
        for index, entry in enumerate(batch.entries):
            try:
                self.commit([entry.write], {}, (journal, entry.number))
                stored.append(entry)
            except Exception as error:  # noqa: BLE001 - sqlite3 raises many kinds for what it cannot take
                if is_storage_fault(error):
                    # Without the pending counters: those are committed.
                    remaining = WriteBatch(batch.entries[index:], through=batch.through)
                    return BatchResult(stored, rejected, remaining, error)
                _log.exception("a defect in the orchestrator: history cannot store %r", entry.write)
                rejected.append(entry)
        return BatchResult(stored, rejected)


class _Transaction:
    """Commits at its end, rolls back when its body raises."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        # Takes the write lock at once, under the time-out. A transaction that begins as a read may fail at its first
        # write without waiting.
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
