"""Whether a container is held to its limits. Both sides of the protocol judge by this."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {"memory_bytes": "memory", "swap_bytes": "swap", "pids": "pids", "cpus": "cpus"}
"""Key of the status object and of PLUGIN_LIMITS → the limit's name in a manifest; swap is part of `memory` there."""
SLACK = 1.01  # a quota is rounded to whole microseconds


def not_held(wanted: Mapping[str, float], found: Mapping[str, float | None]) -> tuple[str, ...]:
    """The names of the limits of `wanted` that do not hold. One that is not in `found` is not known, and not named."""
    return tuple(
        name for key, name in NAMES.items() if key in wanted and key in found and not _holds(wanted[key], found[key])
    )


def _holds(wanted: float, found: float | None) -> bool:
    return found is not None and found <= wanted * SLACK
