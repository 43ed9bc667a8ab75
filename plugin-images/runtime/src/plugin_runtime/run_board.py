"""Which runs execute now, in memory that worker and supervisor share: to tell costs a call about a microsecond, and to
read waits for nobody's GIL.

A slot's turn is odd while it is taken. It is written while the turn is even, so what is read between two equal odd
turns is whole.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOTS = 512
"""Runs beyond these execute all the same and are counted; they only are not listed."""
_COUNT = struct.Struct("@Q")
_TURN = struct.Struct("@Q")
_FACTS = struct.Struct("@d64s120s")
_SLOT_SIZE = _TURN.size + _FACTS.size


class RunBoard:
    """Make it before the fork. The worker writes, the supervisor reads; neither waits for the other."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * _COUNT.size + SLOTS * _SLOT_SIZE)
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._touched = 0

    # The worker's side

    def begin(self, run_id: str, tool: str) -> int | None:
        """A run executes from now on. Its slot, to be given to `end`."""
        facts = _FACTS.pack(time.monotonic(), run_id.encode()[:64], tool.encode()[:120])
        with self._lock:
            _COUNT.pack_into(self._memory, 0, self.begun + 1)
            if self._free:
                slot = self._free.pop()
            elif self._touched < SLOTS:
                slot = self._touched
                self._touched += 1
            else:
                return None
        place = _place(slot)
        self._memory[place + _TURN.size : place + _SLOT_SIZE] = facts
        self._turn(place)
        if slot + 1 > self._listed:
            with self._lock:
                _COUNT.pack_into(self._memory, _COUNT.size, max(slot + 1, self._listed))
        return slot

    def end(self, slot: int | None) -> None:
        """The run of this slot executes no more."""
        if slot is not None:
            self._turn(_place(slot))
            self._free.append(slot)

    # The supervisor's side

    @property
    def begun(self) -> int:
        """Runs since the start."""
        return int(_COUNT.unpack_from(self._memory, 0)[0])

    def executing(self) -> list[dict[str, Any]]:
        """As the status object lists them, the longest first."""
        now = time.monotonic()
        runs = sorted(self._taken())
        return [{"run_id": run_id, "tool": tool, "seconds": round(now - since, 3)} for since, run_id, tool in runs]

    # Inside

    @property
    def _listed(self) -> int:
        """Slots that were ever taken."""
        return min(SLOTS, int(_COUNT.unpack_from(self._memory, _COUNT.size)[0]))

    def _taken(self) -> Iterator[tuple[float, str, str]]:
        for slot in range(self._listed):
            place = _place(slot)
            before = _TURN.unpack_from(self._memory, place)
            since, run_id, tool = _FACTS.unpack_from(self._memory, place + _TURN.size)
            if before[0] % 2 and _TURN.unpack_from(self._memory, place) == before:
                yield since, _text(run_id), _text(tool)

    def _turn(self, place: int) -> None:
        (turn,) = _TURN.unpack_from(self._memory, place)
        _TURN.pack_into(self._memory, place, turn + 1)


def _place(slot: int) -> int:
    return 2 * _COUNT.size + slot * _SLOT_SIZE


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("utf-8", "replace")
