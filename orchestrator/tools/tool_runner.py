"""ToolRunner: admits a run, makes it in the sandbox, and sees to it that everybody learns what became of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from orchestrator.errors import OrchestratorError
from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.registry import PluginRecord, PluginRegistry
from orchestrator.registry.history import HistoryStore
from orchestrator.sandbox.call import Outcome, RunResult, ToolCall
from orchestrator.sandbox.deadline import CallerGoneError, while_wanted
from orchestrator.sandbox.sandbox_runner import Emit, PluginSandboxRunner, ended_by
from orchestrator.supervisor.instance import Instance, InstanceEndedError
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor
from orchestrator.tools.admission import Admission, AdmissionQueue
from orchestrator.tools.live_run import LiveRun, accepted
from orchestrator.tools.run_observer import RunObserver, RunWatch, nobody_watches

_log = logging.getLogger(__name__)

_TOO_EARLY: Final = "the caller hung up before the run began"
_UNAVAILABLE: Final = "PluginUnavailable"
_COUNTED_AS_ERROR = frozenset({Outcome.PLUGIN_FAILED, Outcome.TIMEOUT})


class QueueFullError(OrchestratorError):
    """As many runs wait as may."""


class DrainingError(OrchestratorError):
    """The orchestrator is stopping and takes no new runs."""


class ToolRunner:
    """Runs tools. `find` gives the supervisor of a plugin, None for an unknown name."""

    def __init__(
        self,
        registry: PluginRegistry,
        find: Callable[[str], PluginSupervisor | None],
        sandbox: PluginSandboxRunner,
        history: HistoryStore,
        observe: RunObserver = nobody_watches,
    ) -> None:
        self._registry = registry
        self._find = find
        self._sandbox = sandbox
        self._history = history
        self._observe = observe
        self._queues: dict[str, AdmissionQueue] = {}
        self._live: dict[str, LiveRun] = {}
        """The runs that have been accepted and have not ended."""
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, plugin: str, call: ToolCall, emit: Emit | None = None) -> RunResult:
        """What came of `call`; whatever happens is in the result, nothing is raised but cancellation."""
        with self._observe(plugin, call) as watch:
            result = await self._run(plugin, call, emit, watch)
            watch.ended(result)
        return result

    async def _run(self, plugin: str, call: ToolCall, emit: Emit | None, watch: RunWatch) -> RunResult:
        record, supervisor = self._registry.get(plugin), self._find(plugin)
        if record is None or supervisor is None:
            return RunResult(
                Outcome.UNKNOWN_PLUGIN, error=f"There is no plugin {plugin!r}. GET /v1/plugins lists those there are."
            )
        if self._draining:
            return RunResult(
                Outcome.UNAVAILABLE,
                error="The orchestrator is stopping and takes no new runs.",
                error_type=_UNAVAILABLE,
                retry_after=5,
            )
        if record.ended or not record.limits:  # no limits: its manifest has not been read, or is not valid
            return _unavailable(record)
        run = accepted(plugin, call, watch)
        try:
            queue = self._admit(record, run)
        except QueueFullError as error:
            return RunResult(
                Outcome.QUEUE_FULL, error=str(error), error_type="QueueFull", retry_after=_patience(record)
            )
        self._live[run.run_id] = run
        self._idle.clear()
        result: RunResult | None = None
        try:
            result = await self._conduct(run, queue, supervisor, call, emit)
            await self._history.run_finished(run.end(result), success=_success(result))
        finally:
            if result is None:
                self._history.run_interrupted(run.record)
            del self._live[run.run_id]
            if not self._live:
                self._idle.set()
        return result

    def give_up(self, run_id: str) -> None:
        """Nobody is there any more for this run's answer: if it waits, it never begins. One that has begun goes on,
        since a tool cannot be stopped short of its container; only one that streams is stopped at its next line.
        """
        if (run := self._live.get(run_id)) is not None:
            run.give_up()

    async def drain(self) -> None:
        """Take no new runs, and return when those in flight have ended, each within its own limit."""
        self._draining = True
        await self._idle.wait()

    async def _conduct(
        self, run: LiveRun, queue: AdmissionQueue, supervisor: PluginSupervisor, call: ToolCall, emit: Emit | None
    ) -> RunResult:
        """From its place in the queue to its end."""
        try:
            async with self._turn(queue, run):
                async with while_wanted(run.gone, _TOO_EARLY):
                    instance = await supervisor.ready_instance()
                return await self._run_on(instance, supervisor, run, call, emit)
        except CallerGoneError as error:
            return RunResult(Outcome.CALLER_GONE, error=str(error))
        except InstanceEndedError as error:
            result = ended_by(error.verdict)
            return RunResult(
                Outcome.UNAVAILABLE, error=result.error, error_type=_UNAVAILABLE, reason_code=result.reason_code
            )

    async def _run_on(
        self, instance: Instance, supervisor: PluginSupervisor, run: LiveRun, call: ToolCall, emit: Emit | None
    ) -> RunResult:
        if call.tool not in instance.tools:
            known = ", ".join(sorted(instance.tools)) or "none"
            return RunResult(
                Outcome.UNKNOWN_TOOL,
                error=f"{supervisor.name} has no tool {call.tool[:80]!r}; it has {known}.",
                error_type="UnknownTool",
            )
        now = self._registry.begin_run(supervisor.name, instance.generation)
        self._history.run_started(run.begin(instance.generation, now))
        result: RunResult | None = None
        try:
            result = await self._sandbox.run(
                instance,
                run.measured(run.watch.begun(call)),
                timeout=instance.limits.timeout,
                emit=run.counting(emit),
                gone=run.gone,
            )
        finally:
            self._registry.finish_run(
                supervisor.name,
                instance.generation,
                ok=_success(result),
                execution_ms=result.execution_time_ms if result else 0.0,
            )
        supervisor.run_ended(instance, call.tool, result)
        if result.traceback:
            _log.warning("%s.%s raised\n%s", supervisor.name, call.tool, result.traceback)
        return result

    def _admit(self, record: PluginRecord, run: LiveRun) -> AdmissionQueue:
        """Give it its place. Raises `QueueFullError`."""
        concurrency, capacity = int(record.limits["concurrency"]), int(record.limits["queue"])
        queue = self._queues.setdefault(record.name, AdmissionQueue(concurrency, capacity))
        queue.resize(concurrency, capacity)
        match queue.ask(run.run_id):
            case Admission.REFUSE:
                raise QueueFullError(
                    f"{record.name} executes {concurrency} runs and {capacity} wait; no more may. Try again later."
                )
            case Admission.WAIT:
                run.turn = asyncio.get_running_loop().create_future()
                self._history.run_accepted(run.record)
            case Admission.BEGIN:
                pass
        return queue

    @asynccontextmanager
    async def _turn(self, queue: AdmissionQueue, run: LiveRun) -> AsyncIterator[None]:
        """Waits for this run's turn and holds it."""
        try:
            if run.turn is not None:
                await self._wait(run, run.turn)
            yield
        finally:
            self._leave(queue, run)

    async def _wait(self, run: LiveRun, turn: asyncio.Future[None]) -> None:
        self._registry.count_queued(run.record.plugin, +1)
        try:
            async with while_wanted(run.gone, _TOO_EARLY):
                await turn
        finally:
            run.turn = None
            self._registry.count_queued(run.record.plugin, -1)

    def _leave(self, queue: AdmissionQueue, run: LiveRun) -> None:
        for next_run in queue.leave(run.run_id):
            turn = self._live[next_run].turn
            if turn is not None and not turn.done():
                turn.set_result(None)


def _success(result: RunResult | None) -> bool | None:
    """None: it counts neither way, since the plugin is not to blame for a caller's mistake."""
    if result is None:
        return None
    return True if result.ok else False if result.outcome in _COUNTED_AS_ERROR else None


def _unavailable(record: PluginRecord) -> RunResult:
    return RunResult(
        Outcome.UNAVAILABLE,
        error=record.reason or f"The plugin is {PluginLifecycleState.UNAVAILABLE}.",
        error_type=_UNAVAILABLE,
        reason_code=record.reason_code,
    )


def _patience(record: PluginRecord) -> float:
    """Seconds after which the queue has probably moved: the mean execution, at least one second."""
    runs = record.success_count + record.error_count
    return max(1.0, record.total_execution_ms / runs / 1000 if runs else 1.0)
