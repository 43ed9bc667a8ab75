"""PluginSupervisor: owns one plugin's instances on the event loop. It alone starts and ends them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Final

from orchestrator.gpus import Grant
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import Check
from orchestrator.sandbox.call import RunResult
from orchestrator.sandbox.verdict import Verdict, verdict_of_run
from orchestrator.supervisor.adoption import Adopted
from orchestrator.supervisor.bring_up import Prepared, content_of
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance, InstanceEndedError, new_identity
from orchestrator.supervisor.instance_driver import InstanceDriver
from orchestrator.supervisor.log_follower import follow_logs
from orchestrator.supervisor.restart import Restart
from orchestrator.supervisor.start_verdict import verdict_of_manifest

_RESTARTED: Final = "An operator restarted it: a new instance is on its way."


class PluginSupervisor:
    """One plugin, and at most one live instance of it at a time.

    ================  =======================  ===========================  ==============================
    command or event  no instance              starting or ready            ended
    ================  =======================  ===========================  ==============================
    `start`           start a new one          -                            start a new one
    `restart`         start a new one          starting: end it, start a    start a new one
                                               new one; ready: prepare one,
                                               then end it, start the new
    `stop`            -                        end it, wait for removal     wait for removal
    `ready_instance`  refuse: never started,   wait until it is ready       refuse by its verdict; during a
                      or manifest invalid                                   restart wait for the new one
    `run_ended`       -                        end it, if the result says   -
    container died    -                        the driver finds out why     -
    container paused  -                        the driver looks, ends it    -
    GPU lost          -                        end it                       -
    engine's check    -                        record                       -
    `retry_removal`   what is left behind      what is left behind          what is left behind
    `close`           -                        let go, the container stays  wait for removal
    ================  =======================  ===========================  ==============================

    "Start a new one" waits until the last instance is removed or left behind, then reads the manifest: with an invalid
    one there is no instance, and the plugin is FAILED. No instance starts without a command. Commands wait for one
    another; the end of an instance waits for none of them. `InstanceDriver` has the table of one instance.

    To prepare an instance is all that can be done and can fail before another is stopped: manifest, host checks, image.
    The ready one serves meanwhile, and no command waits for it:

    ==========================  =====================================================================
    while a restart prepares    then
    ==========================  =====================================================================
    `restart`, same content     it joins: both end as the first does
    `restart`, another content  it begins anew, and the earlier one ends as this one does
    `stop`                      the restart is refused
    the instance ends           the restart goes on; runs wait for the new instance
    it cannot be prepared       the restart is refused; the instance stays as it is
    `close`                     let go, the container stays
    ==========================  =====================================================================
    """

    def __init__(self, plugin: DiscoveredPlugin, deps: SupervisorDeps) -> None:
        self.name = plugin.name
        self._plugin = plugin
        self._deps = deps
        self._command = asyncio.Lock()
        self._restarts = 0
        """Restarts under way."""
        self._preparation: Restart | None = None
        """The restart that prepares the next instance."""
        self._tasks: set[asyncio.Task[Verdict | None]] = set()
        self._driver: InstanceDriver | None = None
        """Of the newest instance."""
        self._earlier: list[InstanceDriver] = []
        """Of instances that ended, until nothing remains to be done for them."""
        self._changed = asyncio.Event()
        """Set, and replaced, when `next_instance` has an answer."""
        self._removed = False
        self._refusal = Verdict(ReasonCode.STOPPED, "The plugin has not been started.")
        """Why there is no instance, where there is none."""

    @property
    def instance(self) -> Instance | None:
        """The newest instance, also where it has ended."""
        return None if self._driver is None else self._driver.instance

    @property
    def expected_token(self) -> str | None:
        """The token of an instance that has a container, or may get one; None where there is none."""
        # A container that the engine made without an answer appears when its instance has long ended: nobody has it.
        if self._driver is None or (self._driver.instance.ended is not None and self._driver.removed):
            return None
        return self._driver.instance.identity.instance

    @property
    def folder(self) -> Path:
        """The plugin's folder, as last discovered."""
        return self._plugin.folder

    @property
    def restarting(self) -> bool:
        """An operator's restart is under way, its new instance not yet started."""
        return self._restarts > 0

    @property
    def idle(self) -> bool:
        """It has no instance, nothing is left of one, and no command is under way."""
        busy = self.restarting or self._command.locked() or self._alive()
        return not busy and all(driver.removed for driver in self._drivers())

    # Commands of operators

    async def start(self) -> None:
        """Start a new instance unless one is alive. Returns without waiting for it; the registry has its progress."""
        async with self._command:
            if not self._alive():
                await self._start_new()

    async def restart(self, wait: float = 0.0) -> Verdict | None:
        """Replace the instance by a new one, from the manifest as it is now. One that is ready serves on until the new
        one is prepared.

        Returns why that was refused: then the instance serves on. None once the new instance has begun. Raises
        `TimeoutError` after `wait` seconds where an image is built: the restart goes on.
        """
        slow = asyncio.Event()
        restart = self.begin_restart(slow)
        patience = asyncio.create_task(_elapsed(slow, wait))
        try:
            await asyncio.wait({restart, patience}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        if not restart.done():
            raise TimeoutError
        return restart.result()

    def begin_restart(self, slow: asyncio.Event) -> asyncio.Task[Verdict | None]:
        """As `restart`, which goes on when nobody waits for it. Sets `slow` when it begins what may take minutes."""
        # Before the lock: runs that come while this waits for it are to wait for the new instance.
        self._restarts += 1
        restart = asyncio.create_task(self._restart(slow), name=f"restart {self.name}")
        self._tasks.add(restart)
        restart.add_done_callback(self._restart_ended)
        return restart

    async def stop(self, reason: str = "An operator stopped it. Start it again with a restart.") -> None:
        """End the instance and return when its container is removed."""
        self._refuse_restart()  # at once: what it builds holds up nothing
        async with self._command:
            self._refuse_restart()  # one that came before this, and has begun since
            await self._stop(reason)

    def adopt(self, adopted: Adopted) -> None:
        """Continue with an instance that an earlier orchestrator started; the registry has it already."""
        self._plugin = replace(self._plugin, manifest=adopted.instance.manifest, error=None)
        self._driver = InstanceDriver(adopted.instance, self._deps)
        self._driver.adopt(adopted.status)

    async def close(self) -> None:
        """Let go of the instance without ending it: its container stays."""
        if self._preparation is not None:
            await self._preparation.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(driver.close() for driver in self._drivers()))

    async def wait_ready(self, timeout: float) -> None:
        """Returns when the newest instance takes runs or has ended, after `timeout` seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                newest = None
                while newest is not self.instance:
                    async with self._command:  # a restart that overtook this one has its own instance
                        newest = self.instance
                    if newest is not None:
                        with contextlib.suppress(InstanceEndedError):
                            await newest.wait_ready()

    async def logs(self, *, tail: int) -> str:
        """The last lines that the container printed; while there is none, those of the build for it. Raises
        `EngineError`.
        """
        container = self.instance.container_id if self.instance else None
        if container:
            return await self._deps.engine.logs(container, tail=tail)
        return await self.build_output(tail=tail) if self._building() else ""

    async def build_output(self, *, tail: int) -> str:
        """The last lines of the last build, or of the one that is under way."""
        build_output = self._deps.builder.build_output
        return await asyncio.to_thread(build_output, self.name, lines=tail, running=self._building())

    def follow_logs(self, *, tail: int) -> AsyncGenerator[str, None]:
        """The last lines and those to come, then those of the next instances, until the plugin is removed. See
        `log_follower`.
        """
        return follow_logs(self._deps.engine, self, tail=tail)

    async def next_instance(self, after: Instance | None) -> Instance | None:
        """The instance that replaces this one, once there is one; None where the plugin is removed."""
        while self.instance in (None, after):
            if self._removed:
                return None
            await self._changed.wait()
        return self.instance

    def removed(self) -> None:
        """It is no longer listed: nobody need wait for its next instance."""
        self._removed = True
        self._notify_changed()

    # Runs

    async def ready_instance(self) -> Instance:
        """The instance, once it can take runs; waits while it starts, and for the new one during a restart. Raises
        `InstanceEndedError`.
        """
        while True:
            instance = self.instance
            if instance is None:
                raise InstanceEndedError(self._refusal)
            try:
                await instance.wait_ready()
            except InstanceEndedError:
                if not self.restarting:
                    raise
                if self._preparation is not None:
                    await asyncio.wait({self._preparation.outcome})
                async with self._command:  # the restart's, until it has started the new instance
                    pass
                # The restart ended without a new instance.
                if self.instance is instance:
                    raise
            else:
                return instance

    def run_ended(self, instance: Instance, tool: str, result: RunResult) -> None:
        """Take account of a run's result: it may end its instance."""
        manifest = self._plugin.manifest
        tolerant = manifest is not None and manifest.failure_policy == "tolerant"
        verdict = verdict_of_run(tool, result, tolerant=tolerant)
        # A run may return after its instance was replaced, and must not end the new one.
        if verdict is not None and self._driver is not None and self._driver.instance is instance:
            self._driver.end(verdict)

    # Events of the engine and the GPUs; `token`: the `instance` of an identity

    def container_died(self, token: str, exit_code: int | None = None) -> None:
        if (driver := self._driver_of(token)) is not None:
            driver.container_died(exit_code)

    def ran_out_of_memory(self, token: str) -> None:
        if (driver := self._driver_of(token)) is not None:
            driver.ran_out_of_memory()

    def container_paused(self, token: str) -> None:
        if (driver := self._driver_of(token)) is not None:
            driver.container_paused()

    def add_engine_check(self, token: str, check: Check) -> None:
        if (driver := self._driver_of(token)) is not None and driver.instance.ended is None:
            driver.add_check(check)

    def gpu_lost(self, token: str, verdict: Verdict) -> None:
        if (driver := self._driver_of(token)) is not None:
            driver.end(verdict)

    def gpus_seen(self, grant: Grant) -> None:
        """Its GPUs were looked at."""
        if (driver := self._driver_of(grant.holder)) is not None:
            driver.gpus_seen(grant)

    def add_check(self, check: Check) -> None:
        """A finding about the newest instance, ended or not."""
        if self._driver is not None:
            self._driver.add_check(check)

    def retry_removal(self) -> None:
        """Try again to remove containers that were left behind."""
        for driver in self._drivers():
            driver.retry_removal()

    # Inside

    def _drivers(self) -> list[InstanceDriver]:
        return self._earlier if self._driver is None else [*self._earlier, self._driver]

    def _driver_of(self, token: str) -> InstanceDriver | None:
        driver = self._driver
        return driver if driver is not None and driver.instance.identity.instance == token else None

    async def _restart(self, slow: asyncio.Event) -> Verdict | None:
        async with self._command:
            instance = self.instance
            if instance is None or not instance.ready:
                await self._stop(_RESTARTED)
                await self._start_new()
                return None
            plugin = await asyncio.to_thread(self._deps.loader.reload, self._plugin)
            content = await asyncio.to_thread(content_of, plugin, self._deps)
            earlier = self._preparation
            joins = earlier is not None and earlier.same_as(content)
            restart = earlier if earlier is not None and joins else Restart(plugin, content, self._deps, slow)
            self._preparation = restart
            if earlier is not None and not joins:
                earlier.superseded_by(restart)
        if joins:
            slow.set()
        else:
            await self._replace(restart)
        return await asyncio.shield(restart.outcome)

    async def _replace(self, restart: Restart) -> None:
        """Replace the instance once a restart is prepared, unless it ends otherwise."""
        prepared = await restart.prepared()
        async with self._command:
            if self._preparation is not restart:
                return
            self._preparation = None
            if prepared is not None:
                try:
                    await self._stop(_RESTARTED)
                    await self._start_new(restart.plugin, prepared)
                finally:
                    restart.end(None)

    def _restart_ended(self, task: asyncio.Task[Verdict | None]) -> None:
        self._restarts -= 1
        self._tasks.discard(task)

    def _building(self) -> bool:
        record = self._deps.registry.get(self.name)
        return record is not None and record.activity is not None

    def _alive(self) -> bool:
        return self._driver is not None and self._driver.instance.ended is None

    def _refuse_restart(self) -> None:
        if self._preparation is not None:
            self._preparation.stop()
            self._preparation = None

    async def _stop(self, reason: str) -> None:
        if self._driver is not None:
            self._driver.end(Verdict(ReasonCode.STOPPED, reason))
        await self._torn_down()

    async def _torn_down(self) -> None:
        for driver in self._drivers():
            await driver.torn_down()

    async def _start_new(self, plugin: DiscoveredPlugin | None = None, prepared: Prepared | None = None) -> None:
        """Without `plugin` it is read anew."""
        # Else the new instance would find the GPUs of the old one leased.
        await self._torn_down()
        deps, name = self._deps, self.name
        found = await asyncio.to_thread(deps.loader.reload, self._plugin) if plugin is None else plugin
        self._plugin = found
        # What was left behind is removed later, by `retry_removal`.
        self._earlier = [driver for driver in self._drivers() if not driver.finished]
        self._driver = None
        manifest = found.manifest
        if manifest is None:
            self._refusal = verdict_of_manifest(found.error)
            generation = deps.registry.renew(name)
            deps.registry.mark_ended(name, generation, self._refusal.code, self._refusal.reason)
            return
        limits = effective_limits(manifest, deps.settings)
        generation = deps.registry.renew(
            name, version=manifest.version, description=manifest.description, limits=limits, tools=()
        )
        identity = new_identity(deps.deployment, name, generation)
        instance = Instance(manifest, limits, identity, deps.run_dir / identity.instance)
        self._driver = InstanceDriver(instance, deps)
        self._driver.start(found.folder, prepared)
        self._notify_changed()

    def _notify_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _elapsed(begun: asyncio.Event, seconds: float) -> None:
    """Returns `seconds` from now, but not before the event."""
    await asyncio.gather(begun.wait(), asyncio.sleep(seconds))
