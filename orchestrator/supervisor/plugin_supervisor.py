"""PluginSupervisor: owns one plugin's instances from begin to end, on the event loop, one by one."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from orchestrator.errors import EngineError
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import Check
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.sandbox.call import RunResult
from orchestrator.sandbox.verdict import Verdict, verdict_of_run, verdict_of_status
from orchestrator.supervisor.adoption import Adopted
from orchestrator.supervisor.clearance import Clearance
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.facts import container_checks, container_facts
from orchestrator.supervisor.failures import is_defect, verdict_of_start, verdict_of_watch
from orchestrator.supervisor.fingerprint import fingerprint
from orchestrator.supervisor.instance import Instance, InstanceEndedError, new_identity
from orchestrator.supervisor.recorder import Recorder
from orchestrator.supervisor.startup import check_host, ensure_image, start_container
from orchestrator.supervisor.watch import Watch

_log = logging.getLogger(__name__)


class PluginSupervisor:
    """Starts, watches and ends the instances of one plugin.

    Operator commands (`start`, `stop`, `restart`) wait for one another; the end of an instance waits for none of them.
    """

    def __init__(self, plugin: DiscoveredPlugin, deps: SupervisorDeps) -> None:
        self.name = plugin.name
        self._plugin = plugin
        self._deps = deps
        self._command = asyncio.Lock()
        self._restarts = 0
        """That wait for the command's turn, or have it."""
        self._instance: Instance | None = None
        self._last_verdict: Verdict | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: Watch | None = None
        self._recorder = Recorder(self.name, deps.registry)
        self._clearance = Clearance(self.name, deps, self._recorder)

    def adopt(self, adopted: Adopted) -> None:
        """Go on with an instance that an earlier orchestrator started; the registry knows it already."""
        instance = self._instance = adopted.instance
        instance.settle({tool["name"]: tool for tool in adopted.status.tools})
        self._take(instance, adopted.status)
        if instance.ended is None:
            self._look_on(instance)

    @property
    def instance(self) -> Instance | None:
        return self._instance

    @property
    def restarting(self) -> bool:
        """An operator's restart is on its way to a new instance."""
        return self._restarts > 0

    @property
    def tolerant(self) -> bool:
        manifest = self._plugin.manifest
        return manifest is not None and manifest.failure_policy == "tolerant"

    # What operators ask for

    async def start(self) -> None:
        """Begin a new instance unless one is alive. Returns once it has begun; the registry tells how it fares."""
        async with self._command:
            if not self._alive():
                await self._begin()

    async def restart(self) -> None:
        """End the instance, if one is alive, and begin a new one from the manifest as it is now."""
        self._restarts += 1
        try:
            async with self._command:
                await self._stop("An operator restarted it: a new instance is on its way.")
                await self._begin()
        finally:
            self._restarts -= 1

    async def stop(self, sentence: str = "An operator stopped it. Start it again with a restart.") -> None:
        """End the instance and return when its container is gone."""
        async with self._command:
            await self._stop(sentence)

    async def close(self) -> None:
        """Let go of the instance without ending it: its container stays."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._clearance.done(), return_exceptions=True)
        if self._instance is not None:
            await self._instance.close_channel()

    async def settled(self, patience: float) -> None:
        """Returns when the instance takes runs or has ended, after `patience` seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                newest = None
                while newest is not self._instance:
                    async with self._command:  # a restart that overtook this one has its own instance
                        newest = self._instance
                    if newest is not None:
                        with contextlib.suppress(InstanceEndedError):
                            await newest.ready()

    async def logs(self, *, tail: int) -> str:
        """The last lines that the container printed; empty while there is none. Raises `EngineError`."""
        container = self._instance.container_id if self._instance else None
        return await self._deps.engine.logs(container, tail=tail) if container else ""

    async def follow_logs(self, *, tail: int) -> AsyncIterator[str]:
        """The last lines and those to come, until the container ends."""
        container = self._instance.container_id if self._instance else None
        if container:
            with contextlib.suppress(EngineError):
                async with self._deps.engine.follow_logs(container, tail=tail) as lines:
                    async for line in lines:
                        yield line if line.endswith("\n") else f"{line}\n"

    # What runs need

    async def ready_instance(self) -> Instance:
        """The instance, once it can take runs; waits while it starts, and for the new one while an operator restarts
        it. Raises `InstanceEndedError`.
        """
        while True:
            instance = self._instance
            if instance is None:
                raise InstanceEndedError(
                    self._last_verdict or Verdict(ReasonCode.STOPPED, "The plugin has not been started.")
                )
            try:
                await instance.ready()
            except InstanceEndedError:
                if not self.restarting:
                    raise
                async with self._command:  # the restart's, until it has begun the new instance
                    pass
                if self._instance is instance:
                    raise
            else:
                return instance

    def run_ended(self, instance: Instance, tool: str, result: RunResult) -> None:
        """Take in what became of a run: it may be the end of its instance."""
        verdict = verdict_of_run(tool, result, tolerant=self.tolerant)
        if verdict is not None:
            self._end(instance, verdict)

    # What the engine tells

    def container_died(self, instance_token: str) -> None:
        """The engine says that the container of this instance ended, or is not there any more."""
        instance = self._instance
        if instance is not None and instance.identity.instance == instance_token and instance.ended is None:
            instance.container_died.set()
            if self._watch is not None and instance.has_channel:
                self._spawn(instance, self._watch.look_after())

    def engine_says(self, instance_token: str, check: Check) -> None:
        """The engine's word as one more witness: what its own health check found."""
        instance = self._instance
        if instance is not None and instance.identity.instance == instance_token and instance.ended is None:
            self._recorder.note(instance, check)

    def note(self, check: Check) -> None:
        """A witness's word that concerns the newest instance, ended or not."""
        if self._instance is not None:
            self._recorder.note(self._instance, check)

    def retry_removal(self) -> None:
        """Try again to do away with an instance that could not be."""
        self._clearance.retry()

    def gpu_lost(self, holder: str, verdict: Verdict) -> None:
        """A GPU of this instance is gone."""
        if self._instance is not None and self._instance.identity.instance == holder:
            self._end(self._instance, verdict)

    # Inside: an instance from begin to end

    def _alive(self) -> bool:
        return self._instance is not None and self._instance.ended is None

    async def _stop(self, sentence: str) -> None:
        if self._alive() and self._instance is not None:
            self._end(self._instance, Verdict(ReasonCode.STOPPED, sentence))
        await self._clearance.done()

    async def _begin(self) -> None:
        await self._clearance.done()
        deps, name = self._deps, self.name
        self._plugin = await asyncio.to_thread(deps.loader.reload, self._plugin)
        manifest = self._plugin.manifest
        if manifest is None:
            self._instance = None
            self._last_verdict = Verdict(
                ReasonCode.MANIFEST_INVALID, self._plugin.error or "The manifest is not valid."
            )
            generation = deps.registry.renew(name)
            deps.registry.mark_ended(name, generation, ReasonCode.MANIFEST_INVALID, self._last_verdict.reason)
            return
        limits = effective_limits(manifest, deps.settings)
        generation = deps.registry.renew(
            name, version=manifest.version, description=manifest.description, limits=limits.report(), tools=()
        )
        identity = new_identity(deps.deployment, name, generation)
        instance = self._instance = Instance(manifest, limits, identity, deps.run_dir / identity.instance)
        instance.bring_up = self._spawn(instance, self._bring_up(instance))

    async def _bring_up(self, instance: Instance) -> None:
        deps, folder = self._deps, self._plugin.folder
        try:
            if instance.manifest.requires_gpu:
                await deps.gpus.check()
            self._recorder.note(instance, *await asyncio.to_thread(check_host, deps, instance.manifest, folder))
            content = await asyncio.to_thread(fingerprint, deps, instance.manifest, instance.limits, folder)
            instance.identity = replace(instance.identity, content=content)
            instance.image_id = await ensure_image(deps, instance.manifest, folder)
            async with asyncio.timeout(None) as deadline:
                seconds, clock = instance.limits.startup_timeout, asyncio.get_running_loop().time
                await start_container(deps, instance, folder, on_start=lambda: deadline.reschedule(clock() + seconds))
                self._look_on(instance)
                await instance.ready()
        except Exception as error:  # noqa: BLE001 - a plugin that stays LOADED for ever would tell nobody
            if is_defect(error):
                _log.exception("%s: a defect in the orchestrator", self.name)
            self._end(instance, verdict_of_start(error, instance.limits))

    def _look_on(self, instance: Instance) -> None:
        """From now on its witnesses are heard."""
        gpus = self._deps.gpus.facts(instance.grant) if instance.grant else ()
        self._recorder.write(instance, container=container_facts(instance), gpus=gpus)
        watch = self._watch = Watch(
            self._deps.engine,
            instance,
            take=partial(self._take, instance),
            note=partial(self._recorder.note, instance),
            end=partial(self._end, instance),
        )
        self._spawn(instance, watch.follow())
        self._spawn(instance, watch.feel_pulse())

    def _take(self, instance: Instance, status: RuntimeStatus) -> None:
        if instance.ended is not None:
            return
        oom = status.oom_kills - instance.oom_kills
        instance.oom_kills = status.oom_kills
        peak = status.memory.get("peak_bytes")
        instance.peak_memory = peak if isinstance(peak, int) else instance.peak_memory
        self._recorder.note(instance, *container_checks(status), container=container_facts(instance, status))
        verdict = verdict_of_status(status, oom_kills=oom, memory_limit=instance.limits.memory)
        if verdict is not None:
            self._end(instance, verdict)
        elif status.phase == "ready" and not instance.settled:
            tools = {tool["name"]: tool for tool in status.tools}
            self._recorder.write(instance, tools=tuple(tools.values()))
            self._deps.registry.mark_initialized(self.name, instance.generation)
            instance.settle(tools)

    def _end(self, instance: Instance, verdict: Verdict) -> None:
        if instance.ended is not None:
            return
        self._last_verdict = verdict
        if verdict.code is not ReasonCode.STOPPED:  # that is true once the container has stopped
            self._recorder.ended(instance, verdict)
        instance.end(verdict)
        if instance.bring_up is not None and instance.bring_up is not asyncio.current_task():
            instance.bring_up.cancel()
        self._clearance.begin(instance, verdict)

    def _spawn(self, instance: Instance, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, instance))
        return task

    def _done(self, instance: Instance, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # Of an instance that has ended, an error only says that its channel was closed under the task.
        if not task.cancelled() and (error := task.exception()) is not None and instance.ended is None:
            _log.error("%s: a defect in the orchestrator", self.name, exc_info=error)
            self._end(instance, verdict_of_watch())
