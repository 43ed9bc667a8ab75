"""What the history keeps of runs and plugins, as values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from orchestrator.registry.records import LifecycleEvent


class RunState(StrEnum):
    """How far a run has come."""

    IN_FLIGHT = "in-flight"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    """The orchestrator ended before the run did, and nobody knows what became of it."""


class RunRecord(msgspec.Struct, frozen=True):
    """One run: no payloads, only their sizes in bytes. `outcome` and `reason_code` are those of the run's result."""

    run_id: str
    plugin: str
    tool: str
    accepted_at: datetime
    generation: int = 0
    """Of the instance that executes it; 0 while it waits for one."""
    asynchronous: bool = False
    """Its caller did not wait (202) and will ask for the result by its id."""
    state: RunState = RunState.IN_FLIGHT
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: str | None = None
    reason_code: str | None = None
    execution_ms: float | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    id: int = 0
    """Its place in the history: the order in which runs came. 0 until it is read back."""


@dataclass(frozen=True, slots=True)
class Counters:
    """The totals of one plugin over all its instances; also what one run or event adds to them, see `plus`."""

    success: int = 0
    error: int = 0
    total_ms: float = 0.0
    last_ms: float | None = None
    last_used: datetime | None = None
    generation: int = 0
    """The highest that was seen."""

    def plus(self, later: "Counters") -> "Counters":
        """These counters and what came later; "last" is what came last, whatever the clock said."""
        return Counters(
            success=self.success + later.success,
            error=self.error + later.error,
            total_ms=self.total_ms + later.total_ms,
            last_ms=self.last_ms if later.last_ms is None else later.last_ms,
            last_used=later.last_used or self.last_used,
            generation=max(self.generation, later.generation),
        )


def share(run: RunRecord, *, success: bool | None) -> Counters:
    """What this run adds to its plugin's counters. `success` None: it counts neither way."""
    if success is None:
        return Counters(last_used=run.started_at, generation=run.generation)
    milliseconds = run.execution_ms or 0.0
    return Counters(int(success), int(not success), milliseconds, milliseconds, run.started_at, run.generation)


@dataclass(frozen=True, slots=True)
class Restored:
    """What the time before this start left behind."""

    counters: Mapping[str, Counters] = field(default_factory=lambda: MappingProxyType({}))
    last_event_id: int = 0
    interrupted: int = 0
    """Synchronous runs that were in flight; they are recorded as interrupted now."""
    asynchronous: tuple[RunRecord, ...] = ()
    """Asynchronous runs that were in flight, and still are as far as the history goes: find them again and finish
    them, or call them interrupted.
    """
    last_events: Mapping[str, LifecycleEvent] = field(default_factory=lambda: MappingProxyType({}))
    """By plugin the last event that is kept: how far its newest instance had come."""
    complete: bool = True
    """False: the history could not be opened, and all of this is empty; `HistoryStore.problem` says why."""


NOTHING_RESTORED: Final = Restored()
