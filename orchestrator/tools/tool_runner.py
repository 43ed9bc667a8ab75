"""ToolRunner: admits runs, makes them in the sandbox, and reports their ends to registry, history and supervisor."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from orchestrator.access.principal import ANYONE, Principal
from orchestrator.errors import CallerDisconnectedError, ChannelError, OrchestratorError, RunAbortedError
from orchestrator.registry import PluginRecord, PluginRegistry
from orchestrator.registry.history import HistoryStore, RunRecord
from orchestrator.sandbox.call import Outcome, RunResult, ToolCall
from orchestrator.sandbox.cancel_when import cancel_when
from orchestrator.sandbox.sandbox_runner import Emit, PluginSandboxRunner
from orchestrator.supervisor.instance import Instance, InstanceEndedError
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor
from orchestrator.tools import refusals
from orchestrator.tools.admission import IdempotencyKeys
from orchestrator.tools.call_store import CallStore
from orchestrator.tools.draining import Drain
from orchestrator.tools.live_run import Abort, LiveRun, accepted
from orchestrator.tools.resending import may_be_sent_again
from orchestrator.tools.result_store import ResultStore
from orchestrator.tools.resumption import AdoptedInstance, OrphanedRun, match_runs
from orchestrator.tools.run_lookup import STARTING, RunLookup, RunView
from orchestrator.tools.run_observer import RunObserver, RunWatch, unobserved
from orchestrator.tools.run_queues import QueueFullError, RateExceededError, RunQueues

_log = logging.getLogger(__name__)

_TOO_EARLY: Final = "the caller disconnected before the run started"
_WHILE_IT_RAN: Final = "the caller disconnected, and the run was cancelled"
_STARTING: Final = msgspec.json.encode({"event": "progress", "fraction": None, "message": STARTING})
_COUNTED_AS_ERROR: Final = frozenset({Outcome.PLUGIN_FAILED, Outcome.TIMEOUT})


class RunLostError(OrchestratorError):
    """A run whose end is not known and never will be."""


class RunHandedOverError(OrchestratorError):
    """The next orchestrator goes on with a run."""


class ToolRunner:
    """`find` returns the supervisor of a plugin, None for an unknown name; `cancel_grace`: seconds that a cancelled run
    has to end by itself.
    """

    def __init__(
        self,
        registry: PluginRegistry,
        find: Callable[[str], PluginSupervisor | None],
        sandbox: PluginSandboxRunner,
        *,
        history: HistoryStore,
        results: ResultStore,
        calls: CallStore,
        cancel_grace: float,
        observe: RunObserver = unobserved,
    ) -> None:
        self._registry = registry
        self._find = find
        self._sandbox = sandbox
        self._history = history
        self._cancel_grace = cancel_grace
        self._observe = observe
        self._queues = RunQueues(registry)
        self._live: dict[str, LiveRun] = {}  # the accepted runs that have not ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = calls
        self.draining = False
        """No run is accepted any more."""
        self.idempotency_keys = IdempotencyKeys()
        self.results = results
        self.lookup = RunLookup(self._live, history, self._queues.position, self._waits_for_start)

    async def run(self, plugin: str, call: ToolCall, emit: Emit | None = None) -> RunResult:
        """The result of `call`. Never raises, except where it is cancelled."""
        with self._observe(plugin, call) as watch:
            admitted = self._admit(plugin, call, watch)
            if isinstance(admitted, RunResult):
                result = admitted
            else:
                run, supervisor = admitted
                result = await self._recorded(run, self._execute(run, supervisor, call, emit))
            watch.ended(result)
        return result

    async def start(self, plugin: str, call: ToolCall) -> RunView | RunResult:
        """Make `call` an asynchronous run. Returns the run once its acceptance is on file, or the result of a refused
        run.
        """
        accepted: asyncio.Future[RunView | RunResult] = asyncio.get_running_loop().create_future()
        task = self._spawn(self._in_background(plugin, replace(call, keep=True), accepted))
        await asyncio.wait((task, accepted), return_when=asyncio.FIRST_COMPLETED)
        if not accepted.done():
            task.result()  # raises the defect that ended it
        return accepted.result()

    async def cancel(self, run_id: str, principal: Principal = ANYONE) -> RunView | None:
        """Cancel a run: at once where it waits, else by a request to its container, which is stopped where the run does
        not end within the grace. Returns the run as it is then, None for one that `principal` does not see.
        """
        run = self._live.get(run_id)
        if run is not None and not principal.sees_run(run.record.plugin, run.record.caller):
            return None
        if run is not None and run.record.finished_at is None and not run.cancel_requested:
            run.cancel_requested = True
            if run.instance is None:
                run.abort()
                await run.ended.wait()
            else:
                self._spawn(run.cancel_with_grace(run.instance, self._cancel_grace))
        return await self.lookup.one(run_id, principal)

    async def wait(self, run_id: str, seconds: float) -> None:
        """Wait until the run has ended, for at most so many seconds."""
        if (run := self._live.get(run_id)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await run.ended.wait()

    def caller_disconnected(self, run_id: str) -> None:
        """The caller no longer waits for this run: if it is queued, it never starts; a stream stops at its next line.
        Where the caller did not choose the run's id, the run's end is requested from its container too, but not forced:
        a tool that never looks goes on to its end.
        """
        run = self._live.get(run_id)
        if run is None or run.caller_disconnected.done():
            return
        run.note_disconnect()
        if run.ends_with_caller and run.instance is not None and not run.cancel_requested:
            self._spawn(run.cancel_for_disconnect(run.instance))

    async def resume(self, asynchronous: Iterable[RunRecord], adopted: Iterable[AdoptedInstance]) -> None:
        """Resume the runs of an earlier orchestrator: `asynchronous` runs that the history has in flight, and the runs
        that execute in adopted containers. Call it before the first run.
        """
        records = {record.run_id: record for record in asynchronous}
        waiting = await asyncio.to_thread(self._calls.take)
        matched = match_runs((record for run_id, record in records.items() if run_id not in waiting), adopted)
        for record in matched.lost:
            self._history.run_interrupted(record)
        for orphan in matched.orphans:
            plugin = self._registry.get(orphan.supervisor.name)
            if plugin is not None and plugin.limits:
                self._queues.occupy(plugin, orphan.run_id, orphan.instance.generation)
                self._spawn(self._adopt(orphan))
        # In the order in which they came, behind those that execute.
        for record in records.values():
            if record.run_id in waiting:
                unheard: asyncio.Future[RunView | RunResult] = asyncio.get_running_loop().create_future()
                self._spawn(self._in_background(record.plugin, waiting[record.run_id], unheard, record))
        await asyncio.sleep(0)  # those that execute are counted then

    def _waits_for_start(self, plugin: str) -> bool:
        """Whether an accepted run that has no instance waits for one to start."""
        record = self._registry.get(plugin)
        return record is not None and record.ready == 0

    @property
    def busy_plugins(self) -> list[str]:
        """Names of plugins with runs that have not ended."""
        return sorted({run.record.plugin for run in self._live.values()})

    async def drain(self, seconds: float, at_once: asyncio.Event, *, containers_stay: bool) -> None:
        """Accept no new runs, and return when none is left: see `Drain`."""
        self.draining = True
        await asyncio.sleep(0)  # runs that `resume` has just spawned are among those in memory then
        await Drain(self._live, containers_stay=containers_stay).run(seconds, at_once)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # A run from its admission to its end

    def _admit(
        self, plugin: str, call: ToolCall, watch: RunWatch, earlier: RunRecord | None = None
    ) -> tuple[LiveRun, PluginSupervisor] | RunResult:
        """The queued run, or the result of a run that is refused. `earlier`: of a run that was accepted before."""
        record, supervisor = self._registry.get(plugin), self._find(plugin)
        if record is None or supervisor is None:
            return refusals.unknown_plugin(plugin)
        if (refusal := self._refusal(record, supervisor, call)) is not None:
            return refusal
        run = accepted(plugin, call, watch, earlier)
        try:
            if self._queues.admit(record, call, beyond_capacity=earlier is not None):
                self._history.run_accepted(run.record)
        except QueueFullError as error:
            return refusals.queue_full(record, str(error), error.turns)
        except RateExceededError as error:
            return refusals.rate_exceeded(str(error), error.wait)
        self.idempotency_keys.use(run.run_id)
        return run, supervisor

    def _refusal(self, record: PluginRecord, supervisor: PluginSupervisor, call: ToolCall) -> RunResult | None:
        if self.draining:
            return refusals.stopping()
        if call.run_id in self._live or self.idempotency_keys.used(call.run_id):
            return refusals.run_id_taken()
        if (host := supervisor.moved_to) is not None:
            return refusals.moved(record.name, host)
        ended = record.ended and not supervisor.returning
        if ended or not record.limits:  # no limits: its manifest has not been read, or is not valid
            return refusals.ended(record)
        # Nothing is started for a name that is none.
        if record.tools and not _has_tool(record, call.tool) and supervisor.parked:
            return refusals.unknown_tool(record.name, call.tool, [known["name"] for known in record.tools])
        return None

    async def _in_background(
        self,
        plugin: str,
        call: ToolCall,
        answer: asyncio.Future[RunView | RunResult],
        earlier: RunRecord | None = None,
    ) -> None:
        with suppress(RunHandedOverError), self._observe(plugin, call) as watch:
            admitted = self._admit(plugin, call, watch, earlier)
            if isinstance(admitted, RunResult):
                watch.ended(admitted)
                _resolve(answer, admitted)
                if earlier is not None:  # its caller comes for this later
                    await self._recorded(accepted(plugin, call, watch, earlier), self._refused_later(admitted))
                return
            run, supervisor = admitted

            async def work() -> RunResult:
                # On file before its caller is answered: the next orchestrator has to know it.
                await self._history.run_accepted(run.record)
                _resolve(answer, self.lookup.view(run))
                return await self._execute(run, supervisor, call, None)

            watch.ended(await self._recorded(run, work()))

    async def _refused_later(self, refusal: RunResult) -> RunResult:
        """The end of a run that an earlier orchestrator accepted. Raises `RunHandedOverError` for the next one."""
        if self.draining:
            raise RunHandedOverError
        return refusal

    async def _recorded(self, run: LiveRun, work: Coroutine[Any, Any, RunResult]) -> RunResult:
        """The result of `work`; the run is in memory meanwhile, and its end is on file afterwards."""
        self._live[run.run_id] = run
        result: RunResult | None = None
        handed_over = False
        try:
            result = await work
            if run.cut_short:
                await self._history.run_interrupted(run.record)
                return result
            result = await self._stored(run, result)
            await self._history.run_finished(run.end(result), success=_success(result))
            # Only now, with the result on file, may the container forget it.
            if run.record.asynchronous and run.instance is not None and run.instance.ended is None:
                with suppress(ChannelError):
                    await run.instance.channel.forget(run.run_id)
        except RunHandedOverError:
            # Its container has it, or else its call is on file.
            handed_over = run.instance is not None or (run.call is not None and await self._calls.save(run.call))
            raise
        finally:
            if result is None and not handed_over:
                self._history.run_interrupted(run.record)
            self.results.end_run(run.run_id)
            del self._live[run.run_id]
            run.ended.set()
        return result

    async def _stored(self, run: LiveRun, result: RunResult) -> RunResult:
        """`result`, which is on file now where somebody may look for it later; or why its files are not."""
        if not (run.record.asynchronous or result.files):
            return result
        if await self.results.store(run.record, result) or not result.files:
            return result
        return refusals.files_not_stored()

    async def _execute(
        self, run: LiveRun, supervisor: PluginSupervisor, call: ToolCall, emit: Emit | None
    ) -> RunResult:
        try:
            with cancel_when(run.aborted, RunAbortedError):
                instance = self._free_instance(run, supervisor, call.tool)
                if instance is None:
                    instance = await self._ready_instance(run, supervisor, call, emit)
                if call.tool not in instance.tools:
                    return refusals.unknown_tool(supervisor.name, call.tool, instance.tools)
                call = run.watch.started(call)
                limit = instance.limits.timeout
                if call.retry:
                    result = await self._send_perhaps_twice(run, supervisor, instance, call, emit, time_limit=limit)
                else:
                    result = await self._send(run, supervisor, instance, call, emit, time_limit=limit)
                return _cause_named(run, result)
        except RunAbortedError:
            return self._aborted(run, supervisor)
        except CallerDisconnectedError as error:
            return RunResult(Outcome.CALLER_DISCONNECTED, error=str(error))
        except InstanceEndedError as error:
            return refusals.unavailable(error.verdict.reason, error.verdict.code)
        finally:
            self._queues.release(run)

    def _free_instance(self, run: LiveRun, supervisor: PluginSupervisor, tool: str) -> Instance | None:
        """Where the run has to wait for nothing."""
        if run.caller_disconnected.done() or self._queues.waits(run.run_id):
            return None
        return supervisor.free_instance(tool)

    async def _ready_instance(
        self, run: LiveRun, supervisor: PluginSupervisor, call: ToolCall, emit: Emit | None
    ) -> Instance:
        """Raises `CallerDisconnectedError`, `InstanceEndedError`."""
        with cancel_when(run.caller_disconnected, CallerDisconnectedError, _TOO_EARLY):
            # Once its body is here: a proxy may stop sending it when the response begins.
            starting = emit is not None and supervisor.waking and _received(call)
            if emit is not None and starting and (taken := emit((_STARTING,))) is not None:
                await taken
            await self._queues.wait(run)
            return await supervisor.ready_instance(call.tool)

    async def _send_perhaps_twice(
        self,
        run: LiveRun,
        supervisor: PluginSupervisor,
        instance: Instance,
        call: ToolCall,
        emit: Emit | None,
        *,
        time_limit: float,
    ) -> RunResult:
        """As `_send`; once more to another instance within the same time, where this one dies under the run."""
        clock = asyncio.get_running_loop().time
        end = clock() + time_limit

        def again(result: RunResult) -> bool:
            return _may_be_sent_again(run, instance, call, result, end - clock())

        result = await self._send(run, supervisor, instance, call, emit, time_limit=time_limit, uncounted=again)
        if not again(result):
            return result
        try:
            async with asyncio.timeout_at(end):
                other = await supervisor.ready_instance(call.tool)
        except (InstanceEndedError, TimeoutError):  # without another in time the first result stands
            self._count(supervisor.name, instance, result)
            return result
        return await self._send(run, supervisor, other, call, emit, time_limit=round(end - clock(), 1))

    async def _send(
        self,
        run: LiveRun,
        supervisor: PluginSupervisor,
        instance: Instance,
        call: ToolCall,
        emit: Emit | None,
        *,
        time_limit: float,
        uncounted: Callable[[RunResult], bool] | None = None,
    ) -> RunResult:
        """The result of the call in this instance. `time_limit`: seconds. `uncounted`: whether it is not the run's
        end.
        """
        now = self._registry.begin_run(run.record.plugin, instance.generation, run.record.caller)
        self._history.run_started(run.start(instance, call, now))
        self._queues.executes(run.run_id, instance.generation)
        sink = run.sink(emit, self.results.files_of(run.run_id))
        execution = self._sandbox.run(instance, call, timeout=time_limit, sink=sink)
        return await self._reported(run, instance, supervisor, execution, uncounted=uncounted)

    async def _reported(
        self,
        run: LiveRun,
        instance: Instance,
        supervisor: PluginSupervisor,
        execution: Awaitable[RunResult],
        *,
        uncounted: Callable[[RunResult], bool] | None = None,
    ) -> RunResult:
        """The result of `execution`, reported to the registry and to the instance's supervisor."""
        result: RunResult | None = None
        try:
            result = await execution
        finally:
            # One that the orchestrator leaves behind goes on in its container: that is not to end because it drains.
            if result is not None or run.abort_reason is Abort.CANCELLED:
                counts = result is None or uncounted is None or not uncounted(result)
                self._count(supervisor.name, instance, result, counts=counts)
                if result is None:
                    supervisor.run_left()
        supervisor.run_ended(instance, run.record.tool, result, run.record.caller)
        if result.traceback:
            _log.warning("%s.%s raised\n%s", supervisor.name, run.record.tool, result.traceback)
        return result

    def _count(self, plugin: str, instance: Instance, result: RunResult | None, *, counts: bool = True) -> None:
        self._registry.finish_run(
            plugin,
            instance.generation,
            ok=_success(result) if counts else None,
            execution_ms=result.execution_time_ms if result else 0.0,
        )

    def _aborted(self, run: LiveRun, supervisor: PluginSupervisor) -> RunResult:
        """The result of an aborted run. Raises `RunHandedOverError`."""
        if run.abort_reason is Abort.HANDED_OVER:
            raise RunHandedOverError
        if run.abort_reason is Abort.STOPPING:  # the instance lives on
            run.cut_short = run.instance is not None
            return refusals.cut_short(run.run_id) if run.cut_short else refusals.stopping()
        result = run.cancelled_result(self._cancel_grace)
        if run.instance is not None:
            supervisor.run_ended(run.instance, run.record.tool, result, run.record.caller)
        return result

    # Runs of an earlier orchestrator

    async def _adopt(self, orphan: OrphanedRun) -> None:
        run = orphan.live()
        with suppress(RunLostError, RunHandedOverError):
            if orphan.record is None:
                await self._resumed(run, orphan)
            else:
                await self._recorded(run, self._resumed(run, orphan))

    async def _resumed(self, run: LiveRun, orphan: OrphanedRun) -> RunResult:
        """Raises `RunLostError`."""
        try:
            if orphan.instance.ended is not None:
                raise RunLostError
            self._registry.begin_run(orphan.supervisor.name, orphan.instance.generation, run.record.caller)
            with cancel_when(run.aborted, RunAbortedError):
                return await self._reported(
                    run,
                    orphan.instance,
                    orphan.supervisor,
                    self._answer(orphan),
                    uncounted=lambda _: orphan.record is None,
                )
        except RunAbortedError:
            return self._aborted(run, orphan.supervisor)
        finally:
            self._queues.release(run)

    async def _answer(self, orphan: OrphanedRun) -> RunResult:
        for instance in (orphan.instance, *orphan.elsewhere):
            result = await self._sandbox.resume(
                instance,
                orphan.run_id,
                orphan.tool,
                timeout=instance.limits.timeout,
                elapsed=orphan.seconds,
                # Nobody waits for those of a synchronous run.
                files=self.results.files_of(orphan.run_id) if orphan.record is not None else None,
            )
            if result is not None:
                return result
        raise RunLostError

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a defect in the orchestrator", exc_info=error)


