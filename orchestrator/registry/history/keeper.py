"""Keeps a ledger open over everything that may happen to its file: deleted, damaged, full, locked, read-only."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from orchestrator.registry.history import file
from orchestrator.registry.history.backlog import Group
from orchestrator.registry.history.groups import Written, commit
from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.ledger import Applied, Ledger
from orchestrator.registry.history.opening import begin_anew, carry_over, open_ledger
from orchestrator.registry.history.problems import damaged, not_written, storage_fault
from orchestrator.registry.history.records import Counters, Restored
from orchestrator.registry.history.replay import take_in
from orchestrator.registry.history.retention import Retention
from orchestrator.registry.history.schema import MIGRATIONS, Migration

_TEND_BUSY: Final = 1.0
_TEND_IDLE: Final = 60.0
"""Seconds from a look at age and size to the next, when something was written meanwhile and when nothing was."""

_CHECKPOINT: Final = 100
"""Commits after which the log is written back into the file, before SQLite does it in the middle of a commit (1000
pages; a run takes some five).
"""

_log = logging.getLogger(__name__)


class Keeper:
    """For one thread; only `problem`, `notice` and `restored` may be looked at by others. Nothing is raised."""

    def __init__(
        self, path: Path, retention: Retention, journal: Journal, migrations: Sequence[Migration] = MIGRATIONS
    ) -> None:
        self.problem: str | None = None
        self.notice: str | None = None
        self.restored: Future[Restored] = Future()
        """Done after the first `write`."""
        self.tend_at = 0.0
        """By the monotonic clock: when to call `tend` at the latest."""
        self._path = path
        self._retention = retention
        self._journal = journal
        self._migrations = migrations
        self._ledger: Ledger | None = None
        self._identity: file.Identity = (None, None)
        self._counters: Mapping[str, Counters] = {}
        self._applied: Applied = (journal.id, 0)
        """What is in these counters."""
        self._settled = False
        self._commits = 0

    @property
    def is_open(self) -> bool:
        return self._ledger is not None

    def write(self, group: Group) -> Written:
        """Write the group into the file, which is opened or begun anew where need be."""
        try:
            return self._write(group)
        except Exception as error:  # noqa: BLE001 - whatever it is, history is kept again as soon as that can be
            return self._write_anew(group, error) if damaged(error) else self._give_up(group, error)

    def tend(self) -> None:
        """What has to be done now and then, when nobody waits for it: the checkpoint, and what grew too old or too
        much.
        """
        if self._ledger is None or self.problem:
            return
        now = time.monotonic()
        try:
            if self._commits >= _CHECKPOINT:
                self._ledger.checkpoint()
                self._commits = 0
            if now >= self.tend_at:
                more = self._retention.step(self._ledger.connection)
                self.tend_at = now if more else now + _TEND_IDLE
        except Exception as error:  # noqa: BLE001 - see `write`
            self._fail(error)

    def close(self) -> None:
        """Let go of the file; the counters are kept in mind."""
        if self._ledger is not None:
            self._keep_in_mind(self._ledger)
            self._ledger.close()
            self._ledger = None

    def _write(self, group: Group) -> Written:
        ledger = self._current()
        written = Written()
        if group.entries or group.debts:
            written = commit(ledger, group, self._journal.id)
            self._commits += 1
            self.tend_at = min(self.tend_at, time.monotonic() + _TEND_BUSY)
        elif self.problem:
            ledger.probe()
        if written.fault is None:
            self._recover()
        else:
            self._fail(written.fault)
        return written

    def _write_anew(self, group: Group, damage: Exception) -> Written:
        self.close()
        try:
            self.notice = begin_anew(self._path, damage)
            return self._write(group)
        except Exception as error:  # noqa: BLE001 - see `write`
            return self._give_up(group, error)

    def _give_up(self, group: Group, error: Exception) -> Written:
        self._fail(error)
        return Written(left=group, fault=error)

    def _current(self) -> Ledger:
        if self._ledger is not None and file.identity(self._path) != self._identity:
            self.close()
            file.part_from_log(self._path, self._identity)
            self.notice = "The history file was deleted or replaced while it was in use."
            _log.warning("%s was deleted or replaced while it was in use", self._path)
        if self._ledger is None:
            self._ledger = self._open()
        return self._ledger

    def _open(self) -> Ledger:
        ledger, notice = open_ledger(self._path, self._migrations)
        try:
            self._retention.configure(ledger.connection)
            carry_over(ledger, self._counters, self._applied)
            self._identity = file.identity(self._path)
            if not self._settled:
                notice = " ".join(filter(None, (notice, take_in(ledger, self._journal)))) or None
                restored = ledger.restore()
                self._settled = True
                self.notice = notice or self.notice  # before whoever waits for what is restored asks for it
                if not self.restored.done():
                    self.restored.set_result(restored)
        except BaseException:
            self._keep_in_mind(ledger)
            ledger.close()
            raise
        self.notice = notice or self.notice
        return ledger

    def _keep_in_mind(self, ledger: Ledger) -> None:
        self._counters = ledger.counters
        self._applied = ledger.taken or self._applied

    def _fail(self, error: Exception) -> None:
        self.close()
        problem = not_written(error)
        if problem != self.problem:
            _log.error("%s", problem, exc_info=None if storage_fault(error) else error)
        self.problem = problem
        if not self.restored.done():
            self.restored.set_result(Restored(complete=False))

    def _recover(self) -> None:
        if self.problem:
            _log.warning("history is being written again")
            self.problem = None
