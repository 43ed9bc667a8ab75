"""What can be written into the history, as values. Pure."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from orchestrator.registry.history.records import Counters, RunRecord, RunState, share
from orchestrator.registry.records import LifecycleEvent

_ROW_WEIGHT = 500
"""Bytes that a small write takes in memory, roughly."""


class EventWrite(msgspec.Struct, frozen=True, array_like=True, tag="event"):
    """A lifecycle event."""

    event: LifecycleEvent


class RunWrite(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """A run as it stands now; takes the place of what was known of it. `success` counts it, once, at its end."""

    run: RunRecord
    success: bool | None = None
    state: RunState | None = None
    """Instead of the record's own: to copy a record costs more than to write it."""


class PostMortemWrite(msgspec.Struct, frozen=True, array_like=True, tag="post-mortem"):
    """What is kept of an instance that ended, as JSON text; it joins the event of its end."""

    plugin: str
    generation: int
    text: str


class Mark(msgspec.Struct, frozen=True):
    """Nothing to write: whoever waits for it learns that all before it is written."""


Write = EventWrite | RunWrite | PostMortemWrite | Mark
"""The journal holds them as JSON: a field may be added at the end, with a default, and none be taken away."""


def weight(write: Write) -> int:
    """Bytes that this write takes in memory, roughly."""
    return _ROW_WEIGHT + (len(write.text) if isinstance(write, PostMortemWrite) else 0)


def shares(write: Write) -> tuple[str, Counters] | None:
    """The plugin whose counters this write changes, and by what."""
    if isinstance(write, RunWrite):
        return write.run.plugin, share(write.run, success=write.success)
    if isinstance(write, EventWrite):
        return write.event.plugin, Counters(generation=write.event.generation)
    return None


def latest_runs(writes: Iterable[Write]) -> dict[str, RunWrite]:
    """Of each run by its id the last write, in the order in which they came."""
    return {write.run.run_id: write for write in writes if isinstance(write, RunWrite)}


def counting(writes: Iterable[Write], latest: Mapping[str, RunWrite]) -> Iterator[Write]:
    """Those that the counters need: a step of a run that is not its end says nothing that the later ones do not."""
    for write in writes:
        if not isinstance(write, RunWrite) or write.success is not None or latest[write.run.run_id] is write:
            yield write
