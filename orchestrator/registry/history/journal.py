"""The journal: files beside the database that take each write at once, and are deleted when the database has it too."""

# What is written to a file outlives the process. So a caller waits only for the appending of a line, some microseconds
# on its own thread, and the transactions can be few.

import logging
import os
import re
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from orchestrator.registry.history.writes import JournalWrite, Write

_FILE_NAME: Final = re.compile(r"history-(\d+)-([0-9a-f]{32})\.journal")
_SLOW_APPEND: Final = 0.1  # seconds; a slower one starts the pause
_SLOW_DISK_PAUSE: Final = 10.0

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(tuple[int, JournalWrite]).decode
_CHECKSUM: Final = b"%08x "
_CHECKSUM_BYTES: Final = 9

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JournalContent:
    """The readable writes of a journal file."""

    writes: Sequence[tuple[int, Write]]
    """With their numbers, in their order."""
    damaged_lines: int


# A checksum and JSON, which holds no line breaks: a torn or rotten line is recognised by itself and damages no other.
def encode_line(number: int, write: Write) -> bytes:
    """Raises `TypeError`, `ValueError` or `OverflowError` for what JSON cannot hold."""
    payload = _encode((number, write))
    return _CHECKSUM % zlib.crc32(payload) + payload + b"\n"


def decode_lines(content: bytes) -> JournalContent:
    # The rest behind the last line break is no damage: a write that was torn off was never acknowledged.
    *lines, _unfinished = content.split(b"\n")
    writes = [write for write in map(_decode_line, lines) if write is not None]
    return JournalContent(writes, len(lines) - len(writes))


def _decode_line(line: bytes) -> tuple[int, Write] | None:
    payload = line[_CHECKSUM_BYTES:]
    if line[:_CHECKSUM_BYTES] != _CHECKSUM % zlib.crc32(payload):
        return None
    try:
        return _decode(payload)
    except (TypeError, ValueError):  # of a program with other writes
        return None


@dataclass(slots=True)
class _Segment:
    """A file of the journal."""

    path: Path
    descriptor: int
    size: int = 0  # bytes; what lies beyond was not written completely
    last: int = 0
    """The number of its last write."""


@dataclass(frozen=True, slots=True)
class OrphanedJournal:
    """A journal file whose orchestrator has ended."""

    path: Path
    journal_id: str


class Journal:
    """The journal of one orchestrator process: an active file, and a sealed one whose writes are being committed.
    `append` may be called from any thread, one at a time; all else belongs to the writer's thread.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """`max_bytes`: of all journals in the folder together."""
        # The database knows by the id which writes it has: numbers alone restart with each process, and writes from
        # before the database could be opened must not pass for older than its own.
        self.id = uuid.uuid4().hex
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._active: _Segment | None = None
        self._sealed: _Segment | None = None
        # In the files' names: the order in which they were created, independent of the clock.
        self._next_segment = 0
        self._orphaned_bytes = 0
        self._paused_until = 0.0
        self._unusable = False

    def append(self, number: int, write: Write) -> bool:
        """True: it is stored, whatever happens to this process. False where the disk or the bound refuses it."""
        try:
            line = encode_line(number, write)
        except (TypeError, ValueError, OverflowError):
            return False
        with self._lock:
            segment, sealed = self._active, self._sealed
            if segment is None:
                return False
            others = self._orphaned_bytes + (sealed.size if sealed is not None else 0)
            if others + segment.size + len(line) > self._max_bytes:
                return False
            started = monotonic()
            if started < self._paused_until:
                return False
            try:
                # At an offset, so that a line of which only a part was written is overwritten by the next.
                # No fsync, which takes milliseconds: it is to outlive this process, not a power cut.
                written = os.pwrite(segment.descriptor, line, segment.size)
            except OSError:
                written = 0
            ended = monotonic()
            if ended - started > _SLOW_APPEND:
                # This holds up callers' threads: one of them has waited, the next ones shall not.
                self._paused_until = ended + _SLOW_DISK_PAUSE
            if written != len(line):
                return False
            segment.size += written
            segment.last = number
            return True

    @property
    def half_full(self) -> bool:
        """Time to commit, before it refuses writes."""
        active = self._active
        return active is not None and active.size > self._max_bytes // 2

    def rotate(self) -> None:
        """Seal the active segment and open a new one; does nothing while one is sealed."""
        segment = self._active
        if segment is not None and (segment.size == 0 or self._sealed is not None):
            return
        try:
            fresh = self._create_segment()
        except OSError as error:
            if not self._unusable:
                _log.warning("cannot create a journal in %s (%s): runs wait for the database", self._folder, error)
            self._unusable = True
            return
        self._unusable = False
        with self._lock:
            self._active, self._sealed = fresh, segment

    def delete_committed(self, through: int) -> None:
        """Delete the sealed segment if the database, which has all writes up to number `through`, has all of it."""
        if self._sealed is not None and self._sealed.last <= through:
            _delete(self._sealed)
            with self._lock:
                self._sealed = None

    def close(self, through: int) -> None:
        """As `delete_committed`, for both segments, and accept no more writes. The rest is for the next start."""
        with self._lock:
            segments = [segment for segment in (self._sealed, self._active) if segment is not None]
            self._active = self._sealed = None
        for segment in segments:
            if segment.last <= through:
                _delete(segment)
            else:
                os.close(segment.descriptor)

    def orphans(self) -> Iterator[OrphanedJournal]:
        """Files that earlier journals left, oldest first."""
        for path, match in self._files():
            if match[2] != self.id:
                yield OrphanedJournal(path, match[2])

    def delete_orphan(self, orphan: OrphanedJournal) -> None:
        """Call it once the database has all of it. Raises `OSError`."""
        orphan.path.unlink(missing_ok=True)
        self._orphaned_bytes = self._measure_orphans()

    def _create_segment(self) -> _Segment:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._next_segment:
            self._next_segment = 1 + max((int(match[1]) for _, match in self._files()), default=0)
            self._orphaned_bytes = self._measure_orphans()
        path = self._folder / f"history-{self._next_segment:06}-{self.id}.journal"
        segment = _Segment(path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self._next_segment += 1
        return segment

    def _files(self) -> list[tuple[Path, re.Match[str]]]:
        """Oldest first."""
        try:
            paths = list(self._folder.iterdir())
        except OSError:
            return []
        files = [(path, match) for path in paths if (match := _FILE_NAME.fullmatch(path.name))]
        return sorted(files, key=lambda file: int(file[1][1]))

    def _measure_orphans(self) -> int:
        total = 0
        for orphan in self.orphans():
            with suppress(OSError):
                total += orphan.path.stat().st_size
        return total


def _delete(segment: _Segment) -> None:
    with suppress(OSError):
        segment.path.unlink(missing_ok=True)
    os.close(segment.descriptor)
