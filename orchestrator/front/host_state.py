"""What a front holds of a host's state: JOINING → ONLINE ⇄ STALE → FORGOTTEN, and DRAINING beside ONLINE. Pure.

A silent host is STALE, never FAILED: nobody knows what goes on there, and it may be well. Times are seconds of the
monotonic clock.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

STALE_SECONDS: Final = 3.0
"""Of silence, after which what is known of a host counts as old."""


class HostState(StrEnum):
    """JOINING: its plugins are not known yet. DRAINING: it answers, and is to be given nothing new."""

    JOINING = "JOINING"
    ONLINE = "ONLINE"
    STALE = "STALE"
    DRAINING = "DRAINING"
    FORGOTTEN = "FORGOTTEN"


@dataclass(frozen=True, slots=True)
class HostStatus:
    """`since`: when it entered its state; `heard`: when it answered last, None before the first answer.

    `problem`: why it does not answer, as a sentence to act on; None while it answers.
    """

    state: HostState
    since: float
    heard: float | None = None
    draining: bool = False
    problem: str | None = None

    @property
    def answers(self) -> bool:
        """Whether what is known of it is true now, as far as a front can tell."""
        return self.state in (HostState.ONLINE, HostState.DRAINING)

    @property
    def takes_new(self) -> bool:
        """Whether plugins may be started there."""
        return self.state is HostState.ONLINE

    @property
    def ended(self) -> bool:
        return self.state is HostState.FORGOTTEN


def joining(now: float) -> HostStatus:
    return HostStatus(HostState.JOINING, now)


def heard(status: HostStatus, now: float) -> HostStatus:
    """It has answered, and what it said of its plugins is known."""
    if status.ended:
        return status
    answered = replace(status, heard=now, problem=None)
    return _entered(answered, HostState.DRAINING if status.draining else HostState.ONLINE, now)


def ticked(status: HostStatus, now: float) -> HostStatus:
    """Time has passed. A host that has never answered stays JOINING."""
    if status.answers and status.heard is not None and now - status.heard >= STALE_SECONDS:
        return _entered(status, HostState.STALE, now)
    return status


def excused(status: HostStatus, seconds: float, now: float) -> HostStatus:
    """So much of the time until now is no silence of the host's: the front itself was not able to hear."""
    # Not beyond now: a host that was heard within that time would be silent for longer before it is STALE.
    return status if status.heard is None else replace(status, heard=min(now, status.heard + seconds))


def proves_life(status: int) -> bool:
    """Whether an answer with this HTTP status is the host's own: others may be of a proxy before one that is silent."""
    return status not in (502, 503, 504)


def troubled(status: HostStatus, problem: str) -> HostStatus:
    """A request to it has failed, which is no change of state by itself: it may have been a short cut."""
    return status if status.ended or problem == status.problem else replace(status, problem=problem)


def drained(status: HostStatus, now: float) -> HostStatus:
    """An operator wants it to be given nothing new."""
    if status.ended or status.draining:
        return status
    marked = replace(status, draining=True)
    return _entered(marked, HostState.DRAINING, now) if status.answers else marked


def resumed(status: HostStatus, now: float) -> HostStatus:
    """It may be given new things again."""
    if status.ended or not status.draining:
        return status
    marked = replace(status, draining=False)
    return _entered(marked, HostState.ONLINE, now) if status.answers else marked


def forgotten(status: HostStatus, now: float) -> HostStatus:
    """It is no longer one of the front's hosts, which is final."""
    return _entered(status, HostState.FORGOTTEN, now)


def _entered(status: HostStatus, state: HostState, now: float) -> HostStatus:
    return status if status.state is state else replace(status, state=state, since=now)
