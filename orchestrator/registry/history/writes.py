"""What can be written into the history, as values. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

import msgspec

from orchestrator.registry.history.records import Counters, DeliveryState, NewDelivery, RunRecord, RunState
from orchestrator.registry.records import LifecycleEvent

_SMALL_WRITE_BYTES: Final = 500  # of memory, without a post-mortem


class EventWrite(msgspec.Struct, frozen=True, array_like=True, tag="event"):
    """A lifecycle event."""

    event: LifecycleEvent


class RunWrite(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """A run as it stands now; replaces its earlier writes. `success` counts it, once, at its end."""

    run: RunRecord
    success: bool | None = None
    # Overrides the record's own: copying a record costs more than writing it.
    state: RunState | None = None


class PostMortemWrite(msgspec.Struct, frozen=True, array_like=True, tag="post-mortem"):
    """The post-mortem of an ended instance, as JSON text; stored with the event of its end."""

    plugin: str
    generation: int
    text: str


class DeliveryWrite(msgspec.Struct, frozen=True, array_like=True, tag="delivery"):
    """What an attempt has made of a delivery."""

    delivery_id: str
    state: DeliveryState
    attempts: int
    attempted_at: datetime
    status: int | None = None
    error: str | None = None


class RepeatWrite(msgspec.Struct, frozen=True, array_like=True, tag="repeat"):
    """The message of a delivery once more, as a new one behind all others of its webhook and plugin."""

    delivery_id: str
    new_id: str


class FlushBarrier(msgspec.Struct, frozen=True):
    """Writes nothing: its acknowledgement says that all writes before it are in the database."""


# The journal holds these as JSON arrays: a field may be added at the end, with a default, and none be removed.
JournalWrite = EventWrite | RunWrite | PostMortemWrite | DeliveryWrite | RepeatWrite
Write = JournalWrite | FlushBarrier


class Outbox(Protocol):
    """What is to be delivered of the writes; stored with them, in one transaction. Used by the writer's thread."""

    def deliveries(self, write: Write) -> Sequence[NewDelivery]:
        """Those of this write; pure."""

    def stored(self) -> None:
        """Some are in the database now. Must not raise, or take long."""


def memory_bytes(write: Write) -> int:
    """A rough estimate."""
    return _SMALL_WRITE_BYTES + (len(write.text) if isinstance(write, PostMortemWrite) else 0)


def run_delta(run: RunRecord, *, success: bool | None) -> Counters:
    """What this run adds to its plugin's counters. `success` None counts neither way."""
    if success is None:
        return Counters(last_used=run.started_at, generation=run.generation)
    milliseconds = run.execution_ms or 0.0
    return Counters(int(success), int(not success), milliseconds, milliseconds, run.started_at, run.generation)


def counters_delta(write: Write) -> tuple[str, Counters] | None:
    """The plugin whose counters this write changes, and by how much."""
    if isinstance(write, RunWrite):
        return write.run.plugin, run_delta(write.run, success=write.success)
    if isinstance(write, EventWrite):
        return write.event.plugin, Counters(generation=write.event.generation)
    return None


def latest_runs(writes: Iterable[Write]) -> dict[str, RunWrite]:
    """The last write of each run by its id, in the order in which the runs came."""
    return {write.run.run_id: write for write in writes if isinstance(write, RunWrite)}


def counted_writes(writes: Iterable[Write], latest: Mapping[str, RunWrite]) -> Iterator[Write]:
    """The writes that change the counters."""
    for write in writes:
        # A step of a run that is not its end adds nothing that the run's later write in the batch does not.
        if not isinstance(write, RunWrite) or write.success is not None or latest[write.run.run_id] is write:
            yield write
