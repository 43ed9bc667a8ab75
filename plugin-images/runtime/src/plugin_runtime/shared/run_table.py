"""The runs that execute now, in memory that both processes share."""

# A pipe would cost every call more than this microsecond, and a question to the worker would wait for its GIL.

from __future__ import annotations

import mmap
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from plugin_runtime.shared.batch_counts import SharedBatchCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOTS = 512
"""Runs beyond these execute and are counted as well; only the list lacks them."""
_COUNTER = struct.Struct("@Q")
_SEQUENCE = struct.Struct("@Q")
_RECORD = struct.Struct("@d64s120s")
MESSAGE_BYTES = 200
_PROGRESS_READS = 3  # of a progress that changes while it is read
_PROGRESS = struct.Struct(f"@d{MESSAGE_BYTES}s")
_PROGRESS_AT = _SEQUENCE.size + _RECORD.size
_SLOT_BYTES = _PROGRESS_AT + _SEQUENCE.size + _PROGRESS.size


class SharedRunTable:
    """Create it before the fork. The worker writes, the supervisor reads; neither waits for the other."""

    # A slot is a seqlock: its sequence number is odd while a run holds it. The record is written while the number is
    # even, so a record read between two equal odd numbers is consistent. The progress in it is a seqlock of its own,
    # odd while it is written and 0 before the first: the run must not disappear meanwhile.

    def __init__(self) -> None:
        # Two counters, of runs started and of slots ever used, then the slots.
        self._memory = mmap.mmap(-1, 2 * _COUNTER.size + SLOTS * _SLOT_BYTES)
        self.batches = SharedBatchCounts()
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._taken = 0
        self._added = 0

    # The worker's side

    def add(self, run_id: str, tool: str) -> int | None:
        """Count a run, and list it from now on. Returns its slot, for `remove`; None where all are taken."""
        memory, new = self._memory, False
        with self._lock:
            self._added += 1
            _COUNTER.pack_into(memory, 0, self._added)
            if self._free:
                slot = self._free.pop()
            elif self._taken < SLOTS:
                slot, new = self._taken, True
                self._taken += 1
            else:
                return None
        offset = _offset(slot)
        _RECORD.pack_into(memory, offset + _SEQUENCE.size, time.monotonic(), run_id.encode(), tool.encode())
        _SEQUENCE.pack_into(memory, offset + _PROGRESS_AT, 0)
        self._increment(offset)
        if new:
            with self._lock:
                _COUNTER.pack_into(memory, _COUNTER.size, max(slot + 1, self._used))
        return slot

    def note_progress(self, slot: int | None, fraction: float, message: str) -> None:
        """List the run of this slot with its progress."""
        if slot is not None:
            offset = _offset(slot) + _PROGRESS_AT
            self._increment(offset)
            text = message.encode("utf-8", "replace")[:MESSAGE_BYTES]
            _PROGRESS.pack_into(self._memory, offset + _SEQUENCE.size, fraction, text)
            self._increment(offset)

    def remove(self, slot: int | None) -> None:
        """List the run of this slot no longer."""
        if slot is not None:
            self._increment(_offset(slot))
            self._free.append(slot)

    def _increment(self, offset: int) -> None:
        (sequence,) = _SEQUENCE.unpack_from(self._memory, offset)
        _SEQUENCE.pack_into(self._memory, offset, sequence + 1)

    # The supervisor's side

    @property
    def started(self) -> int:
        """Runs since the start of the container."""
        return int(_COUNTER.unpack_from(self._memory, 0)[0])

    def executing(self) -> list[dict[str, Any]]:
        """As the status object lists them, the longest first."""
        now = time.monotonic()
        return [
            {"run_id": run_id, "tool": tool, "seconds": round(now - since, 3), "progress": progress}
            for since, run_id, tool, progress in sorted(self._read(), key=lambda run: run[:3])
        ]

    @property
    def _used(self) -> int:
        return min(SLOTS, int(_COUNTER.unpack_from(self._memory, _COUNTER.size)[0]))

    def _read(self) -> Iterator[tuple[float, str, str, dict[str, Any] | None]]:
        for slot in range(self._used):
            offset = _offset(slot)
            before = _SEQUENCE.unpack_from(self._memory, offset)
            since, run_id, tool = _RECORD.unpack_from(self._memory, offset + _SEQUENCE.size)
            progress = self._read_progress(offset + _PROGRESS_AT) if before[0] % 2 else None
            if before[0] % 2 and _SEQUENCE.unpack_from(self._memory, offset) == before:
                yield since, _text(run_id), _text(tool), progress

    def _read_progress(self, offset: int) -> dict[str, Any] | None:
        for _ in range(_PROGRESS_READS):
            before = _SEQUENCE.unpack_from(self._memory, offset)
            fraction, message = _PROGRESS.unpack_from(self._memory, offset + _SEQUENCE.size)
            if before[0] % 2 == 0 and _SEQUENCE.unpack_from(self._memory, offset) == before:
                break
        else:
            return None
        return {"fraction": fraction, "message": _text(message)} if before[0] else None


def _offset(slot: int) -> int:
    return 2 * _COUNTER.size + slot * _SLOT_BYTES


def _text(padded: bytes) -> str:
    # A character that was cut in two at the end is left out.
    return padded.rstrip(b"\0").decode("utf-8", "ignore")
