"""Every plugin's queue, and the waiting in it."""

import asyncio

from orchestrator.errors import OrchestratorError
from orchestrator.registry import PluginRecord, PluginRegistry
from orchestrator.tools.admission import Admission, AdmissionQueue
from orchestrator.tools.live_run import LiveRun


class QueueFullError(OrchestratorError):
    """A run that was refused because the plugin's queue is full."""


class RunQueues:
    """Lets runs start in the order of their admission. The registry counts those that wait."""

    def __init__(self, registry: PluginRegistry) -> None:
        self._registry = registry
        self._queues: dict[str, AdmissionQueue] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def admit(self, record: PluginRecord, run_id: str, *, beyond_capacity: bool = False) -> bool:
        """Queue a run; True where it has to wait. `release` must follow. Raises `QueueFullError`, but not for one that
        may wait `beyond_capacity`.
        """
        queue = self._queue(record)
        match queue.admit(run_id, beyond_capacity=beyond_capacity):
            case Admission.REFUSE:
                raise QueueFullError(
                    f"The queue of {record.name} is full: {queue.concurrency} executing, {queue.capacity} waiting. Try "
                    "again later."
                )
            case Admission.WAIT:
                self._waiting[run_id] = asyncio.get_running_loop().create_future()
                return True
            case Admission.START:
                return False

    def occupy(self, record: PluginRecord, run_id: str) -> None:
        """Count a run that executes already, whatever the limits say. `release` must follow."""
        self._queue(record).running.add(run_id)

    def position(self, plugin: str, run_id: str) -> int | None:
        """1 for the next; None for a run that does not wait."""
        queue = self._queues.get(plugin)
        return queue.position(run_id) if queue is not None else None

    async def wait(self, run: LiveRun) -> None:
        """Wait until the run may start. May be cancelled."""
        admitted = self._waiting.get(run.run_id)
        if admitted is None:
            return
        self._registry.count_queued(run.record.plugin, +1)
        try:
            await admitted
        finally:
            self._waiting.pop(run.run_id, None)
            self._registry.count_queued(run.record.plugin, -1)

    def release(self, run: LiveRun) -> None:
        """Remove a run that has ended or waits no longer, and let the next ones start."""
        self._waiting.pop(run.run_id, None)  # of one that ended before it came to `wait`
        for next_run in self._queues[run.record.plugin].release(run.run_id):
            admitted = self._waiting.get(next_run)
            if admitted is not None and not admitted.done():
                admitted.set_result(None)

    def _queue(self, record: PluginRecord) -> AdmissionQueue:
        assert record.limits is not None  # noqa: S101 - a plugin without a valid manifest is refused before
        concurrency, capacity = record.limits.concurrency, record.limits.queue
        queue = self._queues.get(record.name)
        if queue is None:
            queue = self._queues[record.name] = AdmissionQueue(concurrency, capacity)
        queue.resize(concurrency, capacity)
        return queue
