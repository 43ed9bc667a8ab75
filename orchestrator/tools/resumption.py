"""Pure: runs that an earlier orchestrator left in containers, matched with their records in the history."""

from collections import defaultdict
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

AdoptedInstance = tuple[PluginSupervisor, Adopted]


@dataclass(frozen=True, slots=True)
class OrphanedRun:
    """A run in an adopted container that has been executing for `seconds`, or has ended with its answer retained."""

    supervisor: PluginSupervisor
    instance: Instance
    run_id: str
    tool: str
    seconds: float
    record: RunRecord | None
    """None for a synchronous run: its caller was disconnected with the earlier orchestrator."""
    elsewhere: tuple[Instance, ...] = ()
    """Other instances that may have it, where the history does not say which one does."""

    def live(self) -> LiveRun:
        now = datetime.now(UTC)
        record = self.record or RunRecord(self.run_id, self.supervisor.name, self.tool, now)
        started = record.started_at or now - timedelta(seconds=self.seconds)
        return LiveRun(
            replace(record, generation=self.instance.generation, started_at=started),
            RunWatch(),
            instance=self.instance,
            request_bytes=record.request_bytes,
            in_container=True,
        )


@dataclass(frozen=True, slots=True)
class MatchedRuns:
    """`lost`: records of runs that are in no container; their ends will never be known."""

    orphans: tuple[OrphanedRun, ...]
    lost: tuple[RunRecord, ...]


def match_runs(asynchronous: Iterable[RunRecord], adopted: Iterable[AdoptedInstance]) -> MatchedRuns:
    """`asynchronous`: the runs that are in flight by the history."""
    awaited = {record.run_id: record for record in asynchronous}
    found: dict[str, OrphanedRun] = {}
    instances: defaultdict[str, list[Instance]] = defaultdict(list)
    adopted = list(adopted)
    for _, adoption in adopted:
        instances[adoption.instance.identity.plugin].append(adoption.instance)
    for supervisor, adoption in adopted:
        instance = adoption.instance
        for run in adoption.status.runs:
            record = awaited.get(run.run_id)
            found[run.run_id] = OrphanedRun(supervisor, instance, run.run_id, run.tool, run.seconds, record)
        for record in awaited.values():
            # Generation 0: the container may have started it before the history recorded that.
            ours = record.plugin == supervisor.name and record.generation in (0, instance.generation)
            if ours and record.run_id not in found:
                others = tuple(each for each in instances[supervisor.name] if each is not instance)
                elsewhere = () if record.generation else others
                found[record.run_id] = OrphanedRun(
                    supervisor, instance, record.run_id, record.tool, 0.0, record, elsewhere
                )
    lost = tuple(record for record in awaited.values() if record.run_id not in found)
    return MatchedRuns(tuple(found.values()), lost)
