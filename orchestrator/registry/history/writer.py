"""The one thread that writes: takes what has come together meanwhile, commits it in one go, and tries again by itself
when that fails.
"""

import asyncio
import threading
import time
from typing import Final

from orchestrator.registry.history.backlog import Backlog, Entry, Group
from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.keeper import Keeper
from orchestrator.registry.history.problems import SILENT_DISK
from orchestrator.registry.history.receipts import KEPT, NOT_KEPT, PATIENCE, Receipt, settle
from orchestrator.registry.history.writes import Mark, Write

_GROUP: Final = 256
"""Writes that are committed together at most."""
_LINGER: Final = 0.5
"""Seconds that writes nobody waits for may wait for company: the runs of that time become few commits, and wake the
thread once.
"""
_MANY: Final = 1024
"""Writes that wait for no more company."""
_RETRY: Final = 1.0
"""Seconds between attempts while writing fails."""
_OPENING: Final = 30.0
"""Seconds that opening may take, migrations included, before the disk is called silent."""
CAPACITY: Final = 16 * 1024**2
"""Bytes of writes that may wait."""


class Writer:
    """Everything public may be called from any thread, and never raises. It opens the file in its own thread."""

    def __init__(self, keeper: Keeper, journal: Journal, *, capacity: int = CAPACITY) -> None:
        self._keeper = keeper
        self._journal = journal
        self._condition = threading.Condition()
        self._backlog = Backlog(capacity)  # guarded by the condition, like the next five
        self._number = 0
        self._writing = False
        self._urgent = False
        self._committed = 0
        self._alarm_at = 0.0
        self._closing = False
        self._tried_last = False
        self._silent_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why nothing is being written, as a sentence; None while all is well."""
        return SILENT_DISK if self._silent else self._keeper.problem

    @property
    def lost(self) -> int:
        """Writes that were never made, and never will be."""
        return self._backlog.lost

    @property
    def _silent(self) -> bool:
        """The disk has not answered for so long that nobody should wait for it any more."""
        silent_at = self._silent_at
        return silent_at is not None and time.monotonic() > silent_at

    def start(self) -> None:
        self._thread.start()

    @property
    def behind(self) -> bool:
        """Something is not in the file yet."""
        return bool(self._backlog) or self._writing

    def put(self, write: Write, *, urgent: bool = False) -> Receipt:
        """Queue it, behind all that were put before. It is kept as soon as the journal has it. What the journal does
        not take is kept once it is in the file; while there is a problem the receipt says at once that it is not, and
        it is tried all the same. `urgent`: then it goes into the file now, though nobody waits for it.
        """
        with self._condition:
            if self._closing:
                self._backlog.lost += 1
                return NOT_KEPT
            self._number += 1
            journalled = not (isinstance(write, Mark) or self._silent) and self._journal.append(self._number, write)
            if journalled and not self._backlog.filling:
                receipt = KEPT
            else:
                receipt = Receipt(self._hurry, stored=False if self.problem else None)
            dropped = self._backlog.put(Entry(write, receipt, self._number, journalled))
            now = time.monotonic()
            hurry = (urgent and not journalled) or len(self._backlog) % _MANY == 0 or self._journal.filling
            set_alarm = not hurry and now >= self._alarm_at
            if set_alarm:
                self._alarm_at = now + _LINGER
        if hurry:
            self._hurry()
        elif set_alarm:
            self._hurry_soon()
        if dropped:
            settle([entry.receipt for entry in dropped], stored=False)
        return receipt

    def close(self, patience: float) -> None:
        """Write what is left, and end, within `patience` seconds; what cannot be written is lost."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(patience)

    def _hurry(self) -> None:
        with self._condition:
            self._urgent = True
            if not self._keeper.problem:  # then the next attempt has its time
                self._condition.notify()

    def _hurry_soon(self) -> None:
        try:
            asyncio.get_running_loop().call_later(_LINGER, self._ring)
        except RuntimeError:  # no event loop in this thread
            self._ring()

    def _ring(self) -> None:
        with self._condition:
            if self._backlog:
                self._urgent = True
                self._condition.notify()

    # The thread

    def _run(self) -> None:
        self._journal.turn()
        group: Group | None = Group()
        while group is not None:
            self._write(group)
            self._keeper.tend()
            group = self._next()
        with self._condition:
            left = [entry for entry in self._backlog.take(len(self._backlog)).entries if not entry.journalled]
            self._backlog.lost += sum(not isinstance(entry.write, Mark) for entry in left)
        settle([entry.receipt for entry in left], stored=False)
        self._journal.close(self._committed)
        self._keeper.close()

    def _next(self) -> Group | None:
        """What is to be written now, perhaps nothing; None when it is time to end."""
        with self._condition:
            if self._keeper.problem:
                self._condition.wait_for(lambda: self._closing, _RETRY)
            else:
                self._condition.wait_for(self._is_wanted, self._keeper.tend_at - time.monotonic())
            if self._closing and (not self._backlog or (self._tried_last and self._keeper.problem)):
                return None
            self._tried_last = self._closing
        self._journal.turn()
        with self._condition:
            group = self._backlog.take(_GROUP)
            self._urgent = bool(self._backlog)
            self._writing = bool(group.entries)
            return group

    def _is_wanted(self) -> bool:
        return self._closing or self._urgent

    def _write(self, group: Group) -> None:
        self._silent_at = time.monotonic() + (PATIENCE if self._keeper.is_open else _OPENING)
        written = self._keeper.write(group)
        self._silent_at = None
        unstored = list(written.refused)
        with self._condition:
            self._writing = False
            self._backlog.lost += len(written.refused)
            if written.left is not None:
                unstored += written.left.entries
                self._backlog.give_back(written.left)
        if written.left is None:
            self._committed = max(self._committed, group.through)
            self._journal.give_up(self._committed)
        settle([entry.receipt for entry in written.stored], stored=True)
        settle([entry.receipt for entry in unstored], stored=False)
