"""Every plugin's queue, and the waiting in it."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from plugin_runtime.shared.limits import runs_let_in

from orchestrator.errors import OrchestratorError
from orchestrator.registry import LifecycleEvent, PluginRecord, PluginRegistry
from orchestrator.tools.admission import Admission, AdmissionQueue
from orchestrator.tools.live_run import LiveRun


class QueueFullError(OrchestratorError):
    """A run that was refused because the plugin's queue is full."""


class RunQueues:
    """Lets runs start in the order of their admission: as many as a plugin's ready instances take together. The
    registry counts those that wait.
    """

    def __init__(self, registry: PluginRegistry) -> None:
        self._registry = registry
        # On the event loop, where instances change.
        registry.subscribe(self._instances_changed)
        registry.subscribe_roles(self._look)
        self._queues: dict[str, AdmissionQueue] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._tools: dict[str, str] = {}
        """Run → tool, of those that are admitted and do not execute yet."""
        self._generations: dict[str, int] = {}
        """Run → instance, of those that execute."""

    def admit(self, record: PluginRecord, run_id: str, tool: str, *, beyond_capacity: bool = False) -> bool:
        """Queue a run of `tool`; True where it has to wait. `release` must follow. Raises `QueueFullError`, but not for
        one that may wait `beyond_capacity`.
        """
        queue = self._queue(record)
        admission = queue.admit(run_id, takes=1 / let_in(record.tools, tool), beyond_capacity=beyond_capacity)
        if admission is not Admission.REFUSE:
            self._tools[run_id] = tool
        match admission:
            case Admission.REFUSE:
                executing = sum(run in self._generations for run in queue.running)
                waiting = len(queue.running) - executing + len(queue.waiting)
                raise QueueFullError(
                    f"The queue of {record.name} is full: {executing} executing, {waiting} waiting. Try again later."
                )
            case Admission.WAIT:
                self._waiting[run_id] = asyncio.get_running_loop().create_future()
                return True
            case Admission.START:
                return False

    def occupy(self, record: PluginRecord, run_id: str, generation: int) -> None:
        """Count a run that executes already, whatever the limits say. `release` must follow."""
        self._queue(record).running[run_id] = 1.0
        self._generations[run_id] = generation

    def executes(self, run_id: str, generation: int) -> None:
        """An admitted run executes in this instance now."""
        self._tools.pop(run_id, None)
        self._generations[run_id] = generation

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
        queue = self._queues[run.record.plugin]
        queue.release(run.run_id)
        self._tools.pop(run.run_id, None)
        self._generations.pop(run.run_id, None)
        if queue.waiting:
            self._start_next(run.record.plugin, queue)

    def _instances_changed(self, event: LifecycleEvent) -> None:
        # Not for a sentence about the plugin, which a build may write on a thread of its own.
        if event.previous is not event.state:
            self._look(event.plugin)

    def _look(self, plugin: str) -> None:
        queue = self._queues.get(plugin)
        if queue is not None and queue.waiting:
            self._know_batches(plugin, queue)
            self._start_next(plugin, queue)

    def _know_batches(self, plugin: str, queue: AdmissionQueue) -> None:
        # Those that came before an instance was ready took a whole place each: which tools are batched it says itself.
        if (record := self._registry.get(plugin)) is not None:
            for runs in (queue.running, queue.waiting):
                for run_id in runs:
                    if (tool := self._tools.get(run_id)) is not None:
                        runs[run_id] = 1 / let_in(record.tools, tool)

    def _start_next(self, plugin: str, queue: AdmissionQueue) -> None:
        record = self._registry.get(plugin)
        if record is not None and record.limits is not None:
            queue.resize(self._slots(record, queue), record.limits.queue)
        for run_id in queue.start_next():
            admitted = self._waiting.get(run_id)
            if admitted is not None and not admitted.done():
                admitted.set_result(None)

    def _queue(self, record: PluginRecord) -> AdmissionQueue:
        assert record.limits is not None  # noqa: S101 - a plugin without a valid manifest is refused before
        capacity = record.limits.queue
        queue = self._queues.get(record.name)
        if queue is None:
            queue = self._queues[record.name] = AdmissionQueue(0, capacity)
        queue.resize(self._slots(record, queue), capacity)
        return queue

    def _slots(self, record: PluginRecord, queue: AdmissionQueue) -> float:
        """How many runs may execute: what the ready instances take, and one's worth while none is ready; besides those
        that an instance ends which takes no new ones.
        """
        assert record.limits is not None  # noqa: S101 - a plugin without a valid manifest is refused before
        taken = record.limits.concurrency * max(1, record.ready)
        drained = [instance.generation for instance in record.instances if instance.role == "draining"]
        if not drained:
            return taken
        return taken + sum(takes for run, takes in queue.running.items() if self._generations.get(run) in drained)


def let_in(tools: Iterable[Mapping[str, Any]], tool: str) -> int:
    """How many runs of this tool an instance takes in place of one: so many that a batch is formed while another
    executes.
    """
    for known in tools:
        if known["name"] == tool and known.get("batch") is not None:
            return runs_let_in(1, known["batch"]["max_size"])
    return 1
