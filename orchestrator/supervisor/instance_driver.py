"""InstanceDriver: one instance from its start, or its adoption, to its removal. Alone writes its `Instance`."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Final

from orchestrator.gpus import Grant
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import Check
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.sandbox.verdict import Verdict, verdict_of_status
from orchestrator.supervisor.bring_up import start_container
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.limits import limits_unsupported, missing_limits
from orchestrator.supervisor.preparation import Prepared, prepare
from orchestrator.supervisor.record_writer import RecordWriter
from orchestrator.supervisor.start_verdict import is_defect, verdict_of_start, verdict_of_watch, with_known_trouble
from orchestrator.supervisor.teardown import retry_removal, tear_down
from orchestrator.supervisor.watch import Observation, Watch, find_pause

_NO_GPU_GRANTED: Final = (
    "It has no GPU of the orchestrator's: use less memory, or set `requires_gpu` and `gpu.memory` in the manifest, "
    "then restart the plugin."
)

_STATUS_DELAY: Final = 1.0  # seconds that a status may be on its way

_log = logging.getLogger(__name__)


class InstanceDriver:
    """Drives one instance.

    =========================  ===================  ===================  ==================  =============
    event                      starting             ready                ended               left behind
    =========================  ===================  ===================  ==================  =============
    status: ready              INITIALIZED → ready  record figures       -                   -
    status: its worker ended   → ended              → ended              -                   -
    check of a witness         record               record               record              record
    start failed, or too slow  → ended              -                    -                   -
    silent, or stream broken   → ended              → ended              -                   -
    container died             inspect → ended      inspect → ended      it has stopped      remove again
    container paused           inspect → ended      inspect → ended      -                   -
    `end`: run, stop, GPU      → ended              → ended              -                   -
    container removed          -                    -                    done                done
    removal failed             -                    -                    → left behind       -
    removed after all          -                    -                    -                   done, and the cause
                                                                                             replaces KILL_FAILED
    `retry_removal`            -                    -                    -                   remove again
    =========================  ===================  ===================  ==================  =============

    → ended: record the verdict (STOPPED only once the container has stopped), cancel the start, start the teardown. The
    first verdict counts; only KILL_FAILED may stand in its place, as long as the container lives.
    """

    def __init__(self, instance: Instance, deps: SupervisorDeps, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called when the instance is ready, has ended, is torn down or removed."""
        self.instance = instance
        self._on_change = on_change
        self._deps = deps
        self._record = RecordWriter(instance, deps.registry)
        self._watch: Watch | None = None
        self._reported_at = -inf
        """When the engine last reported its end, or a kill in it; the loop's clock."""
        self._end_reports = _Coalesced(self._find_end)
        self._pause_reports = _Coalesced(self._end_if_paused)
        self._tasks: set[asyncio.Task[None]] = set()
        # Not among the tasks, which `close` cancels: a teardown ends by its own bounds.
        self._teardown: asyncio.Task[None] | None = None
        self._left_behind = False
        """Its container could not be stopped, or not be removed."""
        self._began = asyncio.get_running_loop().time()
        """When all that it is made of was there."""

    def start(self, folder: Path, prepared: Prepared | None = None) -> None:
        """Start to bring it up from the plugin's folder, beginning with what is not prepared; returns at once."""
        self.instance.bring_up = self._spawn(self._bring_up(folder, prepared))

    def adopt(self, status: RuntimeStatus) -> None:
        """Continue with an instance that an earlier orchestrator started; the registry has it already."""
        # First: else its status would be recorded as the step to INITIALIZED, which the registry has already.
        self.instance.started.set()
        self.instance.mark_ready({tool["name"]: tool for tool in status.tools})
        self._record.write_unlimited(missing_limits(self.instance.limits, status.limits))
        self._fold_status(status)
        if self.instance.ended is None:
            self._start_watch()

    @property
    def finished(self) -> bool:
        """No task of it runs, and its container is removed."""
        return not self._tasks and self.removed

    @property
    def torn_down_or_left(self) -> bool:
        """It has ended, and its container is removed or left behind."""
        return self._teardown is not None and self._teardown.done()

    @property
    def removed(self) -> bool:
        """Its container is removed, or was never made."""
        return not self._left_behind and (self._teardown is None or self._teardown.done())

    def container_died(self, exit_code: int | None = None) -> None:
        """The engine reports the container's end, or no longer knows it."""
        if exit_code is not None:
            self.instance.exit_code = exit_code
            self._reported_at = asyncio.get_running_loop().time()
        self.instance.container_died.set()  # the start and the teardown wait for it too
        if self.instance.ended is not None:
            self.retry_removal()
        elif self._watch is not None and self.instance.has_channel:
            self._end_reports.request(self._spawn)

    def ran_out_of_memory(self) -> None:
        """The engine reports that a process in the container was killed for memory."""
        self.instance.oom_reported = True
        self._reported_at = asyncio.get_running_loop().time()

    def container_paused(self) -> None:
        """The engine reports that the container is paused, or was."""
        if self.instance.ended is None:
            self._pause_reports.request(self._spawn)

    def add_check(self, check: Check) -> None:
        self._record.add_checks(check)

    def gpus_seen(self, grant: Grant) -> None:
        """Its GPUs were looked at."""
        if self.instance.ended is None and self._watch is not None:
            self._record.write(gpus=self._deps.gpus.facts(grant))
            self._record.add_checks(*self._deps.gpus.checks(grant))

    def end(self, verdict: Verdict) -> None:
        """End it by this verdict, unless it has ended."""
        instance = self.instance
        if instance.ended is not None:
            return
        if not instance.ready and self._deps.known_engine is not None:
            verdict = with_known_trouble(verdict, self._deps.known_engine.known_trouble)
        if verdict.code is ReasonCode.GPU_OUT_OF_MEMORY:  # whose memory it was, as long as it holds its own
            blame = self._deps.gpus.blame(instance.grant) if instance.grant is not None else _NO_GPU_GRANTED
            verdict = replace(verdict, reason=f"{verdict.reason.rstrip('. ')}. {blame}")
        if verdict.code is not ReasonCode.STOPPED:  # that is true once the container has stopped
            self._record.end(verdict)
        instance.mark_ended(verdict)
        # The start may be what ends it, and must not cancel itself.
        if instance.bring_up is not None and instance.bring_up is not asyncio.current_task():
            instance.bring_up.cancel()
        self._teardown = asyncio.get_running_loop().create_task(
            self._tear_down(verdict), name=f"teardown {instance.identity.plugin}"
        )
        # Only when it is done: `_tear_down` itself is not, where it could call this.
        self._teardown.add_done_callback(lambda _: self._on_change())
        self._on_change()

    def stop_parked(self, verdict: Verdict) -> None:
        """A parked instance is stopped: no run is to begin the plugin again."""
        if self.instance.ended is not None and self.instance.ended.code is ReasonCode.PARKED:
            self.instance.mark_ended(verdict)
            self._record.restop(verdict)
            self._on_change()

    async def torn_down(self) -> None:
        """Returns when it is removed, or could not be. At once for one that has not ended."""
        if self._teardown is not None:
            await asyncio.shield(self._teardown)  # never cancelled: it ends by its own bounds

    def retry_removal(self) -> None:
        """Try again to remove a container that was left behind."""
        if self._left_behind and self._teardown is not None and self._teardown.done():
            self._teardown = asyncio.get_running_loop().create_task(self._retry_removal())
            self._teardown.add_done_callback(lambda _: self._on_change())

    async def close(self) -> None:
        """Let go of the instance without ending it: its container stays."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self.torn_down(), return_exceptions=True)
        await self.instance.close_channel()

    # Inside

    async def _bring_up(self, folder: Path, prepared: Prepared | None) -> None:
        deps, instance, add_checks = self._deps, self.instance, self._record.add_checks
        try:
            if prepared is None:
                prepared = await prepare(deps, instance.manifest, instance.limits, folder, on_checks=add_checks)
            else:
                add_checks(*prepared.checks)
            self._began = asyncio.get_running_loop().time()
            instance.identity = replace(instance.identity, content=prepared.content)
            instance.image_id = prepared.image_id
            # Set when the engine starts the container: to wait for a GPU or for other starts is not the plugin's time.
            async with asyncio.timeout(None) as deadline:
                seconds, clock = instance.limits.startup_timeout, asyncio.get_running_loop().time
                await start_container(deps, instance, folder, on_start=lambda: deadline.reschedule(clock() + seconds))
                self._start_watch()
                await instance.wait_ready()
        except Exception as error:  # noqa: BLE001 - else the plugin would stay LOADED for ever
            if is_defect(error):
                _log.exception("%s: a defect in the orchestrator", instance.identity.plugin)
            self.end(verdict_of_start(error, instance.limits))

    def _start_watch(self) -> None:
        grant = self.instance.grant
        if grant is not None:
            self._deps.gpus.track(grant.holder, self.instance.container_id or "")
        self._record.write_container(self._deps.gpus.facts(grant) if grant else ())
        watch = self._watch = Watch(self._deps.engine, self.instance)
        self._spawn(self._fold_all(watch.follow_status()))
        self._spawn(self._fold_all(watch.poll_liveness()))

    async def _fold_all(self, observations: AsyncGenerator[Observation]) -> None:
        async with contextlib.aclosing(observations):
            async for observation in observations:
                match observation:
                    case RuntimeStatus():
                        self._fold_status(observation)
                    case Check():
                        self._record.add_checks(observation)
                    case Verdict():
                        self.end(observation)

    def _fold_status(self, status: RuntimeStatus) -> None:
        instance = self.instance
        if instance.ended is not None:
            return
        # The runtime counts from the container's start; only new kills are evidence.
        oom = status.oom_kills - instance.oom_kills
        instance.oom_kills, instance.runs = status.oom_kills, status.runs
        # It lives, and counts its kills itself: what the engine reported of its end was not so. One that has just been
        # reported may be right all the same, and this status from before it.
        if asyncio.get_running_loop().time() > self._reported_at + _STATUS_DELAY:
            instance.exit_code, instance.oom_reported = None, False
        peak = status.memory.get("peak_bytes")
        instance.peak_memory = peak if isinstance(peak, int) else instance.peak_memory
        self._record.write_status(status)
        limits = instance.limits
        verdict = self._judge_limits(status) or verdict_of_status(
            status,
            oom_kills=oom,
            memory_limit=instance.memory_limit,
            pids_limit=limits.pids,
            shm_limit=limits.shm,
            scratch_limit=limits.scratch,
        )
        if verdict is not None:
            self.end(verdict)
        elif status.phase == "ready" and not instance.ready:
            tools = {tool["name"]: tool for tool in status.tools}
            # The tools before the state: a reader that sees INITIALIZED finds them. The waiting runs last: they need
            # that state.
            self._record.write(tools=tuple(tools.values()))
            name, generation = instance.identity.plugin, instance.generation
            self._deps.registry.mark_initialized(name, generation)
            # To wait for others to leave a GPU is no part of it.
            began = max(self._began, instance.granted_at or -inf)
            self._deps.registry.set_start_seconds(name, asyncio.get_running_loop().time() - began)
            _log.info("%s: instance %d is ready", name, generation, extra={"plugin": name})
            instance.mark_ready(tools)
            self._on_change()

    def _judge_limits(self, status: RuntimeStatus) -> Verdict | None:
        """The verdict on a container that is not held to its limits; what need not hold is recorded."""
        instance = self.instance
        # Once: later changes are an operator's own (`docker update`), and end no run.
        if instance.ready:
            return None
        missing = missing_limits(instance.limits, status.limits, self._deps.settings.allow_unlimited)
        if missing:
            engine = self._deps.known_engine
            return limits_unsupported(missing, instance.limits, said=instance.engine_said, engine=engine)
        self._record.write_unlimited(missing_limits(instance.limits, status.limits))
        return None

    async def _find_end(self) -> None:
        if self._watch is not None and (verdict := await self._watch.find_end()) is not None:
            self.end(verdict)

    async def _end_if_paused(self) -> None:
        verdict = await find_pause(self._deps.engine, self.instance)
        if verdict is not None:
            self.end(verdict)

    async def _tear_down(self, verdict: Verdict) -> None:
        try:
            self._left_behind = not await tear_down(self._deps, self.instance, verdict, self._record)
        finally:
            self.instance.torn_down.set()
        if self._left_behind and self.instance.container_died.is_set():  # it ended in the meantime
            await self._retry_removal()

    async def _retry_removal(self) -> None:
        self._left_behind = not await retry_removal(self._deps, self.instance, self._record)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # Of an instance that has ended, an error only means that its channel was closed under the task.
        if not task.cancelled() and (error := task.exception()) is not None and self.instance.ended is None:
            _log.error("%s: a defect in the orchestrator", self.instance.identity.plugin, exc_info=error)
            self.end(verdict_of_watch())


class _Coalesced:
    """Work that one task at a time does: all requests that come meanwhile are one more round. So a flood of the
    engine's events costs no flood of questions.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._running = False
        self._requested = False

    def request(self, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._requested = True
        if not self._running:
            self._running = True
            spawn(self._rounds())

    async def _rounds(self) -> None:
        try:
            while self._requested:
                self._requested = False
                await self._work()
        finally:
            self._running = False
