"""When which delivery is attempted, and what its answer means. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
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
    page: list[DeliveryRecord] = field(default_factory=list)
    """Those that are to be delivered next, read ahead."""

    @property
    def has_work(self) -> bool:
        return self.newest > self.after


def startable(lanes: Iterable[Lane], paused: Mapping[str, str], now: float, concurrency: int) -> list[Lane]:
    """The lanes that begin an attempt now, those that wait longest first. A webhook's retries take at most half of its
    attempts at once, so that a lane in trouble holds up no other.
    """
    every = list(lanes)
    busy: dict[str, int] = {}
    retrying: dict[str, int] = {}
    for lane in every:
        if lane.in_flight:
            busy[lane.webhook] = busy.get(lane.webhook, 0) + 1
            retrying[lane.webhook] = retrying.get(lane.webhook, 0) + (lane.failures > 0)
    waiting = [lane for lane in every if lane.has_work and not lane.in_flight and lane.due <= now]
    chosen = []
    for lane in sorted(waiting, key=lambda lane: lane.due):
        retries = retrying.get(lane.webhook, 0)
        if lane.webhook in paused or busy.get(lane.webhook, 0) >= concurrency:
            continue
        if lane.failures and retries >= max(1, concurrency // 2):
            continue
        busy[lane.webhook] = busy.get(lane.webhook, 0) + 1
        retrying[lane.webhook] = retries + (lane.failures > 0)
        chosen.append(lane)
    return chosen


def next_due(lanes: Iterable[Lane], paused: Mapping[str, str], now: float) -> float:
    """Seconds until a lane may begin an attempt that may not now; infinite where only an event changes that."""
    times = [
        lane.due - now
        for lane in lanes
        if lane.has_work and not lane.in_flight and lane.webhook not in paused and lane.due > now
    ]
    return min(times, default=inf)
