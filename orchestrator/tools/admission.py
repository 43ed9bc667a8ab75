"""Pure: which runs start, wait, or are refused. The waiting itself is in `run_queues`."""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final

from orchestrator.access.principal import EQUAL_SHARE, Rate, Share
from orchestrator.tools.fair_queue import FairQueue

_ROUNDING: Final = 1e-6  # of a slot: parts of one add up to a little more than it


class Admission(Enum):
    """What a queue does with a run."""

    START = auto()
    WAIT = auto()
    REFUSE = auto()


class AdmissionQueue:
    """Runs that take `slots` together execute at once; of each caller `capacity` more may wait, and are taken by their
    callers' shares. One caller's runs start in their order. `executing`: see `FairQueue`.
    """

    def __init__(self, slots: float, capacity: int, executing: Counter[str] | None = None) -> None:
        self.slots = slots
        self.capacity = capacity
        self.running: dict[str, float] = {}
        """Run → what it takes of a slot: a whole one, or less where a batch of several takes one."""
        self._executing: Counter[str] = Counter() if executing is None else executing
        self.waiting = FairQueue(self._executing)
        self._callers: dict[str, tuple[str, Share]] = {}
        """Of the runs whose caller's share bounds how many execute."""

    def admit(
        self,
        run_id: str,
        *,
        takes: float = 1.0,
        beyond_capacity: bool = False,
        caller: str = "",
        share: Share = EQUAL_SHARE,
    ) -> Admission:
        waiting = self.waiting
        if share.concurrency is not None:
            self._callers[run_id] = caller, share
        if takes <= self._room() and not waiting.blocked(caller, share) and not waiting.someone_may_start():
            self._start(run_id, takes)
            return Admission.START
        if beyond_capacity or waiting.length(caller) < self.capacity:
            waiting.push(run_id, takes, caller, share)
            return Admission.WAIT
        self._callers.pop(run_id, None)
        return Admission.REFUSE

    def release(self, run_id: str) -> str | None:
        """Remove a run that ended or stopped waiting. Returns its caller where that may start one more anywhere now."""
        bounded = self._callers.pop(run_id, None)
        if self.running.pop(run_id, None) is None:
            self.waiting.remove(run_id)
            return None
        if bounded is None:
            return None
        self._executing[bounded[0]] -= 1
        if not self._executing[bounded[0]]:
            del self._executing[bounded[0]]
        return bounded[0]

    def start_next(self) -> list[str]:
        """The runs that start, from the front of the queue: they count as running now."""
        started = []
        while (first := self.waiting.take(self._room())) is not None:
            self._start(*first)
            started.append(first[0])
        return started

    def resize_run(self, run_id: str, takes: float) -> None:
        """Change what a run takes of a slot."""
        if run_id in self.running:
            self.running[run_id] = takes
        elif run_id in self.waiting:
            self.waiting.resize(run_id, takes)

    def _start(self, run_id: str, takes: float) -> None:
        self.running[run_id] = takes
        if run_id in self._callers:
            self._executing[self._callers[run_id][0]] += 1

    def _room(self) -> float:
        """What is left of the slots. No run takes as little as the rounding."""
        left = self.slots - sum(self.running.values())
        return left + _ROUNDING if left > _ROUNDING else 0.0

    def position(self, run_id: str) -> int | None:
        """1 for the next; None for a run that does not wait."""
        if run_id not in self.waiting:
            return None
        return next(position for position, waiting in enumerate(self.waiting, 1) if waiting == run_id)

    def resize(self, slots: float, capacity: int) -> None:
        """Set new limits for the runs to come; those that run or wait stay."""
        self.slots, self.capacity = slots, capacity


class RunRate:
    """When a caller made its last runs, for a bound on how many it makes in a time."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._times: deque[float] = deque(maxlen=rate.count)

    def wait(self, now: float) -> float:
        """Seconds until another run may be made; 0 where it may be now."""
        if len(self._times) < self.rate.count:
            return 0.0
        return max(0.0, self._times[0] + self.rate.seconds - now)

    def count(self, now: float) -> None:
        """Another one was made."""
        self._times.append(now)


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
