"""Demand: the runs of one plugin that no instance has taken yet, and those that came lately."""

import asyncio
from dataclasses import dataclass
from typing import Final, Self

HALF_LIFE: Final = 600.0
"""Seconds after which a run counts half."""


@dataclass(frozen=True, slots=True)
class RecentUse:
    """A plugin's runs, each counted half after every `HALF_LIFE`. `at`: a clock that does not jump, seconds."""

    runs: float = 0.0
    at: float = 0.0

    def counted(self, now: float) -> Self:
        """With a run that came now."""
        return type(self)(self.value(now) + 1.0, now)

    def value(self, now: float) -> float:
        return self.runs * float(0.5 ** (max(0.0, now - self.at) / HALF_LIFE))


class Demand:
    """Times are by the event loop's clock, in seconds."""

    def __init__(self) -> None:
        self.waiting = 0
        """Runs that look for an instance."""
        self.waiting_since = 0.0
        """When the first of them came."""
        self.served_at = 0.0
        """When the last run left an instance."""
        self.asked = False
        """An operator's command began the last instances: it waits for them."""
        self._recent = RecentUse()

    def came(self) -> None:
        """A run looks for an instance. `left` must follow."""
        now = asyncio.get_running_loop().time()
        self._recent = self._recent.counted(now)
        if self.waiting == 0:
            self.waiting_since = now
        self.waiting += 1

    def left(self) -> None:
        self.waiting -= 1

    @property
    def recent_runs(self) -> float:
        """By `RecentUse`."""
        return self._recent.value(asyncio.get_running_loop().time())
