"""The history's public values: runs, counters, and what a start restores. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec


class RunState(StrEnum):
    """Of a run in the history."""

    IN_FLIGHT = "in-flight"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    """The orchestrator ended before the run did, and its outcome is unknown."""


class RunRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run: no payloads, only their sizes in bytes. `outcome` and `reason_code` are those of the run's result."""

    run_id: str
    plugin: str
    tool: str
    accepted_at: datetime
    generation: int = 0
    """Of the instance that executes it; 0 while it is queued."""
    asynchronous: bool = False
    """Its caller did not wait (202) and will fetch the result by its id."""
    state: RunState = RunState.IN_FLIGHT
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: str | None = None
    reason_code: str | None = None
    execution_ms: float | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    caller: str | None = None
    """The name of the key that it was called with; None where no key is needed."""
    retried_from: int | None = None
    """The generation of the instance that ended under it; then it was made again, in `generation`."""
    id: int = 0
    """Its row id: the order in which runs came. 0 until it is read back."""


class DeliveryState(StrEnum):
    """Of a delivery of a webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """It was given up."""


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A message for one webhook. Those of one webhook and plugin are delivered in the order of their writes."""

    webhook: str
    plugin: str
    type: str
    """Such as `run.finished`."""
    body: str
    """The JSON text that is sent."""


class DeliveryRecord(msgspec.Struct, frozen=True):
    """A message for one webhook, and what has become of it."""

    id: int
    """Grows by the order in which they came."""
    delivery_id: str
    message_id: str
    """The same for every webhook that gets the message, and for every attempt."""
    webhook: str
    plugin: str
    type: str
    body: str
    created_at: datetime
    state: DeliveryState
    attempts: int = 0
    attempted_at: datetime | None = None
    """When the last attempt began."""
    status: int | None = None
    """The HTTP status that the last attempt was answered with."""
    error: str | None = None
    """Why the last attempt failed, as a sentence."""


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """The deliveries on file of one webhook."""

    pending: int = 0
    delivered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """The totals of one plugin over all its instances; also the delta that one run or event adds to them."""

    success: int = 0
    error: int = 0
    total_ms: float = 0.0
    last_ms: float | None = None
    last_used: datetime | None = None
    generation: int = 0
    """The highest seen."""

    def plus(self, later: "Counters") -> "Counters":
        # "last" is by the order of the writes, not by their times: the wall clock may jump.
        return Counters(
            success=self.success + later.success,
            error=self.error + later.error,
            total_ms=self.total_ms + later.total_ms,
            last_ms=self.last_ms if later.last_ms is None else later.last_ms,
            last_used=later.last_used or self.last_used,
            generation=max(self.generation, later.generation),
        )


@dataclass(frozen=True, slots=True)
class Restored:
    """What earlier processes of the orchestrator left in the history."""

    counters: Mapping[str, Counters] = field(default_factory=lambda: MappingProxyType({}))
    last_event_id: int = 0
    interrupted: int = 0
    """Synchronous runs that were in flight; they are recorded as interrupted now."""
    asynchronous: tuple[RunRecord, ...] = ()
    """Asynchronous runs still recorded as in flight: each is to be found again, or recorded as interrupted."""
    ended: frozenset[tuple[str, int]] = frozenset()
    """Plugin and generation of the instances that had ended, by the retained events."""
    complete: bool = True
    """False: the history could not be opened; `HistoryStore.problem` says why."""


NOTHING_RESTORED: Final = Restored()
