"""A wrapper that reopens the history database whatever happens to its file: deleted, damaged, locked, disk full."""

import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final

from orchestrator.registry.history import database_file
from orchestrator.registry.history.database import BatchResult, HistoryDatabase, JournalPosition
from orchestrator.registry.history.errors import is_corruption, is_storage_fault, write_problem
from orchestrator.registry.history.journal import Journal, JournalContent, OrphanedJournal, decode_lines
from orchestrator.registry.history.records import Counters, Restored
from orchestrator.registry.history.retention import Retention
from orchestrator.registry.history.schema import MIGRATIONS, Migration, check_version, migrate
from orchestrator.registry.history.write_queue import STORED, QueuedWrite, WriteBatch
from orchestrator.registry.history.writes import Outbox

# Seconds between checks of age and size, with and without writes in between.
_MAINTENANCE_BUSY: Final = 1.0
_MAINTENANCE_IDLE: Final = 60.0
# Below SQLite's own bound (1000 pages; a run takes some five), which it enforces in the middle of a commit.
_COMMITS_PER_CHECKPOINT: Final = 100
_MAX_REPLAY_BATCH: Final = 256

Notice = str | None
"""A sentence for the operator about something that was done to the file."""

_log = logging.getLogger(__name__)


class RecoveringDatabase:
    """For one thread; other threads may only read `problem`, `notice` and `restored`. Raises nothing."""

    def __init__(
        self,
        path: Path,
        retention: Retention,
        journal: Journal,
        migrations: Sequence[Migration] = MIGRATIONS,
        *,
        outbox: Outbox | None = None,
    ) -> None:
        self.problem: str | None = None
        self.notice: Notice = None
        self.restored: Future[Restored] = Future()
        """Done after the first `write`."""
        self.maintain_at = 0.0
        """When to call `maintain` at the latest, by the monotonic clock."""
        self._path = path
        self._retention = retention
        self._journal = journal
        self._migrations = migrations
        self._outbox = outbox
        self._last_delivery_id = 0
        self._database: HistoryDatabase | None = None
        self._identity: database_file.FileIdentity = (None, None)
        # Counters outlive their file: a new one that replaces it while the program runs starts with these.
        self._counters: Mapping[str, Counters] = {}
        self._position: JournalPosition = (journal.id, 0)  # what of the journal is in these counters
        self._has_restored = False
        self._commits = 0

    @property
    def is_open(self) -> bool:
        return self._database is not None

    def write(self, batch: WriteBatch) -> BatchResult:
        """Write the batch, after opening the file or starting a new one where necessary."""
        try:
            return self._write(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer's thread goes on and retries
            return self._write_to_new_file(batch, error) if is_corruption(error) else self._postpone(batch, error)

    def maintain(self) -> None:
        """Checkpoint and prune what is due. Call it while no caller waits."""
        if self._database is None or self.problem:
            return
        now = time.monotonic()
        try:
            if self._commits >= _COMMITS_PER_CHECKPOINT:
                self._database.checkpoint()
                self._commits = 0
            if now >= self.maintain_at:
                more = self._retention.step(self._database.connection)
                self.maintain_at = now if more else now + _MAINTENANCE_IDLE
        except Exception as error:  # noqa: BLE001 - see `write`
            self._fail(error)

    def close(self) -> None:
        """Close the file; the counters stay in memory."""
        if self._database is not None:
            self._remember_counters(self._database)
            self._database.close()
            self._database = None

    def _write(self, batch: WriteBatch) -> BatchResult:
        database = self._current()
        result = BatchResult()
        if batch.entries or batch.pending:
            result = database.write_batch(batch, self._journal.id)
            self._commits += 1
            self.maintain_at = min(self.maintain_at, time.monotonic() + _MAINTENANCE_BUSY)
        elif self.problem:
            # Nothing to write, so this shows whether the problem is over.
            database.probe()
        if result.error is None:
            self._clear_problem()
        else:
            self._fail(result.error)
        return result

    def _write_to_new_file(self, batch: WriteBatch, damage: Exception) -> BatchResult:
        self.close()
        try:
            self.notice = _move_aside(self._path, damage)
            return self._write(batch)
        except Exception as error:  # noqa: BLE001 - see `write`
            return self._postpone(batch, error)

    def _postpone(self, batch: WriteBatch, error: Exception) -> BatchResult:
        self._fail(error)
        return BatchResult(remaining=batch, error=error)

    def _current(self) -> HistoryDatabase:
        # Else SQLite would go on writing into the deleted file, where nobody ever reads it.
        if self._database is not None and database_file.file_identity(self._path) != self._identity:
            self.close()
            database_file.delete_stale_log(self._path, self._identity)
            self.notice = "The history file was deleted or replaced while it was in use."
            _log.warning("%s was deleted or replaced while it was in use", self._path)
        if self._database is None:
            self._database = self._open()
        return self._database

    def _open(self) -> HistoryDatabase:
        database, notice = open_database(
            self._path, self._migrations, outbox=self._outbox, last_delivery_id=self._last_delivery_id
        )
        try:
            self._retention.configure(database.connection)
            if self._counters and not database.counters:
                database.seed_counters(self._counters, self._position)
            self._identity = database_file.file_identity(self._path)
            if not self._has_restored:
                notice = " ".join(filter(None, (notice, replay_orphans(database, self._journal)))) or None
                restored = database.restore()
                self._has_restored = True
                self.notice = notice or self.notice  # before the result, whose reader looks at this next
                # A start that could not open the file went on without it; the journals are replayed all the same.
                if not self.restored.done():
                    self.restored.set_result(restored)
        except BaseException:
            self._remember_counters(database)
            database.close()
            raise
        self.notice = notice or self.notice
        return database

    def _remember_counters(self, database: HistoryDatabase) -> None:
        self._counters = database.counters
        self._position = database.committed or self._position
        self._last_delivery_id = database.last_delivery_id

    def _fail(self, error: Exception) -> None:
        # The next attempt opens the file anew: it may have been replaced or repaired by then.
        self.close()
        problem = write_problem(error)
        if problem != self.problem:
            _log.error("%s", problem, exc_info=None if is_storage_fault(error) else error)
        self.problem = problem
        if not self.restored.done():
            self.restored.set_result(Restored(complete=False))

    def _clear_problem(self) -> None:
        if self.problem:
            _log.warning("history is being written again")
            self.problem = None


def open_database(
    path: Path,
    migrations: Sequence[Migration] = MIGRATIONS,
    *,
    outbox: Outbox | None = None,
    last_delivery_id: int = 0,
) -> tuple[HistoryDatabase, Notice]:
    """Create or migrate the file; move a damaged one aside. Raises `OSError`, `sqlite3.Error`, `NewerDatabaseError`."""
    try:
        return _open(path, migrations, outbox, last_delivery_id), None
    except sqlite3.Error as error:
        if not is_corruption(error):
            raise
        notice = _move_aside(path, error)
    return _open(path, migrations, outbox, last_delivery_id), notice


def _open(path: Path, migrations: Sequence[Migration], outbox: Outbox | None, last_delivery_id: int) -> HistoryDatabase:
    database_file.create(path)
    connection = database_file.connect(path)
    try:
        check_version(connection, migrations)  # first, since it only reads: a newer file is left as it is
        database_file.configure_for_writing(connection)
        migrate(connection, migrations)
        return HistoryDatabase(connection, outbox, last_delivery_id=last_delivery_id)
    except BaseException:
        with suppress(sqlite3.Error):
            connection.close()
        raise


def _move_aside(path: Path, error: Exception) -> str:
    """Returns the operator's notice. Raises `OSError`."""
    aside = database_file.move_aside(path)
    _log.warning("%s is damaged (%s); it was moved to %s, and a new history starts", path, error, aside)
    return f"The history file was damaged. It was moved aside as {aside}, and a new one was started."


def replay_orphans(database: HistoryDatabase, journal: Journal) -> Notice:
    """Write what orphaned journals hold into the database, each write once, and delete them. Raises storage faults; the
    next attempt continues where this one ended.
    """
    unread = 0
    for orphan in journal.orphans():
        try:
            content = decode_lines(orphan.path.read_bytes())
        except OSError as error:
            _log.warning("cannot read %s (%s)", orphan.path, error)
            unread += 1
            continue
        _replay(database, orphan, content)
        unread += content.damaged_lines
        if content.damaged_lines:
            _log.warning("%d lines of %s are damaged", content.damaged_lines, orphan.path)
        try:
            journal.delete_orphan(orphan)
        except OSError as error:
            _log.warning("cannot delete %s (%s)", orphan.path, error)
    # Only now: a file that is still there is replayed again at the next start, from its recorded position.
    database.forget_journals_except({journal.id, *(orphan.journal_id for orphan in journal.orphans())})
    if not unread:
        return None
    return "A part of the history's journal could not be read: some of the last runs and events are lost."


def _replay(database: HistoryDatabase, orphan: OrphanedJournal, content: JournalContent) -> None:
    applied = database.last_applied(orphan.journal_id)
    entries = [QueuedWrite(write, STORED, number) for number, write in content.writes if number > applied]
    for first in range(0, len(entries), _MAX_REPLAY_BATCH):
        page = entries[first : first + _MAX_REPLAY_BATCH]
        result = database.write_batch(WriteBatch(page, through=page[-1].number), orphan.journal_id)
        if result.error is not None:
            raise result.error
    if entries:
        _log.info("replayed %d writes of %s into the history database", len(entries), orphan.path.name)
