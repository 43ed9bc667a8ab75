"""How large the batches of each batched tool were, and how long their items waited, in memory that both processes
share.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_TOOLS = 64
"""Batched tools beyond these are not counted."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the counts by size, in items."""
WAITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of the counts by wait, in seconds."""
_WIDTH = 8  # bytes of each number
# One count for each bound and one for what is beyond, of sizes, then of waits.
_COUNTS = len(SIZES) + 1 + len(WAITS) + 1


class SharedBatchCounts:
    """Create it before the fork. The worker counts, for each tool in one thread at a time; the supervisor reads. Tools
    are numbered from 0.
    """

    # A reader may see a batch counted in one place and not yet in the other: the next status has both.

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, MAX_TOOLS * (_COUNTS + 1) * _WIDTH))
        self._counts = memory[: MAX_TOOLS * _COUNTS * _WIDTH].cast("Q")
        self._seconds = memory[MAX_TOOLS * _COUNTS * _WIDTH :].cast("d")

    def add(self, tool: int, waits: Sequence[float]) -> None:
        """A batch starts, whose items have waited for so many seconds each."""
        if tool >= MAX_TOOLS:
            return
        sizes = tool * _COUNTS
        self._counts[sizes + bisect_left(SIZES, len(waits))] += 1
        for seconds in waits:
            self._counts[sizes + len(SIZES) + 1 + bisect_left(WAITS, seconds)] += 1
        self._seconds[tool] += sum(waits)

    def documents(self, tools: Iterable[str]) -> list[dict[str, Any]]:
        """As the status object has them; `tools` are the names by number."""
        return [self._document(number, name) for number, name in enumerate(tools) if number < MAX_TOOLS]

    def _document(self, number: int, name: str) -> dict[str, Any]:
        counts = self._counts[number * _COUNTS : (number + 1) * _COUNTS].tolist()
        sizes, waits = counts[: len(SIZES) + 1], counts[len(SIZES) + 1 :]
        return {
            "tool": name,
            "sizes": {"bounds": list(SIZES), "counts": sizes},
            "waits": {"bounds": list(WAITS), "counts": waits, "sum_seconds": round(self._seconds[number], 6)},
        }
