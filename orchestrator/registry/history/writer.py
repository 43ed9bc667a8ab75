"""The history's only writing thread: commits queued writes in batches, and retries after failures."""

import asyncio
import threading
import time
from typing import Final

from orchestrator.registry.history.errors import DISK_SILENT
from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.recovering_database import RecoveringDatabase
from orchestrator.registry.history.write_queue import (
    ACK_TIMEOUT,
    NOT_STORED,
    STORED,
    QueuedWrite,
    WriteAck,
    WriteBatch,
    WriteQueue,
    settle,
)
from orchestrator.registry.history.writes import FlushBarrier, Write

MAX_QUEUE_BYTES: Final = 16 * 1024**2
_MAX_BATCH: Final = 256
# Seconds that a write waits for others while no caller awaits it: few commits, and one wake-up of the thread.
_BATCH_DELAY: Final = 0.5
_WAKE_EVERY: Final = 1024  # queued writes, also before the delay is over
_RETRY_INTERVAL: Final = 1.0  # seconds
_OPEN_TIMEOUT: Final = 30.0  # seconds, migrations included, before the disk counts as silent


class HistoryWriter:
    """Its public methods may be called from any thread and never raise. The file is opened in its own thread."""

    def __init__(
        self, database: RecoveringDatabase, journal: Journal, *, max_queue_bytes: int = MAX_QUEUE_BYTES
    ) -> None:
        self._database = database
        self._journal = journal
        self._lock = threading.RLock()  # entered without a call in Python, which the condition is not
        self._condition = threading.Condition(self._lock)
        # Guarded by the condition, down to `_closing`.
        self._queue = WriteQueue(max_queue_bytes)
        self._number = 0
        self._writing = False
        self._urgent = False
        self._wake_up_due = 0.0
        self._closing = False
        # The thread's own.
        self._committed = 0
        self._made_last_attempt = False
        self._silent_at: float | None = None
        # A daemon: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why nothing is being written, as a sentence; None while all is well."""
        return DISK_SILENT if self._disk_is_silent else self._database.problem

    @property
    def lost(self) -> int:
        """Writes that were not made and never will be."""
        return self._queue.lost

    @property
    def _disk_is_silent(self) -> bool:
        """It has not responded for so long that no caller should wait for it."""
        silent_at = self._silent_at
        return silent_at is not None and time.monotonic() > silent_at

    def start(self) -> None:
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """Some writes are not in the database yet."""
        return bool(self._queue) or self._writing

    def put(self, write: Write, *, urgent: bool = False) -> WriteAck:
        """Queue it behind all earlier writes. It is stored once the journal or, if that refuses it, the database has
        it. `urgent`: commit a refused write now, even if no caller awaits it.
        """
        # One lock for all of it: journal and queue have the writes in the same order.
        with self._lock:
            if self._closing:
                self._queue.lost += not isinstance(write, FlushBarrier)
                return NOT_STORED
            self._number += 1
            refused = isinstance(write, FlushBarrier) or (self._silent_at is not None and self._disk_is_silent)
            journalled = not refused and self._journal.append(self._number, write)
            # A filling queue may drop a journalled write before the database has it, so its caller waits for that.
            if journalled and not self._queue.half_full:
                ack = STORED
            else:
                # While there is a problem nothing waits: the answer is False at once, and the write is tried anyway.
                ack = WriteAck(self._wake, stored=False if self.problem else None)
            dropped = self._queue.put(QueuedWrite(write, ack, self._number, journalled))
            now = time.monotonic()
            wake_now = (urgent and not journalled) or len(self._queue) % _WAKE_EVERY == 0 or self._journal.half_full
            wake_later = not wake_now and now >= self._wake_up_due
            if wake_later:
                self._wake_up_due = now + _BATCH_DELAY
        if wake_now:
            self._wake()
        elif wake_later:
            self._wake_later()
        if dropped:
            settle([entry.ack for entry in dropped], stored=False)
        return ack

    def close(self, timeout: float) -> None:
        """Write the rest and end, within `timeout` seconds; what cannot be written stays in the journal or is lost."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _wake(self) -> None:
        with self._condition:
            self._urgent = True
            if not self._database.problem:  # else the next attempt comes at its own interval
                self._condition.notify()

    def _wake_later(self) -> None:
        # By the event loop's timer: the thread would have to be woken to start one of its own.
        try:
            asyncio.get_running_loop().call_later(_BATCH_DELAY, self._wake_if_queued)
        except RuntimeError:  # no event loop in this thread
            self._wake_if_queued()

    def _wake_if_queued(self) -> None:
        with self._condition:
            if self._queue:
                self._urgent = True
                self._condition.notify()

    # The thread

    def _run(self) -> None:
        # The journal first, so that writes are stored however long the database takes to open: at the empty batch.
        self._journal.rotate()
        batch: WriteBatch | None = WriteBatch()
        while batch is not None:
            self._write(batch)
            self._database.maintain()
            batch = self._next_batch()
        with self._condition:
            rest = [entry for entry in self._queue.take_batch(len(self._queue)).entries if not entry.journalled]
            self._queue.lost += sum(not isinstance(entry.write, FlushBarrier) for entry in rest)
        settle([entry.ack for entry in rest], stored=False)
        self._journal.close(self._committed)
        self._database.close()

    def _next_batch(self) -> WriteBatch | None:
        """Waits; the batch may be empty, and is None when it is time to end."""
        with self._condition:
            if self._database.problem:
                self._condition.wait_for(lambda: self._closing, _RETRY_INTERVAL)
            else:
                self._condition.wait_for(self._should_wake, self._database.maintain_at - time.monotonic())
            # Despite a problem one last attempt is made; what then remains is in the journal or lost.
            if self._closing and (not self._queue or (self._made_last_attempt and self._database.problem)):
                return None
            self._made_last_attempt = self._closing
        # Before the batch is taken, so that a batch of the whole queue covers the segment sealed here.
        self._journal.rotate()
        with self._condition:
            batch = self._queue.take_batch(_MAX_BATCH)
            self._urgent = bool(self._queue)
            self._writing = bool(batch.entries)
            return batch

    def _should_wake(self) -> bool:
        return self._closing or self._urgent

    def _write(self, batch: WriteBatch) -> None:
        self._silent_at = time.monotonic() + (ACK_TIMEOUT if self._database.is_open else _OPEN_TIMEOUT)
        result = self._database.write(batch)
        self._silent_at = None
        unstored = list(result.rejected)
        with self._condition:
            self._writing = False
            self._queue.lost += len(result.rejected)
            if result.remaining is not None:
                unstored += result.remaining.entries
                self._queue.requeue(result.remaining)
        if result.remaining is None:
            self._committed = max(self._committed, batch.through)
            self._journal.delete_committed(self._committed)
        settle([entry.ack for entry in result.stored], stored=True)
        settle([entry.ack for entry in unstored], stored=False)
