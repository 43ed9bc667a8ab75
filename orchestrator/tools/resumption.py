"""What an orchestrator before this one left running, held against what the history knows of it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from orchestrator.registry.history import RunRecord
from orchestrator.supervisor.adoption import Adopted
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor
from orchestrator.tools.live_run import LiveRun
from orchestrator.tools.run_observer import RunWatch

Found = tuple[PluginSupervisor, Adopted]


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A run in an adopted container that executes for `seconds`, or has ended with its answer kept."""

    supervisor: PluginSupervisor
    instance: Instance
    run_id: str
    tool: str
    seconds: float
    record: RunRecord | None
    """None: its caller waited for it, and is gone with the orchestrator."""

    def live(self) -> LiveRun:
        """The run as it goes on."""
        now = datetime.now(UTC)
        record = self.record or RunRecord(self.run_id, self.supervisor.name, self.tool, now)
        started = record.started_at or now - timedelta(seconds=self.seconds)
        return LiveRun(
            replace(record, generation=self.instance.generation, started_at=started),
            RunWatch(),
            instance=self.instance,
            request_bytes=record.request_bytes,
        )


@dataclass(frozen=True, slots=True)
class Stock:
    """`lost`: nobody will ever know what became of them."""

    found: tuple[LeftBehind, ...]
    lost: tuple[RunRecord, ...]


def take_stock(asynchronous: Iterable[RunRecord], adopted: Iterable[Found]) -> Stock:
    """`asynchronous`: runs in flight, as far as the history goes. One may have been begun by a container without the
    history having heard of it: then its generation is 0 there.
    """
    awaited = {record.run_id: record for record in asynchronous}
    found: dict[str, LeftBehind] = {}
    for supervisor, taken in adopted:
        instance = taken.instance
        for run in taken.status.runs:
            record = awaited.get(run.run_id)
            found[run.run_id] = LeftBehind(supervisor, instance, run.run_id, run.tool, run.seconds, record)
        for record in awaited.values():
            ours = record.plugin == supervisor.name and record.generation in (0, instance.generation)
            if ours and record.run_id not in found:
                found[record.run_id] = LeftBehind(supervisor, instance, record.run_id, record.tool, 0.0, record)
    lost = tuple(record for record in awaited.values() if record.run_id not in found)
    return Stock(tuple(found.values()), lost)