def _has_tool(record: PluginRecord, tool: str) -> bool:
    return tool in [known["name"] for known in record.tools]


def _received(call: ToolCall) -> bool:
    return isinstance(call.body, bytes) or call.body.received


def _resolve(answer: asyncio.Future[RunView | RunResult], value: RunView | RunResult) -> None:
    if not answer.done():  # cancelled, where the caller has disconnected
        answer.set_result(value)


def _may_be_sent_again(run: LiveRun, instance: Instance, call: ToolCall, result: RunResult, left: float) -> bool:
    return may_be_sent_again(
        result,
        # A body that was passed on as it came is not there any more.
        wanted=call.retry and isinstance(call.body, bytes) and not run.caller_disconnected.done(),
        idempotent=instance.tools[call.tool].get("idempotent") is True,
        sent=1,
        seconds_left=left,
        passed_on=run.response_bytes > 0,
    )


def _cause_named(run: LiveRun, result: RunResult) -> RunResult:
    if result.outcome is Outcome.CANCELLED and run.caller_disconnected.done() and not run.cancel_requested:
        return replace(result, outcome=Outcome.CALLER_DISCONNECTED, error=_WHILE_IT_RAN)
    return result


def _success(result: RunResult | None) -> bool | None:
    """None where it counts neither way."""
    if result is None:
        return None
    # The plugin is not to blame for a caller's mistake.
    return True if result.ok else False if result.outcome in _COUNTED_AS_ERROR else None
