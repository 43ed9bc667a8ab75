"""Whose turn it is: every plugin's queue, and the waiting that belongs to it."""

import asyncio

from orchestrator.errors import OrchestratorError
from orchestrator.registry import PluginRecord, PluginRegistry
from orchestrator.sandbox.cancel_when import cancel_when
from orchestrator.tools.admission import Admission, AdmissionQueue
from orchestrator.tools.live_run import LiveRun

TOO_EARLY = "the caller hung up before the run began"


class QueueFullError(OrchestratorError):
    """As many runs wait as may."""


class RunQueues:
    """Lets runs begin, each in its turn. The registry is told how many wait."""

    def __init__(self, registry: PluginRegistry) -> None:
        self._registry = registry
        self._queues: dict[str, AdmissionQueue] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def admit(self, record: PluginRecord, run_id: str) -> bool:
        """Give a run its place; True where it has to wait in it. `end` must follow. Raises `QueueFullError`."""
        queue = self._queue(record)
        match queue.ask(run_id):
            case Admission.REFUSE:
                raise QueueFullError(
                    f"{record.name} has {queue.concurrency} executing and {queue.capacity} waiting; no more may. Try "
                    "again later."
                )
            case Admission.WAIT:
                self._waiting[run_id] = asyncio.get_running_loop().create_future()
                return True
            case Admission.BEGIN:
                return False

    def occupy(self, record: PluginRecord, run_id: str) -> None:
        """A run executes already, whatever the limits say. `end` must follow."""
        self._queue(record).running.add(run_id)

    def position(self, plugin: str, run_id: str) -> int | None:
        """1 for the next; None for a run that does not wait."""
        queue = self._queues.get(plugin)
        return queue.position(run_id) if queue is not None else None

    async def begin(self, run: LiveRun) -> None:
        """Returns when it is the run's turn. Raises `CallerGoneError` where it is given up before."""
        if (turn := self._waiting.get(run.run_id)) is not None:
            await self._wait(run, turn)

    def end(self, run: LiveRun) -> None:
        """It waits no longer, or has ended: the next ones' turn."""
        for next_run in self._queues[run.record.plugin].leave(run.run_id):
            turn = self._waiting.get(next_run)
            if turn is not None and not turn.done():
                turn.set_result(None)

    async def _wait(self, run: LiveRun, turn: asyncio.Future[None]) -> None:
        self._registry.count_queued(run.record.plugin, +1)
        try:
            with cancel_when(run.gone, TOO_EARLY):
                await turn
        finally:
            del self._waiting[run.run_id]
            self._registry.count_queued(run.record.plugin, -1)

    def _queue(self, record: PluginRecord) -> AdmissionQueue:
        assert record.limits is not None  # noqa: S101 - a plugin without a valid manifest is refused before
        concurrency, capacity = record.limits.concurrency, record.limits.queue
        queue = self._queues.get(record.name)
        if queue is None:
            queue = self._queues[record.name] = AdmissionQueue(concurrency, capacity)
        queue.resize(concurrency, capacity)
        return queue
