"""Every plugin's queue, and the waiting in it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from plugin_runtime.shared.limits import runs_let_in

from orchestrator.access.principal import Rate
from orchestrator.errors import OrchestratorError
from orchestrator.registry import LifecycleEvent, PluginRecord, PluginRegistry
from orchestrator.sandbox.call import ToolCall
from orchestrator.tools.admission import Admission, AdmissionQueue, RunRate
from orchestrator.tools.live_run import LiveRun


class QueueFullError(OrchestratorError):
    """A run that was refused because as many of its caller wait for the plugin as may. `turns`: how many runs of the
    mean length pass until one of them starts.
    """

    def __init__(self, sentence: str, turns: float) -> None:
        super().__init__(sentence)
        self.turns = turns


class RateExceededError(OrchestratorError):
    """A run that was refused because its caller has made as many as it may. `wait`: seconds until it may again."""

    def __init__(self, sentence: str, wait: float) -> None:
        super().__init__(sentence)
        self.wait = wait


class RunQueues:
    """Lets runs start, as many as a plugin's ready instances take together: each caller's in the order of their
    admission, those of several callers by their shares. The registry counts those that wait. `clock`: monotonic, in
    seconds.
    """

    def __init__(self, registry: PluginRegistry, clock: Callable[[], float] = monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._executing: Counter[str] = Counter()
        """Runs of each caller that has a bound on them, over all plugins."""
        self._rates: dict[str, RunRate] = {}
        # On the event loop, where instances change.
        registry.subscribe(self._instances_changed)
        registry.subscribe_roles(self._look)
        self._queues: dict[str, AdmissionQueue] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._tools: dict[str, str] = {}
        """Run → tool, of those that are admitted and do not execute yet."""
        self._generations: dict[str, int] = {}
        """Run → instance, of those that execute."""

    def admit(self, record: PluginRecord, call: ToolCall, *, beyond_capacity: bool = False) -> bool:
        """Queue a run; True where it has to wait. `release` must follow. Raises `QueueFullError` and
        `RateExceededError`, but not for one that may wait `beyond_capacity`.
        """
        queue, share, caller = self._queue(record), call.share, call.caller or ""
        if share.rate is not None and not beyond_capacity:
            self._check_rate(caller, share.rate)
        takes = 1 / let_in(record.tools, call.tool)
        admission = queue.admit(call.run_id, takes=takes, beyond_capacity=beyond_capacity, caller=caller, share=share)
        if admission is Admission.REFUSE:
            executing = sum(run in self._generations for run in queue.running)
            at_once = share.concurrency is not None and self._executing[caller] >= share.concurrency
            raise _queue_full(record, queue, caller, executing, share.concurrency if at_once else None)
        self._tools[call.run_id] = call.tool
        if share.rate is not None:
            self._rates[caller].count(self._clock())
        if admission is Admission.START:
            return False
        self._waiting[call.run_id] = asyncio.get_running_loop().create_future()
        return True

    def _check_rate(self, caller: str, rate: Rate) -> None:
        known = self._rates.get(caller)
        if known is None or known.rate != rate:  # its key was changed
            known = self._rates[caller] = RunRate(rate)
        if wait := known.wait(self._clock()):
            raise RateExceededError(f"The key {caller!r} may make {rate} runs (its --rate), and has made them.", wait)

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

    def waits(self, run_id: str) -> bool:
        """Whether an admitted run may not start yet."""
        return run_id in self._waiting

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
        bounded = queue.release(run.run_id)
        self._tools.pop(run.run_id, None)
        self._generations.pop(run.run_id, None)
        if queue.waiting:
            self._start_next(run.record.plugin, queue)
        if bounded is not None:  # it may wait for other plugins, where nothing else happens
            for plugin, other in self._queues.items():
                if other is not queue and other.waiting.length(bounded):
                    self._start_next(plugin, other)

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
            for run_id in (*queue.running, *queue.waiting):
                if (tool := self._tools.get(run_id)) is not None:
                    queue.resize_run(run_id, 1 / let_in(record.tools, tool))

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
            queue = self._queues[record.name] = AdmissionQueue(0, capacity, self._executing)
        queue.resize(self._slots(record, queue), capacity)
        return queue

    def _slots(self, record: PluginRecord, queue: AdmissionQueue) -> float:
        """How many runs may execute: what the ready instances take, and one's worth while none is ready; besides those
        that an instance ends which takes no new ones.
        """
        assert record.limits is not None  # noqa: S101 - a plugin without a valid manifest is refused before
        taken, drained = 0, []
        for each in record.instances:  # one loop, since each run comes here
            if each.role == "draining":
                drained.append(each.generation)
            elif each.role == "serving" and each.ready:
                taken += (each.limits or record.limits).concurrency
        taken = taken or record.limits.concurrency
        if not drained:
            return taken
        return taken + sum(takes for run, takes in queue.running.items() if self._generations.get(run) in drained)


def _queue_full(
    record: PluginRecord, queue: AdmissionQueue, caller: str, executing: int, at_once: int | None
) -> QueueFullError:
    """`at_once`: the caller's own bound on runs that execute, where that holds back its runs."""
    first = queue.waiting.next_of(caller)
    turns = (queue.position(first) or 1) / max(1.0, queue.slots) if first is not None else 1.0
    if not caller:
        waiting = len(queue.running) - executing + len(queue.waiting)
        sentence = (
            f"The queue of {record.name} is full: {executing} executing, {waiting} waiting, as many as may (`queue` in "
            "its manifest)."
        )
    else:
        sentence = (
            f"The queue of {record.name} is full for the key {caller!r}: {queue.capacity} of its runs wait, as many as "
            "may for one caller (`queue` in the plugin's manifest)."
        )
        if at_once is not None:
            sentence += f" They wait for its others: the key may have {at_once} executing at once (its --concurrency)."
    return QueueFullError(f"{sentence} Try again later.", turns)


def let_in(tools: Iterable[Mapping[str, Any]], tool: str) -> int:
    """How many runs of this tool an instance takes in place of one: so many that a batch is formed while another
    executes.
    """
    for known in tools:
        if known["name"] == tool and known.get("batch") is not None:
            return runs_let_in(1, known["batch"]["max_size"])
    return 1
