"""What was measured of whom, round by round, and what could not be measured and why."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.contestant import NotAvailableError

_REASON = 300


@dataclass
class Samples:
    """Columns are names of quantities, such as `p50`; their units are in `table.COLUMNS`."""

    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """Column → for each round, contestant → sample. A contestant that failed in a round is not in it."""
    say: Callable[[str], None] = lambda text: None
    """Given each error with its notes, such as the end of a server's log."""
    faults: dict[str, dict[str, str]] = field(default_factory=dict)
    """Contestant → column → the first reason why a sample is missing; the column "" stands for all."""

    def begin_round(self, columns: Sequence[str]) -> None:
        """The samples that follow belong together: whatever slowed the machine then, slowed all of them."""
        for column in columns:
            self.rounds.setdefault(column, []).append({})

    def add(self, contestant: str, column: str, value: float) -> None:
        self.rounds[column][-1][contestant] = value

    @contextmanager
    def noting(self, contestant: str, *columns: str) -> Iterator[None]:
        """Note an error in the block as the reason why these columns (if none is named: all) have no sample; go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the others can still be measured
            text = str(error) if isinstance(error, (NotAvailableError, RuntimeError)) else repr(error)
            text = " ".join(text.split())
            self.say("\n".join([f"{contestant}: {text}", *getattr(error, "__notes__", ())]))
            for column in columns or ("",):
                reason = text if len(text) <= _REASON else f"{text[:_REASON]}…"
                self.faults.setdefault(contestant, {}).setdefault(column, reason)

    def of(self, contestant: str, column: str) -> list[float]:
        """The samples of one contestant, in the order of the rounds."""
        return [taken[contestant] for taken in self.rounds.get(column, ()) if contestant in taken]

    def median(self, contestant: str, column: str) -> float | None:
        found = self.of(contestant, column)
        return statistics.median(found) if found else None

    def ratios(self, contestant: str, than: str, column: str) -> list[float]:
        """One over the other, in each round that has both."""
        return [
            taken[contestant] / taken[than]
            for taken in self.rounds.get(column, ())
            if contestant in taken and taken.get(than)
        ]

    def fault(self, contestant: str, column: str) -> str | None:
        """Why there is no sample, or fewer than there are rounds."""
        known = self.faults.get(contestant, {})
        return known.get("") or known.get(column)

    def document(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "faults": self.faults}
