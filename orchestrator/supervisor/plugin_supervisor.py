"""PluginSupervisor: owns one plugin's instances. All state changes happen here, on the event loop, one by one."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from orchestrator.errors import ChannelError, EngineError, NotFoundError, OrchestratorError
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import Check
from orchestrator.sandbox.call import RunResult
from orchestrator.sandbox.channel import RuntimeStatus
from orchestrator.sandbox.policy import EffectiveLimits, effective_limits
from orchestrator.sandbox.run_verdict import verdict_of_run
from orchestrator.sandbox.verdict import (
    Evidence,
    Verdict,
    failed_start,
    judge,
    out_of_memory,
    startup_timeout,
)
from orchestrator.supervisor.instance import Instance, InstanceEndedError, new_instance
from orchestrator.supervisor.parts import Parts
from orchestrator.supervisor.startup import check_host, ensure_image, evidence_of, start_container
from orchestrator.supervisor.teardown import tear_down

_EXIT_LOOKS: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between looks at a container whose connection broke: the engine notes an exit some 40 ms after it."""

_PULSE: Final = 5.0
"""Seconds between questions to the control socket of a plugin that is well."""
_PULSE_DOUBT: Final = 1.0
"""The same after one that was not answered."""
_PULSE_MISSES: Final = 3
_DEFECT: Final = "a defect in the orchestrator; its log has the details. Report it, then restart the plugin."

_log = logging.getLogger(__name__)


