"""FairQueue: runs that wait for one plugin, a lane for each caller, taken by their callers' weights. Pure.

Weighted fair queueing, with the virtual time of WF2Q+ (Bennett and Zhang, 1997): a run's tag is its lane's last one, or
the time at which the lane was not empty any more if that is later, plus what the run takes divided by the lane's
weight. The lowest tag is next, and the time goes on by what was taken divided by the weights of all that wait. One that
waits keeps its tag meanwhile, so none starves; one that had nothing to run has saved nothing up.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from math import inf

from orchestrator.access.principal import EQUAL_SHARE, Share


@dataclass(slots=True, eq=False)
class _Lane:
    caller: str
    weight: float
    concurrency: int | None
    tag: float
    """Of the run that started last; where it was empty meanwhile, the virtual time at which it was not any more."""
    head: float = 0.0
    """The tag of its first run."""
    served: int = 0
    """When it started a run last, as a count of all starts."""
    runs: dict[str, float] = field(default_factory=dict)
    """Run → what it takes of a slot, in their order."""

    def aim(self) -> None:
        """Set `head`, after a change of what it follows from."""
        for takes in self.runs.values():
            self.head = self.tag + takes / self.weight
            return

    def order(self) -> Iterator[tuple[float, int, str]]:
        """Tag, last start and id of its runs."""
        tag = self.tag
        for run_id, takes in self.runs.items():
            tag += takes / self.weight
            yield tag, self.served, run_id


class FairQueue:
    """`executing`: how many runs of each caller execute, of those whose share bounds that. It is shared by all queues,
    and changed by whoever starts and ends runs.
    """

    def __init__(self, executing: Counter[str] | None = None) -> None:
        self._executing: Counter[str] = Counter() if executing is None else executing
        self._lanes: dict[str, _Lane] = {}
        self._lane_of: dict[str, _Lane] = {}
        self._time = 0.0
        self._starts = 0

    def __len__(self) -> int:
        return len(self._lane_of)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._lane_of

    def __iter__(self) -> Iterator[str]:
        """The runs, in the order in which they would start if nobody came."""
        return (run_id for _, _, run_id in merge(*(lane.order() for lane in self._lanes.values())))

    def length(self, caller: str) -> int:
        """How many runs of this caller wait."""
        lane = self._lanes.get(caller)
        return 0 if lane is None else len(lane.runs)

    def next_of(self, caller: str) -> str | None:
        """The run of this caller that is next."""
        lane = self._lanes.get(caller)
        return next(iter(lane.runs), None) if lane is not None else None

    def push(self, run_id: str, takes: float, caller: str = "", share: Share = EQUAL_SHARE) -> None:
        lane = self._lanes.get(caller)
        if lane is None:
            lane = self._lanes[caller] = _Lane(caller, share.total_weight, share.concurrency, self._time)
        empty = not lane.runs
        if empty:
            lane.tag = max(lane.tag, self._time)
        lane.runs[run_id] = takes
        self._lane_of[run_id] = lane
        weight = share.total_weight
        if empty or weight != lane.weight or share.concurrency != lane.concurrency:  # its key may have been changed
            lane.weight, lane.concurrency = weight, share.concurrency
            lane.aim()

    def remove(self, run_id: str) -> None:
        """Remove a run that waits no longer."""
        lane = self._lane_of.pop(run_id, None)
        if lane is not None:
            del lane.runs[run_id]
            lane.aim()
            if not lane.runs:
                self._forget_idle()

    def resize(self, run_id: str, takes: float) -> None:
        """Change what a run that waits takes."""
        lane = self._lane_of[run_id]
        lane.runs[run_id] = takes
        lane.aim()

    def someone_may_start(self) -> bool:
        """Whether a run waits for something else than other runs of its caller to end."""
        return bool(self._lane_of) and any(lane.runs and not self._at_bound(lane) for lane in self._lanes.values())

    def take(self, room: float) -> tuple[str, float] | None:
        """Take the run that is next, with what it takes; None where that is more than `room`: nobody overtakes it."""
        if room <= 0 or not self._lane_of:
            return None
        first: _Lane | None = None
        weights, earliest = 0.0, inf
        held: list[_Lane] = []
        for lane in self._lanes.values():
            if not lane.runs:
                continue
            if lane.concurrency is not None and self._at_bound(lane):
                held.append(lane)
                continue
            weights += lane.weight
            earliest = min(earliest, lane.tag)
            # Of two that are level, the one that has waited longer since its last start.
            if first is None or lane.head < first.head or (lane.head == first.head and lane.served < first.served):
                first = lane
        if first is None:
            return None
        run_id, takes = next(iter(first.runs.items()))
        if takes > room:
            return None
        self._starts += 1
        first.tag, first.served = first.head, self._starts
        self._time = max(self._time + takes / weights, earliest)
        for lane in held:  # it waits for its own runs to end, not for others: it is owed nothing
            lane.tag = max(lane.tag, self._time)
            lane.aim()
        del first.runs[run_id], self._lane_of[run_id]
        first.aim()
        if not first.runs:
            self._forget_idle()
        return run_id, takes

    def blocked(self, caller: str, share: Share) -> bool:
        """Whether as many of the caller's runs execute as may."""
        return share.concurrency is not None and self._executing[caller] >= share.concurrency

    def _at_bound(self, lane: _Lane) -> bool:
        return lane.concurrency is not None and self._executing[lane.caller] >= lane.concurrency

    def _forget_idle(self) -> None:
        if not self._lane_of:  # where nobody waits, nobody has had more than its part
            self._lanes.clear()
            return
        # A lane that is not ahead of the time is as good as a new one.
        for name in [name for name, lane in self._lanes.items() if not lane.runs and lane.tag <= self._time]:
            del self._lanes[name]
