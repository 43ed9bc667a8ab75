"""Pure: the batches of a tool that takes many items at once: which items, and when. Waits for nothing."""

from __future__ import annotations

import math
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plugin_runtime.authoring import ToolOptions

MIN_SIZE, MAX_SIZE = 2, 1024
MAX_WAIT = 60.0  # seconds
DEFAULT_WAIT = "5ms"
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
IN_TIME, START_IN_TIME = 0.95, 0.9
"""Of the time that an item has: the rest is for the way back, and for a batch whose duration nobody knows yet."""
REMEMBERED = 8
"""Batches by whose durations the next one's is judged."""
EXACT = (str, bytes, bytearray, bool, int, type(None))


class BatchFault(ValueError):  # noqa: N818 - what is wrong, in one sentence for the operator
    """What `@tool` was given for batches cannot be."""


class BatchSettings(NamedTuple):
    """At most `size` items; the first waits for at most `wait` seconds."""

    size: int
    wait: float

    def document(self) -> dict[str, Any]:
        """As the status object has them."""
        return {"max_size": self.size, "max_wait_ms": round(self.wait * 1000, 3)}


def batch_settings(options: ToolOptions) -> BatchSettings | None:
    """None for a tool without batches. Raises BatchFault."""
    size, wait = options.batch, options.wait
    if size is None:
        if wait is not None:
            raise BatchFault("`wait` is for items that wait for a batch; give `batch` too, or leave it out")
        return None
    if type(size) is not int or not MIN_SIZE <= size <= MAX_SIZE:
        raise BatchFault(f"`batch` is {size!r}, and has to be a number of items from {MIN_SIZE} to {MAX_SIZE}")
    match = DURATION.fullmatch(DEFAULT_WAIT if wait is None else str(wait))
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else math.inf
    if seconds > MAX_WAIT:
        raise BatchFault(f'`wait` is {wait!r}, and has to be a duration such as "5ms" or "0.5s", of at most 60 s')
    return BatchSettings(size, seconds)


class Item:
    """One call's item, and the other arguments of its call, whose caller waits for `seconds`. Times by one clock.

    `deadline`: when its batch has to have ended; `latest`: when that has to have started, however short it may be.
    """

    __slots__ = ("arrived", "deadline", "latest", "others", "value")

    def __init__(self, value: Any, others: Mapping[str, Any], *, arrived: float, seconds: float = math.inf) -> None:
        self.value = value
        self.others = others
        self.arrived = arrived
        self.deadline = arrived + seconds * IN_TIME
        self.latest = arrived + seconds * START_IN_TIME


ItemT = TypeVar("ItemT", bound=Item)


class _Group(Generic[ItemT]):
    """Items of one kind, in the order of arrival; they may be more than one batch."""

    __slots__ = ("deadline", "items", "latest")

    def __init__(self, items: list[ItemT]) -> None:
        self.items = items
        self.deadline = min(item.deadline for item in items)  # the earliest, as the next one
        self.latest = min(item.latest for item in items)

    def add(self, item: ItemT) -> None:
        self.items.append(item)
        self.deadline = min(self.deadline, item.deadline)
        self.latest = min(self.latest, item.latest)


class BatchQueue(Generic[ItemT]):
    """The items of one tool that wait. Those of a batch have equal other arguments, and are in the order of arrival."""

    def __init__(self, settings: BatchSettings) -> None:
        self._size, self._wait = settings
        self._groups: list[_Group[ItemT]] = []  # none is empty
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self._longest = 0.0  # of them

    def items(self) -> list[ItemT]:
        """All that wait."""
        return [item for group in self._groups for item in group.items]

    def add(self, item: ItemT) -> None:
        """An item arrives, after all that were added before."""
        for group in self._groups:
            if same(group.items[0].others, item.others):
                group.add(item)
                return
        self._groups.append(_Group([item]))

    def remove(self, item: ItemT) -> bool:
        """Take an item out; False where it does not wait."""
        for group in self._groups:
            rest = [waiting for waiting in group.items if waiting is not item]
            if len(rest) < len(group.items):
                self._replace(group, rest)
                return True
        return False

    def executed(self, seconds: float) -> bool:
        """A batch took so long; whether batches may now have to start earlier than was known."""
        before = self._longest
        self._durations.append(seconds)
        self._longest = max(self._durations)
        return self._longest > before

    def last_start(self, item: ItemT) -> float:
        """When its batch has to start at the latest, to end in time as far as the last ones tell."""
        return min(item.latest, item.deadline - self._longest)

    def starts_at(self, item: ItemT) -> float:
        """When it is due whatever else arrives, unless it is taken before."""
        return min(item.arrived + self._wait, self.last_start(item))

    def refused_at(self, item: ItemT, *, busy: bool) -> float:
        """From when on it is not to be started any more. `busy`: it waits for batches that execute."""
        # Only then by their durations: an item that nothing holds up starts, however long others have taken.
        return self.last_start(item) if busy else item.deadline

    def due_at(self) -> float:
        """When the next batch is to start; infinity where no item waits."""
        return min(map(self._due_at, self._groups), default=math.inf)

    def take(self, now: float) -> list[ItemT]:
        """The batch that is due, which waits no longer; of several the one whose first item came first. Empty where
        none is due.
        """
        due = [group for group in self._groups if self._due_at(group) <= now]
        if not due:
            return []
        group = min(due, key=lambda group: group.items[0].arrived)
        self._replace(group, group.items[self._size :])
        return group.items[: self._size]

    def _replace(self, group: _Group[ItemT], rest: list[ItemT]) -> None:
        index = self._groups.index(group)
        self._groups[index : index + 1] = [_Group(rest)] if rest else []

    def _due_at(self, group: _Group[ItemT]) -> float:
        if len(group.items) >= self._size:
            return -math.inf
        return min(group.items[0].arrived + self._wait, group.latest, group.deadline - self._longest)


def same(one: Any, other: Any) -> bool:
    """Whether two arguments are equal in all that a tool can see of them: 1, 1.0 and True are three. False in doubt."""
    if type(one) is not type(other):
        return False
    try:
        if isinstance(one, dict):
            return len(one) == len(other) and all(key in other and same(one[key], other[key]) for key in one)
        if type(one) in (list, tuple):
            return len(one) == len(other) and all(map(same, one, other))
        # The text shows what `==` of floats, dates and decimals does not: -0.0, time zones, digits.
        return bool(one == other) and (type(one) in EXACT or repr(one) == repr(other))
    except Exception:  # noqa: BLE001 - of the author's types
        return False
