"""Who may run now, who waits, who is sent away. Pure: it says who goes next and waits for nobody."""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto


class Admission(Enum):
    """The answer to a run that asks to begin."""

    BEGIN = auto()
    WAIT = auto()
    REFUSE = auto()


@dataclass(slots=True)
class AdmissionQueue:
    """First come, first served: `concurrency` runs at once, `capacity` more may wait."""

    concurrency: int
    capacity: int
    running: set[str] = field(default_factory=set)
    waiting: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def ask(self, run_id: str) -> Admission:
        """May this run begin?"""
        if len(self.running) < self.concurrency and not self.waiting:
            self.running.add(run_id)
            return Admission.BEGIN
        if len(self.waiting) < self.capacity:
            self.waiting[run_id] = None
            return Admission.WAIT
        return Admission.REFUSE

    def leave(self, run_id: str) -> list[str]:
        """A run ended or gave up waiting. Returns the runs that begin instead, which count as running from here on."""
        self.running.discard(run_id)
        self.waiting.pop(run_id, None)
        begun = []
        while self.waiting and len(self.running) < self.concurrency:
            next_run, _ = self.waiting.popitem(last=False)
            self.running.add(next_run)
            begun.append(next_run)
        return begun

    def position(self, run_id: str) -> int | None:
        """1 for the next; None for a run that does not wait."""
        return next((place for place, waiting in enumerate(self.waiting, 1) if waiting == run_id), None)

    def resize(self, concurrency: int, capacity: int) -> None:
        """Take on new limits; who runs or waits stays."""
        self.concurrency, self.capacity = concurrency, capacity
