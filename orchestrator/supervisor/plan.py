"""Plan: which instances of one plugin begin, are drained and end next. Pure; `PluginSupervisor` carries it out.

No instance begins without a command: commands raise `Wanted.owed`, and an instance that ends lowers nothing and raises
nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import inf

import msgspec

from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import Role


class Phase(Enum):
    """Where an instance is on its way."""

    STARTING = auto()
    READY = auto()
    ENDED = auto()
    """Its container, and the GPUs that it has, may still be there."""
    REMOVED = auto()
    """Or left behind: nothing of it is waited for."""


class Member(msgspec.Struct, frozen=True):
    """One instance of the set."""

    # A msgspec struct, since each run makes one of every instance that may take it.

    generation: int
    phase: Phase
    role: Role = "serving"
    in_flight: int = 0
    drain_until: float = inf
    """For a draining one, by the clock of `plan`."""
    last_runs: int | None = None
    """For a draining one that makes room for another plugin: runs that it takes before it ends. It is not returned."""
    used_at: float | None = None
    """When its last run ended, by the clock of `plan`."""
    release: str = ""
    """The id of what it was made from; empty while that is not known."""
    proof: str | None = None
    """What a candidate was proven by; None while it is not."""
    reason_code: ReasonCode | None = None
    reason: str | None = None
    """Why it ended."""
    concurrency: int = 1
    """Runs that it executes at once."""

    @property
    def alive(self) -> bool:
        return self.phase in (Phase.STARTING, Phase.READY)

    @property
    def serves(self) -> bool:
        """It takes new runs now, or will when it is ready."""
        return self.alive and self.role == "serving"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What commands ask for. `drain`: seconds that the runs of an instance have which is not wanted any more."""

    replicas: int = 1
    owed: int = 0
    """Instances that commands begin and that have not begun."""
    drain: float = 60.0


@dataclass(frozen=True, slots=True)
class Begin:
    """A new instance."""


@dataclass(frozen=True, slots=True)
class Return:
    """A draining one gets new runs again, in place of a new one."""

    generation: int


@dataclass(frozen=True, slots=True)
class Drain:
    """It gets no new runs; those under way have until then."""

    generation: int
    until: float


@dataclass(frozen=True, slots=True)
class End:
    """A drained one."""

    generation: int


@dataclass(frozen=True, slots=True)
class Forget:
    """It belongs to the set no longer."""

    generation: int


Action = Begin | Return | Drain | End | Forget


def plan(wanted: Wanted, members: Sequence[Member], now: float) -> tuple[Action, ...]:
    """What to do next; nothing where only time or an instance can change something. Call it again after each action's
    effect: `now` is any clock that does not jump, seconds.
    """
    serving = [member for member in members if member.serves]
    missing = wanted.replicas - len(serving)
    if returning := _returning(wanted, members, missing):
        return tuple(Return(member.generation) for member in returning)
    return (
        *(Drain(member.generation, now + wanted.drain) for member in _surplus(serving, -missing)),
        *(End(member.generation) for member in members if _drained(member, now)),
        *(Forget(member.generation) for member in members if _forgettable(member, missing)),
        *(Begin() for _ in range(_beginnings(wanted, members, missing))),
    )


def next_deadline(members: Iterable[Member]) -> float | None:
    """When `plan` is to be called again although nothing has happened."""
    return min((m.drain_until for m in members if m.alive and m.drain_until < inf), default=None)


def least_loaded(members: Iterable[Member], let_in: int = 1) -> int | None:
    """The generation of the instance that takes the next run; None while all have as many as they may, `let_in` for
    each that they execute at once. Of those with equally many it is the one that was used last, so that the others are
    idle and can be parked.
    """
    found, least = None, (inf, inf, inf)
    for m in members:
        takes = m.phase is Phase.READY and (m.role == "serving" or m.last_runs)
        if takes and m.in_flight < m.concurrency * let_in:
            load = (m.in_flight, -(m.used_at or 0.0), m.generation)
            if load < least:
                found, least = m.generation, load
    return found


def _surplus(serving: Sequence[Member], count: int) -> Sequence[Member]:
    # Those go first that nobody misses: one that is not ready, then the least busy, then the newest.
    leaving = sorted(serving, key=lambda m: (m.phase is Phase.READY, m.in_flight, -m.generation))
    return leaving[: max(0, count)]


def _returning(wanted: Wanted, members: Sequence[Member], missing: int) -> Sequence[Member]:
    # A new one would need the GPUs that it has.
    draining = [member for member in members if member.alive and member.role == "draining" and member.last_runs is None]
    return draining[: max(0, min(wanted.owed, missing))]


def _drained(member: Member, now: float) -> bool:
    unused = member.in_flight == 0 and not member.last_runs
    return member.alive and member.role == "draining" and (unused or now >= member.drain_until)


def _forgettable(member: Member, missing: int) -> bool:
    # One that failed says why the set is degraded, as long as it is.
    return member.phase is Phase.REMOVED and (member.role != "serving" or missing <= 0)


def _beginnings(wanted: Wanted, members: Sequence[Member], missing: int) -> int:
    # A new one would find the GPUs of those that end still leased.
    if any(member.phase is Phase.ENDED for member in members):
        return 0
    return max(0, min(wanted.owed, missing))
