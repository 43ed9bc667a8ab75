"""Pure: which runs start, wait, or are refused. The waiting itself is in `run_queues`."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

_ROUNDING: Final = 1e-6  # of a slot: parts of one add up to a little more than it


class Admission(Enum):
    """What a queue does with a run."""

    START = auto()
    WAIT = auto()
    REFUSE = auto()


@dataclass(slots=True)
class AdmissionQueue:
    """First come, first served: runs that take `slots` together at once, `capacity` more may wait."""

    slots: float
    capacity: int
    running: dict[str, float] = field(default_factory=dict)
    """Run → what it takes of a slot: a whole one, or less where a batch of several takes one."""
    waiting: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def admit(self, run_id: str, *, takes: float = 1.0, beyond_capacity: bool = False) -> Admission:
        if not self.waiting and self._has_room(takes):
            self.running[run_id] = takes
            return Admission.START
        if beyond_capacity or len(self.waiting) < self.capacity:
            self.waiting[run_id] = takes
            return Admission.WAIT
        return Admission.REFUSE

    def release(self, run_id: str) -> None:
        """Remove a run that ended or stopped waiting."""
        self.running.pop(run_id, None)
        self.waiting.pop(run_id, None)

    def start_next(self) -> list[str]:
        """The runs that start, from the front of the queue: they count as running now."""
        started = []
        while self.waiting and self._has_room(next(iter(self.waiting.values()))):
            next_run, takes = self.waiting.popitem(last=False)
            self.running[next_run] = takes
            started.append(next_run)
        return started

    def _has_room(self, takes: float) -> bool:
        return sum(self.running.values()) + takes <= self.slots + _ROUNDING

    def position(self, run_id: str) -> int | None:
        """1 for the next; None for a run that does not wait."""
        return next((position for position, waiting in enumerate(self.waiting, 1) if waiting == run_id), None)

    def resize(self, slots: float, capacity: int) -> None:
        """Set new limits for the runs to come; those that run or wait stay."""
        self.slots, self.capacity = slots, capacity


class IdempotencyKeys:
    """Run ids chosen by callers, while requests with them go on: each makes one run."""

    # The lookup of runs knows those that were accepted before a request came. One accepted after it may have ended long
    # before the request's body has come, and is known here alone.

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._used: set[str] = set()

    @contextmanager
    def request(self, run_id: str) -> Iterator[None]:
        """Enter it for as long as a request with this id goes on."""
        self._requests[run_id] += 1
        try:
            yield
        finally:
            self._requests[run_id] -= 1
            if not self._requests[run_id]:
                del self._requests[run_id]
                self._used.discard(run_id)

    def use(self, run_id: str) -> None:
        """Mark it as used by a run."""
        if run_id in self._requests:
            self._used.add(run_id)

    def used(self, run_id: str) -> bool:
        return run_id in self._used
