"""The one thread that writes: takes what has come together meanwhile, commits it in one go, and tries again by itself
when that fails.
"""

import asyncio
import threading
import time
from typing import Final

from orchestrator.registry.history.backlog import Backlog, Entry, Group
from orchestrator.registry.history.keeper import Keeper
from orchestrator.registry.history.problems import SILENT_DISK
from orchestrator.registry.history.receipts import PATIENCE, Receipt, settle
from orchestrator.registry.history.writes import Write

_GROUP: Final = 256
"""Writes that are committed together at most."""
_LINGER: Final = 0.02
"""Seconds that writes nobody waits for may wait for company: the steps of a short run become one commit, and wake the
thread once.
"""
_RETRY: Final = 1.0
"""Seconds between attempts while writing fails."""
_OPENING: Final = 30.0
"""Seconds that opening may take, migrations included, before the disk is called silent."""
CAPACITY: Final = 16 * 1024**2
"""Bytes of writes that may wait."""


class Writer:
    """Everything public may be called from any thread, and never raises. It opens the file in its own thread."""

    def __init__(self, keeper: Keeper, *, capacity: int = CAPACITY) -> None:
        self._keeper = keeper
        self._condition = threading.Condition()
        self._backlog = Backlog(capacity)  # guarded by the condition, like the next three
        self._urgent = False
        self._alarm_set = False
        self._closing = False
        self._tried_last = False
        self._silent_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why nothing is being written, as a sentence; None while all is well."""
        silent_at = self._silent_at
        return SILENT_DISK if silent_at is not None and time.monotonic() > silent_at else self._keeper.problem

    @property
    def lost(self) -> int:
        """Writes that were never made, and never will be."""
        return self._backlog.lost

    def start(self) -> None:
        self._thread.start()

    def put(self, write: Write, *, urgent: bool = False) -> Receipt:
        """Queue it, behind all that were put before. While there is a problem the receipt says at once that it is not
        kept; it is tried all the same. `urgent`: now, though nobody waits for it.
        """
        receipt = Receipt(self._hurry, stored=False if self.problem else None)
        with self._condition:
            if self._closing:
                self._backlog.lost += 1
                return Receipt(self._hurry, stored=False)
            dropped = self._backlog.put(Entry(write, receipt))
            set_alarm = not (urgent or self._alarm_set)
            self._alarm_set = self._alarm_set or set_alarm
        if urgent:
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
            self._condition.notify()

    def _hurry_soon(self) -> None:
        try:
            asyncio.get_running_loop().call_later(_LINGER, self._ring)
        except RuntimeError:  # no event loop in this thread
            self._ring()

    def _ring(self) -> None:
        with self._condition:
            self._alarm_set = False
            if self._backlog:
                self._urgent = True
                self._condition.notify()

    # The thread

    def _run(self) -> None:
        group: Group | None = Group()
        while group is not None:
            self._write(group)
            self._keeper.tend()
            group = self._next()
        with self._condition:
            left = self._backlog.take(len(self._backlog)).entries
            self._backlog.lost += len(left)
        settle([entry.receipt for entry in left], stored=False)
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
            group = self._backlog.take(_GROUP)
            self._urgent = bool(self._backlog)
            return group

    def _is_wanted(self) -> bool:
        return self._closing or self._urgent

    def _write(self, group: Group) -> None:
        self._silent_at = time.monotonic() + (PATIENCE if self._keeper.is_open else _OPENING)
        written = self._keeper.write(group)
        self._silent_at = None
        unstored = list(written.refused)
        with self._condition:
            self._backlog.lost += len(written.refused)
            if written.left is not None:
                unstored += written.left.entries
                self._backlog.give_back(written.left)
        settle([entry.receipt for entry in written.stored], stored=True)
        settle([entry.receipt for entry in unstored], stored=False)
