"""What can be written into the history, as values. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.registry.history.records import Counters, RunRecord, share
from orchestrator.registry.records import LifecycleEvent

_ROW_WEIGHT = 500
"""Bytes that a small write takes in memory, roughly."""


@dataclass(frozen=True, slots=True)
class EventWrite:
    """A lifecycle event."""

    event: LifecycleEvent


@dataclass(frozen=True, slots=True)
class RunWrite:
    """A run as it stands now; takes the place of what was known of it. `success` counts it, once, at its end."""

    run: RunRecord
    success: bool | None = None


@dataclass(frozen=True, slots=True)
class PostMortemWrite:
    """What is kept of an instance that ended, as JSON text; it joins the event of its end."""

    plugin: str
    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Nothing to write: whoever waits for it learns that all before it is written."""


Write = EventWrite | RunWrite | PostMortemWrite | Mark


def weight(write: Write) -> int:
    """Bytes that this write takes in memory, roughly."""
    return _ROW_WEIGHT + (len(write.text) if isinstance(write, PostMortemWrite) else 0)


def shares(write: Write) -> tuple[str, Counters] | None:
    """The plugin whose counters this write changes, and by what."""
    match write:
        case RunWrite(run, success):
            return run.plugin, share(run, success=success)
        case EventWrite(event):
            return event.plugin, Counters(generation=event.generation)
        case _:
            return None


def latest_runs(writes: Iterable[Write]) -> list[RunRecord]:
    """The runs among `writes`, each as it stands after all of them, in the order in which they came."""
    runs: dict[str, RunRecord] = {}
    for write in writes:
        if isinstance(write, RunWrite):
            runs[write.run.run_id] = write.run
    return list(runs.values())
