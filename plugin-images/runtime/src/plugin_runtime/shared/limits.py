"""Whether a container is held to its limits. Both sides of the protocol judge by this."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {"memory_bytes": "memory", "swap_bytes": "swap", "pids": "pids", "cpus": "cpus"}
"""Key of the status object and of PLUGIN_LIMITS → the limit's name in a manifest; swap is part of `memory` there."""
SLACK = 1.01  # a quota is rounded to whole microseconds
BATCHES_LET_IN = 2
"""For each batch that may execute: while it does, the next one is formed."""
SPARE_PIDS = 16
"""Processes and threads of a container beside those of its calls."""


def not_held(wanted: Mapping[str, float], found: Mapping[str, float | None]) -> tuple[str, ...]:
    """The names of the limits of `wanted` that do not hold. One that is not in `found` is not known, and not named."""
    return tuple(
        name for key, name in NAMES.items() if key in wanted and key in found and not _holds(wanted[key], found[key])
    )


def runs_let_in(concurrency: int, batch: int) -> int:
    """How many runs of a tool whose batches have up to `batch` items are in the container at once, if there are no
    others: `concurrency` is the number of batches that execute.
    """
    return concurrency * batch * BATCHES_LET_IN


def _holds(wanted: float, found: float | None) -> bool:
    return found is not None and found <= wanted * SLACK
