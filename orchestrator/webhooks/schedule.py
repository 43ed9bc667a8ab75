"""When which delivery is attempted, and what its answer means. Pure."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from math import inf

from orchestrator.registry.history.records import DeliveryRecord


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds.

    The pause after a failed attempt doubles from `first_pause` to `longest_pause`, with a quarter of it at random. A
    delivery is given up at the first failure `give_up_after` its message came: after an outage all that waited so long
    end together, and none has to wait for the patience with another. `concurrency`: attempts at once for one webhook.
    """

    time_limit: float = 15.0
    first_pause: float = 1.0
    longest_pause: float = 300.0
    longest_retry_after: float = 3600.0
    give_up_after: float = 3 * 86_400.0
    concurrency: int = 32


class AttemptVerdict(Enum):
    """What an attempt means for its delivery."""

    DELIVERED = "delivered"
    RETRY = "retry"
    GIVE_UP = "give up"
    GONE = "gone"
    """The receiver is not there any more (410): its webhook rests."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt: an HTTP status, or else `error` says why there is none. `retry_after` in seconds."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None

    @property
    def problem(self) -> str | None:
        """Why it failed, as a sentence; None for a success."""
        if self.status is None:
            return self.error or "It was not answered."
        if 200 <= self.status < 300:
            return None
        more = "; redirects are not followed, so give the address that it leads to" if 300 <= self.status < 400 else ""
        return f"It was answered with status {self.status}{more}."


def judge(answer: Answer, age: float, policy: Policy) -> AttemptVerdict:
    """`age`: seconds since the message came."""
    if answer.problem is None:
        return AttemptVerdict.DELIVERED
    if answer.status == 410:
        return AttemptVerdict.GONE
    return AttemptVerdict.GIVE_UP if age >= policy.give_up_after else AttemptVerdict.RETRY


def pause(failures: int, chance: float, retry_after: float | None, policy: Policy) -> float:
    """Seconds until the next attempt after so many failures in a row, at least 1. `chance`: at random from 0 to 1."""
    doubled: float = min(policy.longest_pause, policy.first_pause * 2.0 ** min(failures - 1, 60))
    # Lest all that failed together come back together.
    backoff = doubled * (0.75 + chance / 4)
    return max(backoff, min(retry_after or 0.0, policy.longest_retry_after))


def retry_after_of(text: str | None, now: datetime) -> float | None:
    """Seconds, of the header's two forms; None where it has neither."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


@dataclass(slots=True)
class Lane:
    """The deliveries of one plugin to one webhook: one at a time, in their order."""

    webhook: str
    plugin: str
    after: int = 0
    """The id of the last delivery that has ended, or has been found not to be there."""
    newest: int = 0
    """The highest id that is known to be pending."""
    due: float = 0.0
    """When the next attempt may be made; the event loop's clock."""
    failures: int = 0
    """In a row."""
    in_flight: bool = False
    retrying: bool = False
    """Whether the attempt that is under way began after a failure."""
    page: list[DeliveryRecord] = field(default_factory=list)
    """Those that are to be delivered next, read ahead."""

    @property
    def has_work(self) -> bool:
        return self.newest > self.after


@dataclass(slots=True)
class _Waiting:
    """The lanes of one webhook. `fresh` and `retrying`: heaps of those that wait, by when they are due."""

    fresh: list[tuple[float, int, Lane]] = field(default_factory=list)
    retrying: list[tuple[float, int, Lane]] = field(default_factory=list)
    attempts: int = 0
    """Under way."""
    retries: int = 0
    """Of those."""


class Lanes:
    """All lanes, and which of them begin an attempt. A webhook's retries take at most half of its attempts at once, so
    that a lane in trouble holds up no other.

    Nothing here looks at every lane: in an outage all of them wait, and each attempt's end asks for the next.
    """

    def __init__(self, concurrency: int) -> None:
        """`concurrency`: attempts at once for one webhook."""
        self._concurrency = concurrency
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._webhooks: dict[str, _Waiting] = {}
        self._serial = count()

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def found(self, webhook: str, plugin: str, newest: int) -> None:
        """There are deliveries up to this id."""
        lane = self._lanes.get((webhook, plugin))
        if lane is None:
            self.add(Lane(webhook, plugin, newest=newest))
        elif newest > lane.newest:
            waits = lane.has_work or lane.in_flight
            lane.newest = newest
            if not waits:
                self._push(lane)

    def add(self, lane: Lane) -> None:
        """Take in one that has work."""
        self._lanes[lane.webhook, lane.plugin] = lane
        self._push(lane)

    def start(self, paused: Container[str], now: float) -> list[Lane]:
        """The lanes that begin an attempt now, of each webhook those that wait longest first. Hand each to `ended`."""
        return [
            lane
            for webhook, waiting in self._webhooks.items()
            if webhook not in paused
            for lane in self._start(waiting, now)
        ]

    def ended(self, lane: Lane) -> None:
        """The lane's attempt has ended, and what came of it is noted in it."""
        waiting = self._webhooks[lane.webhook]
        waiting.attempts -= 1
        waiting.retries -= lane.retrying
        lane.in_flight = False
        if lane.has_work:
            self._push(lane)

    def next_due(self, paused: Container[str], now: float) -> float:
        """Seconds until a lane may begin an attempt that may not now; infinite where only an event changes that."""
        # A heap whose first lane is due already waits for the end of an attempt.
        firsts = [
            heap[0][0] - now
            for webhook, waiting in self._webhooks.items()
            if webhook not in paused
            for heap in (waiting.fresh, waiting.retrying)
            if heap and heap[0][0] > now
        ]
        return min(firsts, default=inf)

    def _push(self, lane: Lane) -> None:
        waiting = self._webhooks.setdefault(lane.webhook, _Waiting())
        heap = waiting.retrying if lane.failures else waiting.fresh
        heappush(heap, (lane.due, next(self._serial), lane))

    def _start(self, waiting: _Waiting, now: float) -> Iterator[Lane]:
        while waiting.attempts < self._concurrency:
            may_retry = waiting.retries < max(1, self._concurrency // 2)
            heaps = [heap for heap in (waiting.fresh, waiting.retrying if may_retry else []) if heap]
            heap = min(heaps, key=lambda heap: heap[0], default=None)
            if heap is None or heap[0][0] > now:
                return
            lane = heappop(heap)[2]
            waiting.attempts += 1
            lane.in_flight, lane.retrying = True, lane.failures > 0
            waiting.retries += lane.retrying
            yield lane
