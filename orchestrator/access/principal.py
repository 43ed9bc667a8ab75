"""Principal: who calls, what that caller may do and see, and its share of a busy plugin. Pure.

The question that routes ask is `may(right, plugin)`; of a plugin that a caller does not see it learns nothing, not even
that there is one.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from orchestrator.formatting import quoted

EVERY_PLUGIN: Final = ("*",)
MAX_WEIGHT: Final = 100
_PATTERN: Final = re.compile(r"[a-z0-9*?-]{1,63}")
_MAX_PATTERNS: Final = 50
_RATE: Final = re.compile(r"([1-9][0-9]{0,4})/(s|min|h)")
_PERIODS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Right(StrEnum):
    """READ sees plugins and what they did; RUN calls their tools; OPERATE restarts, stops, updates and scales them."""

    READ = "read"
    RUN = "run"
    OPERATE = "operate"


ALL_RIGHTS: Final = frozenset(Right)


class Priority(StrEnum):
    """Whose runs a busy plugin takes first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def weight(self) -> float:
        """How many runs a busy plugin takes from one caller, in proportion to others."""
        return _WEIGHTS[self]


_WEIGHTS: Final = {Priority.HIGH: 16.0, Priority.NORMAL: 4.0, Priority.LOW: 1.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` runs in any `seconds`."""

    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """From `60/min`; units are s, min and h. Raises `ValueError`."""
        found = _RATE.fullmatch(text)
        if found is None:
            raise ValueError(f"expected a rate such as 10/s, 60/min or 1000/h, not {quoted(text)}")
        return cls(int(found[1]), _PERIODS[found[2]])

    def __str__(self) -> str:
        return f"{self.count}/{next(unit for unit, seconds in _PERIODS.items() if seconds == self.seconds)}"


@dataclass(frozen=True, slots=True)
class Share:
    """A caller's part of the plugins that it calls.

    `weight`: a caller of weight 2 gets twice the runs of one of weight 1 and the same priority. `concurrency`: how many
    of its runs may execute at once, on all plugins together; more of them wait. None: no bound of its own.
    """

    priority: Priority = Priority.NORMAL
    weight: int = 1
    concurrency: int | None = None
    rate: Rate | None = None

    @property
    def total_weight(self) -> float:
        return self.priority.weight * self.weight


EQUAL_SHARE: Final = Share()


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key grants. `plugins`: patterns such as `det-*`; a plugin that none matches does not exist for it."""

    rights: frozenset[Right]
    plugins: tuple[str, ...] = EVERY_PLUGIN
    share: Share = EQUAL_SHARE

    def __post_init__(self) -> None:
        # Whoever may change something must be able to look at it.
        object.__setattr__(self, "rights", self.rights | {Right.READ} if self.rights else self.rights)

    @property
    def sees_every_plugin(self) -> bool:
        return "*" in self.plugins


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `name`: that of its key, None where no key is needed."""

    name: str | None
    grant: Grant

    def may(self, right: Right, plugin: str | None = None) -> bool:
        """Whether it has the right; on this plugin, where one is named."""
        return right in self.grant.rights and (plugin is None or self.sees(plugin))

    def sees(self, plugin: str) -> bool:
        """Whether the plugin exists for this caller."""
        grant = self.grant
        return grant.sees_every_plugin or any(fnmatchcase(plugin, pattern) for pattern in grant.plugins)

    @property
    def sees_every_plugin(self) -> bool:
        return self.grant.sees_every_plugin

    @property
    def sees_every_run(self) -> bool:
        """Of its plugins. A caller that may run, but not operate, sees its own runs alone."""
        rights = self.grant.rights
        return Right.OPERATE in rights or Right.RUN not in rights

    def sees_run(self, plugin: str, caller: str | None) -> bool:
        """Whether it sees a run of this plugin that `caller` has made."""
        return self.sees(plugin) and (self.sees_every_run or caller == self.name)


ANYONE: Final = Principal(None, Grant(ALL_RIGHTS))
"""Every caller, while no key is configured."""
STRANGER: Final = Principal(None, Grant(frozenset(), plugins=()))
"""A caller without a key, on a route that needs none."""


def plugin_patterns(text: str) -> tuple[str, ...]:
    """The patterns in a list separated by commas. Raises `ValueError`."""
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    if not patterns or len(patterns) > _MAX_PATTERNS or not all(map(_PATTERN.fullmatch, patterns)):
        raise ValueError(
            f"expected names of plugins or patterns such as 'det-*', separated by commas, not {quoted(text)}"
        )
    return EVERY_PLUGIN if "*" in patterns else patterns
