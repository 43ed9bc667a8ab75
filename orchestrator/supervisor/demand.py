"""Demand: the runs of one plugin that no instance has taken yet, and those that came lately."""

from dataclasses import dataclass
from time import monotonic
from typing import Final

HALF_LIFE: Final = 600.0
"""Seconds after which a run counts half."""


@dataclass(slots=True)
class RecentUse:
    """A plugin's runs, each counted half after every `HALF_LIFE`. `at`: a clock that does not jump, seconds."""

    runs: float = 0.0
    at: float = 0.0

    def count(self, now: float) -> None:
        """A run came now."""
        self.runs, self.at = self.value(now) + 1.0, now

    def value(self, now: float) -> float:
        return self.runs * float(0.5 ** (max(0.0, now - self.at) / HALF_LIFE))


class Demand:
    """Times are by the monotonic clock, in seconds, which is the event loop's too."""

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

    def taken(self) -> None:
        """A run had an instance at once."""
        self._recent.count(monotonic())

    def came(self) -> None:
        """A run looks for an instance. `left` must follow."""
        now = monotonic()
        self._recent.count(now)
        if self.waiting == 0:
            self.waiting_since = now
        self.waiting += 1

    def left(self) -> None:
        self.waiting -= 1

    @property
    def recent_runs(self) -> float:
        """By `RecentUse`."""
        return self._recent.value(monotonic())
