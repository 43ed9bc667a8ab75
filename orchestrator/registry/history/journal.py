"""The journal: files beside the history file that take each write at once, and give it up when that has it too.

What was written to a file outlives the process; so a line here, some microseconds on the caller's own thread, is all
that anybody has to wait for, and the transactions can be few.
"""

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.registry.history.lines import line
from orchestrator.registry.history.writes import Write

_NAME: Final = re.compile(r"history-(\d+)-([0-9a-f]{32})\.journal")
_STALL: Final = 0.1
"""Seconds that a line may take; a disk that takes longer is not asked on the callers' threads for a while."""
_REST: Final = 10.0
"""Seconds."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Part:
    """A file of the journal."""

    path: Path
    descriptor: int
    size: int = 0
    """Bytes; whatever lies beyond was not written whole."""
    last: int = 0
    """The number of its last write."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file of a journal whose orchestrator has ended."""

    path: Path
    journal: str
    """The id of that journal."""


class Journal:
    """The journal of one life of the orchestrator: two files at most, one that grows and one whose writes are being
    committed. Nothing here raises, unless it says so.

    `append` may be called from any thread, one at a time; the rest belongs to the writer's thread.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        """`capacity` are bytes of all journals in the folder together."""
        self.id = uuid.uuid4().hex
        """By it the history file knows which writes it has: numbers alone begin anew with each life, and what was
        written before the file could be opened must not be taken for older than what it holds.
        """
        self._folder = folder
        self._capacity = capacity
        self._lock = threading.Lock()
        self._growing: _Part | None = None
        self._sealed: _Part | None = None
        self._next = 0
        """Of the files' names, which so tell the order in which they were begun, whatever the clock said."""
        self._elsewhere = 0
        """Bytes of leftovers."""
        self._rests_until = 0.0
        self._unusable = False

    def append(self, number: int, write: Write) -> bool:
        """True: it is kept, whatever becomes of this process. False where the disk or the bound refuses it."""
        try:
            record = line(number, write)
        except (TypeError, ValueError, OverflowError):
            return False
        with self._lock:
            part = self._growing
            if part is None or self._size + len(record) > self._capacity:
                return False
            begun = time.monotonic()
            if begun < self._rests_until:
                return False
            try:
                whole = os.pwrite(part.descriptor, record, part.size) == len(record)
            except OSError:
                whole = False
            ended = time.monotonic()
            if ended - begun > _STALL:
                self._rests_until = ended + _REST
            if whole:
                part.size += len(record)
                part.last = number
            return whole

    @property
    def filling(self) -> bool:
        """Time to commit, before it is full."""
        growing = self._growing
        return growing is not None and growing.size > self._capacity // 2

    def turn(self) -> None:
        """Go on in a new file, so that the one so far can be given up once its writes are committed."""
        part = self._growing
        if part is not None and (part.size == 0 or self._sealed is not None):
            return
        try:
            fresh = self._begin()
        except OSError as error:
            if not self._unusable:
                _log.warning("no journal can be begun in %s (%s): runs wait for the history file", self._folder, error)
            self._unusable = True
            return
        self._unusable = False
        with self._lock:
            self._growing, self._sealed = fresh, part

    def give_up(self, through: int) -> None:
        """The writes up to the number `through` are in the history file."""
        if self._sealed is not None and self._sealed.last <= through:
            _delete(self._sealed)
            with self._lock:
                self._sealed = None

    def close(self, through: int) -> None:
        """As `give_up`; and nothing is taken any more. What is not in the history file stays for the next start."""
        with self._lock:
            parts = [part for part in (self._sealed, self._growing) if part is not None]
            self._growing = self._sealed = None
        for part in parts:
            if part.last <= through:
                _delete(part)
            else:
                os.close(part.descriptor)

    def leftovers(self) -> Iterator[Leftover]:
        """What journals before this one left, oldest first."""
        for path, found in self._files():
            if found[2] != self.id:
                yield Leftover(path, found[2])

    def discard(self, leftover: Leftover) -> None:
        """All of it is in the history file. Raises `OSError`."""
        leftover.path.unlink(missing_ok=True)
        self._elsewhere = self._bytes_elsewhere()

    @property
    def _size(self) -> int:
        sealed, growing = self._sealed, self._growing
        return self._elsewhere + (sealed.size if sealed else 0) + (growing.size if growing else 0)

    def _begin(self) -> _Part:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._next:
            self._next = 1 + max((int(found[1]) for _, found in self._files()), default=0)
            self._elsewhere = self._bytes_elsewhere()
        path = self._folder / f"history-{self._next:06}-{self.id}.journal"
        part = _Part(path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self._next += 1
        return part

    def _files(self) -> list[tuple[Path, re.Match[str]]]:
        """Oldest first."""
        try:
            paths = list(self._folder.iterdir())
        except OSError:
            return []
        files = [(path, found) for path in paths if (found := _NAME.fullmatch(path.name))]
        return sorted(files, key=lambda file: int(file[1][1]))

    def _bytes_elsewhere(self) -> int:
        total = 0
        for leftover in self.leftovers():
            with suppress(OSError):
                total += leftover.path.stat().st_size
        return total


def _delete(part: _Part) -> None:
    with suppress(OSError):
        part.path.unlink(missing_ok=True)
    os.close(part.descriptor)
