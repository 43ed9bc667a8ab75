"""Runs as the API shows them: live ones from memory, ended ones from the history."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from orchestrator.access.principal import ANYONE, Principal
from orchestrator.registry.history import HistoryStore, RunRecord, RunState
from orchestrator.sandbox.call import Progress
from orchestrator.tools.live_run import LiveRun

STARTING: Final = "starting"
"""The progress of a run that waits for an instance to start."""


class RunPhase(StrEnum):
    """The state of a run as the API shows it."""

    QUEUED = "queued"
    """It waits in the queue, or for the plugin to be ready."""
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    """The orchestrator ended before the run did; its end is not known."""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment."""

    record: RunRecord
    phase: RunPhase
    queue_position: int | None = None
    """1 for the next."""
    cancel_requested: bool = False
    progress: Progress | None = None

    @property
    def ended(self) -> bool:
        return self.phase in _ENDED


_ENDED: Final = frozenset({RunPhase.FINISHED, RunPhase.INTERRUPTED})
_OF_RECORD: Final = {
    RunState.IN_FLIGHT: RunPhase.RUNNING,
    RunState.FINISHED: RunPhase.FINISHED,
    RunState.INTERRUPTED: RunPhase.INTERRUPTED,
}
_STATE: Final = {
    None: None,
    RunPhase.QUEUED: RunState.IN_FLIGHT,
    RunPhase.RUNNING: RunState.IN_FLIGHT,
    RunPhase.FINISHED: RunState.FINISHED,
    RunPhase.INTERRUPTED: RunState.INTERRUPTED,
}


class RunLookup:
    """`live`: the runs in memory; `position`: of a plugin's run in the queue; `starting`: whether a plugin's runs that
    have no instance wait for one to start.
    """

    def __init__(
        self,
        live: Mapping[str, LiveRun],
        history: HistoryStore,
        position: Callable[[str, str], int | None],
        starting: Callable[[str], bool],
    ) -> None:
        self._live = live
        self._history = history
        self._position = position
        self._starting = starting

    async def one(self, run_id: str, principal: Principal = ANYONE) -> RunView | None:
        """None for an unknown run, for one whose record has expired, and for one that `principal` does not see."""
        live, record = self._live.get(run_id), await self._history.run(run_id)
        known = record if live is None else live.record
        if known is None or not principal.sees_run(known.plugin, known.caller):
            return None
        if live is not None:
            return self._view(live, record.id if record else 0)
        return RunView(known, _OF_RECORD[known.state])

    async def page(
        self,
        *,
        plugin: str | None,
        phase: RunPhase | None,
        before: int | None,
        limit: int,
        principal: Principal = ANYONE,
    ) -> list[RunView]:
        """Newest first, of those that `principal` sees. Runs that are not yet in the history come on the first page,
        with the id 0.
        """
        live = dict(self._live)
        records = await self._history.runs(
            plugin=plugin,
            state=_STATE[phase],
            before=before,
            limit=limit,
            among=() if principal.sees_every_plugin else principal.grant.plugins,
            caller=None if principal.sees_every_run else principal.name,
        )
        live |= self._live  # with those that were accepted, or ended, while the history was read
        views = []
        if before is None:
            known = {record.run_id for record in records}
            since = records[0].accepted_at if records else datetime.min.replace(tzinfo=UTC)
            views = [
                self._view(run, 0)
                for run in reversed(live.values())
                if run.run_id not in known
                and run.record.accepted_at >= since
                and plugin in (None, run.record.plugin)
                and principal.sees_run(run.record.plugin, run.record.caller)
            ]
        views += [
            self._view(live[record.run_id], record.id)
            if record.run_id in live
            else RunView(record, _OF_RECORD[record.state])
            for record in records
        ]
        return [view for view in views if phase in (None, view.phase)][:limit]

    def view(self, run: LiveRun) -> RunView:
        return self._view(run, run.record.id)

    def _view(self, run: LiveRun, record_id: int) -> RunView:
        record = replace(run.record, id=record_id)
        if record.finished_at is not None:
            return RunView(record, RunPhase.FINISHED, cancel_requested=run.cancel_requested)
        waits = run.instance is None
        return RunView(
            record,
            RunPhase.QUEUED if waits else RunPhase.RUNNING,
            self._position(record.plugin, record.run_id),
            run.cancel_requested,
            Progress(None, STARTING) if waits and self._starting(record.plugin) else run.reported_progress,
        )
