"""ToolRunner: admits a run, makes it in the sandbox, and sees to it that everybody learns what became of it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from orchestrator.errors import ChannelError, OrchestratorError
from orchestrator.registry import PluginRegistry
from orchestrator.registry.history import HistoryStore, RunRecord
from orchestrator.sandbox.call import Outcome, RunResult, ToolCall
from orchestrator.sandbox.cancel_when import CallerGoneError, cancel_when
from orchestrator.sandbox.sandbox_runner import Emit, PluginSandboxRunner
from orchestrator.supervisor.instance import Instance, InstanceEndedError
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor
from orchestrator.tools import refusals
from orchestrator.tools.cancelling import cancelled, see_out
from orchestrator.tools.idempotency_keys import IdempotencyKeys
from orchestrator.tools.live_run import LiveRun, accepted
from orchestrator.tools.result_store import ResultStore
from orchestrator.tools.resumption import Found, LeftBehind, take_stock
from orchestrator.tools.run_lookup import RunLookup, RunView
from orchestrator.tools.run_observer import RunObserver, RunWatch, nobody_watches
from orchestrator.tools.run_queues import TOO_EARLY, QueueFullError, RunQueues

_log = logging.getLogger(__name__)

_COUNTED_AS_ERROR = frozenset({Outcome.PLUGIN_FAILED, Outcome.TIMEOUT})


class RunLostError(OrchestratorError):
    """Nobody will ever know what became of a run."""


class ToolRunner:
    """Runs tools. `find` gives the supervisor of a plugin, None for an unknown name; `cancel_grace` are the seconds
    that a cancelled run has to end by itself.
    """

    def __init__(
        self,
        registry: PluginRegistry,
        find: Callable[[str], PluginSupervisor | None],
        sandbox: PluginSandboxRunner,
        *,
        history: HistoryStore,
        results: ResultStore,
        cancel_grace: float,
        observe: RunObserver = nobody_watches,
    ) -> None:
        self._registry = registry
        self._find = find
        self._sandbox = sandbox
        self._history = history
        self._cancel_grace = cancel_grace
        self._observe = observe
        self._queues = RunQueues(registry)
        self._live: dict[str, LiveRun] = {}
        """The runs that have been accepted and have not ended."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.idempotency_keys = IdempotencyKeys()
        self.results = results
        self.lookup = RunLookup(self._live, history, self._queues.position)

    async def run(self, plugin: str, call: ToolCall, emit: Emit | None = None) -> RunResult:
        """What came of `call`; whatever happens is in the result, nothing is raised but cancellation."""
        with self._observe(plugin, call) as watch:
            admitted = self._admit(plugin, call, watch)
            if isinstance(admitted, RunResult):
                result = admitted
            else:
                run, supervisor = admitted
                result = await self._see_through(run, self._conduct(run, supervisor, call, emit))
            watch.ended(result)
        return result

    async def begin(self, plugin: str, call: ToolCall) -> RunView | RunResult:
        """Have `call` made in its own time. The run, once that is on file; its result where it is not even admitted."""
        begun: asyncio.Future[RunView | RunResult] = asyncio.get_running_loop().create_future()
        task = self._spawn(self._on_its_own(plugin, replace(call, keep=True), begun))
        await asyncio.wait((task, begun), return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            task.result()  # raises: whoever asked must not wait for what will never be told
        return begun.result()

    async def cancel(self, run_id: str) -> RunView | None:
        """Have a run end: one that waits at once, one that executes by asking it; its container is stopped where that
        does not help within the grace. The run as it is then, None for an unknown one.
        """
        run = self._live.get(run_id)
        if run is not None and run.record.finished_at is None and not run.cancel_requested:
            run.cancel_requested = True
            if run.instance is None:
                run.give_up()
                await run.ended.wait()
            else:
                self._spawn(see_out(run, run.instance, self._cancel_grace))
        return await self.lookup.one(run_id)

    async def wait(self, run_id: str, seconds: float) -> None:
        """Returns when the run is not in flight any more, after so many seconds at the latest."""
        if (run := self._live.get(run_id)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await run.ended.wait()

    def give_up(self, run_id: str) -> None:
        """Nobody is there any more for this run's answer: if it waits, it never begins. One that has begun goes on,
        since a tool cannot be stopped short of its container; only one that streams is stopped at its next line.
        """
        if (run := self._live.get(run_id)) is not None:
            run.give_up()

    def resume(self, asynchronous: Iterable[RunRecord], adopted: Iterable[Found]) -> None:
        """Take up what an orchestrator before this one left: `asynchronous` runs that the history knows to be in
        flight, and the runs that execute in the containers that were adopted. Call it before the first run.
        """
        stock = take_stock(asynchronous, adopted)
        for record in stock.lost:
            self._history.run_interrupted(record)
        for left in stock.found:
            plugin = self._registry.get(left.supervisor.name)
            if plugin is not None and plugin.limits:
                self._queues.occupy(plugin, left.run_id)
                self._spawn(self._take_up(left))

    async def drain(self) -> None:
        """Take no new runs, and return when those in flight have ended, each within its own limit."""
        self._draining = True
        await self._idle.wait()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # From the door to the end

    def _admit(self, plugin: str, call: ToolCall, watch: RunWatch) -> tuple[LiveRun, PluginSupervisor] | RunResult:
        """Give it its place, or say why not."""
        record, supervisor = self._registry.get(plugin), self._find(plugin)
        if record is None or supervisor is None:
            return refusals.unknown_plugin(plugin)
        if self._draining:
            return refusals.stopping()
        if call.run_id in self._live or self.idempotency_keys.used(call.run_id):
            return refusals.run_id_taken()
        ended = record.ended and not supervisor.restarting
        if ended or not record.limits:  # no limits: its manifest has not been read, or is not valid
            return refusals.ended(record)
        run = accepted(plugin, call, watch)
        try:
            if self._queues.admit(record, run.run_id):
                self._history.run_accepted(run.record)
        except QueueFullError as error:
            return refusals.queue_full(record, str(error))
        self.idempotency_keys.use(run.run_id)
        return run, supervisor

    async def _on_its_own(self, plugin: str, call: ToolCall, begun: asyncio.Future[RunView | RunResult]) -> None:
        with self._observe(plugin, call) as watch:
            admitted = self._admit(plugin, call, watch)
            if isinstance(admitted, RunResult):
                watch.ended(admitted)
                _tell(begun, admitted)
                return
            run, supervisor = admitted

            async def work() -> RunResult:
                await self._history.run_accepted(run.record)
                _tell(begun, self.lookup.view(run))
                return await self._conduct(run, supervisor, call, None)

            watch.ended(await self._see_through(run, work()))

    async def _see_through(self, run: LiveRun, work: Coroutine[Any, Any, RunResult]) -> RunResult:
        """`work` with the run in memory meanwhile, and its end on file afterwards."""
        self._live[run.run_id] = run
        self._idle.clear()
        result: RunResult | None = None
        try:
            result = await work
            if run.record.asynchronous:
                await self.results.keep(run.record, result)
            await self._history.run_finished(run.end(result), success=_success(result))
            if run.record.asynchronous and run.instance is not None and run.instance.ended is None:
                with suppress(ChannelError):
                    await run.instance.channel.forget(run.run_id)
        finally:
            if result is None:
                self._history.run_interrupted(run.record)
            del self._live[run.run_id]
            run.ended.set()
            if not self._live:
                self._idle.set()
        return result

    async def _conduct(
        self, run: LiveRun, supervisor: PluginSupervisor, call: ToolCall, emit: Emit | None
    ) -> RunResult:
        """From its place in the queue to its end."""
        try:
            await self._queues.begin(run)
            with cancel_when(run.gone, TOO_EARLY):
                instance = await supervisor.ready_instance()
            if call.tool not in instance.tools:
                return refusals.unknown_tool(supervisor.name, call.tool, instance.tools)
            begun = run.measured(run.watch.begun(call))
            self._begin(run, instance)
            execution = self._sandbox.run(instance, begun, timeout=instance.limits.timeout, reader=run.reader(emit))
            return await self._executed(run, instance, supervisor, execution)
        except CallerGoneError as error:
            if run.cancel_requested:
                return RunResult(Outcome.CANCELLED, error="The run was cancelled before it began.")
            return RunResult(Outcome.CALLER_GONE, error=str(error))
        except InstanceEndedError as error:
            return refusals.unavailable(error.verdict.reason, error.verdict.code)
        finally:
            self._queues.end(run)

    def _begin(self, run: LiveRun, instance: Instance) -> None:
        now = self._registry.begin_run(run.record.plugin, instance.generation)
        self._history.run_started(run.begin(instance, now))

    async def _executed(
        self,
        run: LiveRun,
        instance: Instance,
        supervisor: PluginSupervisor,
        execution: Awaitable[RunResult],
        *,
        counts: bool = True,
    ) -> RunResult:
        """What comes of `execution`, told to the registry and to the instance's supervisor."""
        result: RunResult | None = None
        try:
            with cancel_when(run.broken_off, ""):
                result = await execution
        except CallerGoneError:
            result = cancelled(run, self._cancel_grace)
        finally:
            self._registry.finish_run(
                supervisor.name,
                instance.generation,
                ok=_success(result) if counts else None,
                execution_ms=result.execution_time_ms if result else 0.0,
            )
        supervisor.run_ended(instance, run.record.tool, result)
        if result.traceback:
            _log.warning("%s.%s raised\n%s", supervisor.name, run.record.tool, result.traceback)
        return result

    # What was left behind

    async def _take_up(self, left: LeftBehind) -> None:
        run = left.live()
        with suppress(RunLostError):
            if left.record is None:
                await self._resumed(run, left)
            else:
                await self._see_through(run, self._resumed(run, left))

    async def _resumed(self, run: LiveRun, left: LeftBehind) -> RunResult:
        """Raises `RunLostError`."""
        try:
            if left.instance.ended is not None:
                raise RunLostError
            self._registry.begin_run(left.supervisor.name, left.instance.generation)
            return await self._executed(
                run, left.instance, left.supervisor, self._result_of(left), counts=left.record is not None
            )
        finally:
            self._queues.end(run)

    async def _result_of(self, left: LeftBehind) -> RunResult:
        result = await self._sandbox.resume(
            left.instance, left.run_id, left.tool, timeout=left.instance.limits.timeout, elapsed=left.seconds
        )
        if result is None:
            raise RunLostError
        return result

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a defect in the orchestrator", exc_info=error)


def _tell(begun: asyncio.Future[RunView | RunResult], what: RunView | RunResult) -> None:
    if not begun.done():  # whoever asked may be gone
        begun.set_result(what)


def _success(result: RunResult | None) -> bool | None:
    """None: it counts neither way, since the plugin is not to blame for a caller's mistake."""
    if result is None:
        return None
    return True if result.ok else False if result.outcome in _COUNTED_AS_ERROR else None
