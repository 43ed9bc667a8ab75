"""What is to be written and is not yet, in order and bounded. Pure; the writer guards it."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.registry.history.receipts import Receipt
from orchestrator.registry.history.records import Counters
from orchestrator.registry.history.writes import Mark, Write, shares, weight


class Entry(NamedTuple):
    """A write and the receipt of whoever asked for it."""

    write: Write
    receipt: Receipt
    number: int = 0
    """Its place in the order of all writes, marks included."""
    journalled: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """What is written in one go."""

    entries: Sequence[Entry] = ()
    debts: Mapping[str, Counters] | None = None
    """What lost runs owe to the counters. They came before all the entries."""
    through: int = 0
    """The number of the last write in it."""


class Backlog:
    """A queue of at most `capacity` bytes. When it is full the oldest write is lost; but what it counts is not: it
    stays as a debt to the counters.
    """

    def __init__(self, capacity: int) -> None:
        self.lost = 0
        """Writes that will never be made."""
        self._capacity = capacity
        self._bytes = 0
        self._entries: deque[Entry] = deque()
        self._debts: dict[str, Counters] = {}
        self._owed_through = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def filling(self) -> bool:
        """Half full: what comes may have to make way before it is written."""
        return self._bytes > self._capacity // 2

    def put(self, entry: Entry) -> list[Entry]:
        """Queue it; returns those that had to make way."""
        self._entries.append(entry)
        self._bytes += weight(entry.write)
        dropped = []
        while self._bytes > self._capacity:
            dropped.append(self._drop())
        return dropped

    def take(self, at_most: int) -> Group:
        """The oldest writes and all debts. They are the caller's now, to be written or to be given back."""
        entries = [self._entries.popleft() for _ in range(min(at_most, len(self._entries)))]
        self._bytes -= sum(weight(entry.write) for entry in entries)
        debts, self._debts = self._debts, {}
        return Group(entries, debts, entries[-1].number if entries else self._owed_through)

    def give_back(self, group: Group) -> None:
        """They could not be written: they are the first again, as far as there is room. There is none where later
        ones had to make way meanwhile; and debts stay older than all that waits.
        """
        newer, self._debts = self._debts, dict(group.debts or {})
        self._entries.extendleft(reversed(group.entries))
        self._bytes += sum(weight(entry.write) for entry in group.entries)
        if newer:
            for _ in group.entries:
                self._drop()
        for plugin, debt in newer.items():
            self._owe(plugin, debt)
        while self._bytes > self._capacity:
            self._drop()

    def _drop(self) -> Entry:
        entry = self._entries.popleft()
        self._bytes -= weight(entry.write)
        self._owed_through = max(self._owed_through, entry.number)
        self.lost += not isinstance(entry.write, Mark)
        if (part := shares(entry.write)) is not None:
            self._owe(*part)
        return entry

    def _owe(self, plugin: str, debt: Counters) -> None:
        self._debts[plugin] = self._debts.get(plugin, Counters()).plus(debt)