class PluginSupervisor:
    """Starts, watches and ends the instances of one plugin.

    Operator commands (`start`, `stop`, `restart`) wait for one another; the end of an instance waits for none of them.
    """

    def __init__(self, plugin: DiscoveredPlugin, parts: Parts) -> None:
        self.name = plugin.name
        self._plugin = plugin
        self._parts = parts
        self._command = asyncio.Lock()
        self._instance: Instance | None = None
        self._last_verdict: Verdict | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._teardown: asyncio.Task[None] | None = None

    @property
    def instance(self) -> Instance | None:
        return self._instance

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
        async with self._command:
            await self._stop("An operator restarted it: a new instance is on its way.")
            await self._begin()

    async def stop(self, sentence: str = "An operator stopped it. Start it again with a restart.") -> None:
        """End the instance and return when its container is gone."""
        async with self._command:
            await self._stop(sentence)

    async def close(self) -> None:
        """Let go of the instance without ending it: its container stays."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._teardown is not None:
            await asyncio.gather(self._teardown, return_exceptions=True)
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
        return await self._parts.engine.logs(container, tail=tail) if container else ""

    async def follow_logs(self, *, tail: int) -> AsyncIterator[str]:
        """The last lines and those to come, until the container ends."""
        container = self._instance.container_id if self._instance else None
        if container:
            with contextlib.suppress(EngineError):
                async with self._parts.engine.follow_logs(container, tail=tail) as lines:
                    async for line in lines:
                        yield line if line.endswith("\n") else f"{line}\n"

    # What runs need

    async def ready_instance(self) -> Instance:
        """The instance, once it can take runs; waits while it starts. Raises `InstanceEndedError`."""
        if self._instance is None:
            raise InstanceEndedError(
                self._last_verdict or Verdict(ReasonCode.STOPPED, "The plugin has not been started.")
            )
        await self._instance.ready()
        return self._instance

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
            if instance.has_channel:
                self._spawn(instance, self._look_after(instance))

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
        if self._teardown is not None:
            await asyncio.shield(self._teardown)

    async def _begin(self) -> None:
        if self._teardown is not None:
            await asyncio.shield(self._teardown)
        parts, name = self._parts, self.name
        self._plugin = await asyncio.to_thread(parts.loader.reload, self._plugin)
        manifest = self._plugin.manifest
        if manifest is None:
            self._instance = None
            self._last_verdict = Verdict(
                ReasonCode.MANIFEST_INVALID, self._plugin.error or "The manifest is not valid."
            )
            generation = parts.registry.renew(name)
            parts.registry.mark_ended(name, generation, ReasonCode.MANIFEST_INVALID, self._last_verdict.reason)
            return
        limits = effective_limits(manifest, parts.settings)
        generation = parts.registry.renew(
            name, version=manifest.version, description=manifest.description, limits=limits.report(), tools=()
        )
        instance = new_instance(
            manifest, limits, deployment=parts.deployment, generation=generation, run_dir=parts.run_dir
        )
        self._instance = instance
        instance.bring_up = self._spawn(instance, self._bring_up(instance))

    async def _bring_up(self, instance: Instance) -> None:
        parts, folder = self._parts, self._plugin.folder
        try:
            if instance.manifest.requires_gpu:
                await parts.gpus.check()
            self._update(instance, checks=tuple(await asyncio.to_thread(check_host, parts, instance.manifest, folder)))
            instance.image_id = await ensure_image(parts, instance.manifest, folder)
            async with asyncio.timeout(None) as deadline:
                await start_container(parts, instance, folder, on_start=lambda: _begin_clock(deadline, instance.limits))
                gpus = parts.gpus.facts(instance.grant) if instance.grant else ()
                self._update(instance, container=_container_facts(instance, None), gpus=gpus)
                self._spawn(instance, self._watch(instance))
                self._spawn(instance, self._feel_pulse(instance))
                await instance.ready()
        except TimeoutError:
            self._end(instance, startup_timeout(instance.limits.startup_timeout))
        except InstanceEndedError as error:
            self._end(instance, error.verdict)
        except OSError as error:
            self._end(
                instance,
                Verdict(
                    ReasonCode.INIT_ERROR, f"The host refused: {error.strerror}. Look at disk space and permissions."
                ),
            )
        except OrchestratorError as error:
            self._end(instance, Verdict(ReasonCode.INIT_ERROR, str(error)))
        except Exception:  # noqa: BLE001 - a plugin that stays LOADED for ever would tell nobody
            _log.exception("%s: a defect in the orchestrator", self.name)
            self._end(instance, Verdict(ReasonCode.INIT_ERROR, f"The start met {_DEFECT}"))

    async def _watch(self, instance: Instance) -> None:
        """Follow what the container's supervisor says until the instance has ended."""
        misses = 0
        while instance.ended is None:
            try:
                async for status in instance.channel.watch():
                    misses = 0
                    self._take(instance, status)
            except ChannelError as error:
                _log.debug("%s: %s", self.name, error)
            misses += 1
            await self._look_after(instance, last=misses >= 3)

    async def _feel_pulse(self, instance: Instance) -> None:
        """Ask the control socket now and then: for fresh figures, and to find one that has fallen silent."""
        misses = 0
        while instance.ended is None:
            await asyncio.sleep(_PULSE_DOUBT if misses else _PULSE)
            try:
                status = await instance.channel.status()
            except ChannelError:
                misses += 1
            else:
                misses = 0
                self._take(instance, status)
            if misses >= _PULSE_MISSES and instance.ended is None:
                self._end(instance, await self._why_silent(instance))

    async def _why_silent(self, instance: Instance) -> Verdict:
        with contextlib.suppress(EngineError):
            if (await self._parts.engine.inspect(instance.container_id or "")).state == "paused":
                return Verdict(
                    ReasonCode.UNRESPONSIVE, "The container was paused from outside. Unpause it, then restart."
                )
        return judge(Evidence())

    def _take(self, instance: Instance, status: RuntimeStatus) -> None:
        if instance.ended is not None:
            return
        oom = status.oom_kills - instance.oom_kills
        instance.oom_kills = status.oom_kills
        peak = status.memory.get("peak_bytes")
        instance.peak_memory = peak if isinstance(peak, int) else instance.peak_memory
        host_checks = tuple(c for c in self._checks() if c.source != "container")
        self._update(
            instance,
            checks=host_checks + tuple(_container_check(check) for check in status.checks),
            container=_container_facts(instance, status),
        )
        if status.phase == "exited":
            self._end(
                instance,
                judge(
                    Evidence(
                        worker_exit_code=status.worker_exit_code,
                        worker_signal=status.worker_signal,
                        oom_kills=oom,
                        memory_limit=instance.limits.memory,
                    )
                ),
            )
        elif oom > 0:
            self._end(instance, out_of_memory(instance.limits.memory))
        elif status.phase == "failed":
            self._end(instance, failed_start(status.reason_code, status.reason, status.traceback))
        elif status.phase == "ready" and not instance.settled:
            tools = {tool["name"]: tool for tool in status.tools}
            self._parts.registry.update(self.name, instance.generation, tools=tuple(tools.values()))
            self._parts.registry.mark_initialized(self.name, instance.generation)
            instance.settle(tools)

    async def _look_after(self, instance: Instance, *, last: bool = False) -> None:
        """The connection broke: find out whether the container is gone, and why. `last`: if it runs, give it up."""
        for pause in _EXIT_LOOKS:
            await asyncio.sleep(pause)
            if instance.ended is not None:
                return None
            try:
                status = await self._parts.engine.inspect(instance.container_id or "")
            except NotFoundError:
                return self._end(instance, judge(Evidence(container_missing=True)))
            except EngineError:
                if last:
                    self._end(instance, judge(Evidence(engine_reachable=False)))
                return None
            if status.state in ("exited", "dead"):
                return self._end(instance, judge(evidence_of(status, instance)))
        if last:
            self._end(instance, judge(Evidence()))
        return None

    def _end(self, instance: Instance, verdict: Verdict) -> None:
        if instance.ended is not None:
            return
        self._last_verdict = verdict
        self._parts.registry.mark_ended(self.name, instance.generation, verdict.code, verdict.reason)
        instance.end(verdict)
        if instance.bring_up is not None and instance.bring_up is not asyncio.current_task():
            instance.bring_up.cancel()
        _log.warning("%s: %s: %s", self.name, verdict.code, verdict.reason, extra={"plugin": self.name})
        self._clear_away(instance, verdict)

    def _clear_away(self, instance: Instance, verdict: Verdict) -> None:
        async def clear() -> None:
            report, removal = await tear_down(self._parts, instance, verdict)
            self._update(instance, post_mortem=report)
            if removal.problem:
                self._update(
                    instance,
                    checks=(*self._checks(), Check("removal", ok=False, detail=removal.problem, source="engine")),
                )

        self._teardown = asyncio.get_running_loop().create_task(clear(), name=f"clear away {self.name}")

    def _update(self, instance: Instance, **facts: Any) -> None:
        self._parts.registry.update(self.name, instance.generation, **facts)

    def _checks(self) -> tuple[Check, ...]:
        record = self._parts.registry.get(self.name)
        return record.checks if record else ()

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
            self._end(instance, Verdict(ReasonCode.UNRESPONSIVE, f"The watch over the plugin met {_DEFECT}"))


def _begin_clock(deadline: asyncio.Timeout, limits: EffectiveLimits) -> None:
    deadline.reschedule(asyncio.get_running_loop().time() + limits.startup_timeout)


def _container_check(check: Mapping[str, Any]) -> Check:
    return Check(
        name=str(check.get("name", "")),
        ok=check.get("ok") is True,
        detail=str(check.get("detail", "")),
        source="container",
    )


def _container_facts(instance: Instance, status: RuntimeStatus | None) -> Mapping[str, Any]:
    memory = status.memory if status else {}
    return {
        "id": (instance.container_id or "")[:12] or None,
        "name": instance.identity.container_name,
        "image_id": instance.image_id,
        "memory_usage_bytes": memory.get("usage_bytes"),
        "memory_peak_bytes": memory.get("peak_bytes"),
        "cpu_seconds": status.cpu_seconds if status else None,
        "oom_kills": status.oom_kills if status else None,
    }
