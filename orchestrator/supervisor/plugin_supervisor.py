"""PluginSupervisor: one plugin's commands and events, one after the other on the event loop."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection, Coroutine, Sequence
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal

import msgspec

from orchestrator.formatting import format_duration
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import Check, PluginRecord
from orchestrator.sandbox.call import RunResult
from orchestrator.sandbox.verdict import Verdict, verdict_of_run
from orchestrator.supervisor.adoption import Adopted
from orchestrator.supervisor.bring_up import Prepared, content_of
from orchestrator.supervisor.candidate import template_of
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance, InstanceEndedError
from orchestrator.supervisor.instance_driver import InstanceDriver
from orchestrator.supervisor.instance_set import InstanceSet, Template
from orchestrator.supervisor.log_follower import follow_instance, follow_logs
from orchestrator.supervisor.parking import RecentUse
from orchestrator.supervisor.releases import (
    Command,
    Release,
    ReleaseFile,
    ReleaseStoreError,
    UpdateRefusedError,
    begins_from,
    require_allowed,
)
from orchestrator.supervisor.restart import Restart
from orchestrator.supervisor.start_verdict import verdict_of_manifest, verdict_of_preparation
from orchestrator.supervisor.update import AskedStrategy, Update
from orchestrator.supervisor.updater import Updater

_log = logging.getLogger(__name__)

_NOT_CALLED: Final = "It has not been called yet, and starts with its first run (ORCHESTRATOR_PARKED)."
_PARKED: Final = "An operator parked it. The next run starts it again."
_STILL_PARKED: Final = "It was parked before the orchestrator was started anew. The next run starts it again."
_STOPPED: Final = "An operator stopped it. A start brings it back."
_RESTARTED: Final = "An operator restarted it: a new instance is on its way."
_CHANGED: Final = "The orchestrator was started anew, and its folder has changed: a new instance is on its way."


class PluginSupervisor:
    """One plugin: commands of operators, runs, and events of its instances.

    ================  =======================  ===========================  ==============================
    command or event  no instance              starting or ready            ended
    ================  =======================  ===========================  ==============================
    `start`           start as many as wanted  start those that are missing start as many as wanted
    `restart`         start as many as wanted  none ready: end them, start  start as many as wanted
                                               new ones; else prepare,
                                               then end them, start new
    `restart_failed`  start as many as wanted  start those that are missing start as many as wanted
    `scale`           note the number          start or drain               note the number
    `stop`            -                        end them, wait for removal   wait for removal
    `ready_instance`  refuse: never started,   the free one with the        refuse by the verdict; during a
                      or manifest invalid      fewest runs; else wait       restart wait for a new one
    `run_ended`       -                        end it, if the result says   -
    container died    -                        the driver finds out why     -
    container paused  -                        the driver looks, ends it    -
    GPU lost          -                        end it                       -
    engine's check    -                        record                       -
    `retry_removal`   what is left behind      what is left behind          what is left behind
    `close`           -                        let go, containers stay      wait for removal
    ================  =======================  ===========================  ==============================

    "Start as many as wanted" waits until the last instances are removed or left behind, then reads the manifest: with
    an invalid one there is no instance, and the plugin is FAILED. Those that are missing are started from what the
    others were. Commands wait for one another; the end of an instance waits for none of them. `plan` decides which
    instances begin, are drained and end, `InstanceDriver` has the table of one instance.

    To prepare an instance is all that can be done and can fail before another is stopped: manifest, host checks, image.
    The ready ones serve meanwhile, and no command waits for it:

    ==========================  =====================================================================
    while a restart prepares    then
    ==========================  =====================================================================
    `restart`, same content     it joins: both end as the first does
    `restart`, another content  it begins anew, and the earlier one ends as this one does
    `stop`                      the restart is refused
    an instance ends            the restart goes on; runs wait for a new one where none is left
    it cannot be prepared       the restart is refused; the instances stay as they are
    `close`                     let go, the containers stay
    ==========================  =====================================================================
    """

    def __init__(self, plugin: DiscoveredPlugin, deps: SupervisorDeps) -> None:
        self.name = plugin.name
        self._plugin = plugin
        self._deps = deps
        self._command = asyncio.Lock()
        self._restarts = 0
        """Starts and restarts under way."""
        self._preparation: Restart | None = None
        """The restart that prepares the next instances."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._set = InstanceSet(plugin.name, deps, self._notify_changed, lambda: self.runs_waiting)
        self._file = ReleaseFile(deps.releases, plugin.name)
        self._updater = Updater(
            plugin.name, deps, self._set, self._file, on_switch=self._switched, on_change=self._notify_changed
        )
        self._changed: asyncio.Event | None = None
        """Where somebody waits: see `_change`."""
        self._removed = False
        self._runs_waiting = 0
        """Those for which `ready_instance` looks for an instance."""
        self.waiting_since = 0.0
        """When the first of the runs that wait for an instance came; the monotonic clock."""
        self.asked = False
        """An operator's command began the last instances: it waits for them."""
        self._recent = RecentUse()
        self._idle: asyncio.TimerHandle | None = None
        """Parks the instances when they have had no run for as long as the manifest says."""
        self._woken = False
        """A run began the instances that start."""
        self._refusal = Verdict(ReasonCode.STOPPED, "The plugin has not been started.")
        """Why there is no instance, where there is none."""
        self._adopting = False
        """The runs of adopted instances are not counted yet."""
        self._to_drain: frozenset[int] = frozenset()
        """The generations of adopted instances that are to end with their runs."""

    @property
    def instances(self) -> Collection[Instance]:
        """Oldest first; those that ended are among them until they are replaced."""
        return tuple(self._set)

    @property
    def instance(self) -> Instance | None:
        """The newest instance, also where it has ended."""
        return self._set.newest

    @property
    def expected_tokens(self) -> set[str]:
        """The tokens of instances that have a container, or may get one."""
        return self._set.tokens

    @property
    def folder(self) -> Path:
        """The plugin's folder, as last discovered."""
        return self._plugin.folder

    @property
    def manifest(self) -> Manifest | None:
        """As last read; None where it cannot be used."""
        return self._plugin.manifest

    @property
    def restarting(self) -> bool:
        """A start or restart is under way, its new instances not yet started."""
        return self._restarts > 0

    @property
    def idle(self) -> bool:
        """It has no instance, nothing is left of one, and no command is under way."""
        busy = self.restarting or self._command.locked() or self._set.beginning or bool(self._set.serving)
        return not busy and not self._updater.running and self._set.removed

    @property
    def returning(self) -> bool:
        """Where none takes runs, they wait: instances are on their way, or a run begins them."""
        return self.parked or self._coming

    @property
    def held(self) -> Literal["stopped", "parked"] | None:
        """Why the orchestrator's start begins none."""
        return self._file.state.held

    @property
    def updating(self) -> bool:
        """An update is under way."""
        return self._updater.under_way is not None

    @property
    def parked(self) -> bool:
        """A run begins its instances again."""
        return self._set.parked or self._uncalled

    @property
    def waking(self) -> bool:
        """It is parked, or starts because a run came."""
        return self.parked or (self._woken and self._coming)

    @property
    def busy(self) -> bool:
        """A run executes in one of its instances, or waits for one."""
        record = self._deps.registry.get(self.name)
        return self._runs_waiting > 0 or (record is not None and record.in_flight + record.queued > 0)

    # For the plan of the GPUs

    @property
    def record(self) -> PluginRecord | None:
        return self._deps.registry.get(self.name)

    @property
    def unsettled(self) -> bool:
        """A command is under way, which may replace or end its instances."""
        return self.restarting or self._updater.brings_up or self._adopting or self._command.locked()

    @property
    def runs_waiting(self) -> int:
        """Runs that no instance has taken yet."""
        record = self.record
        return self._runs_waiting + (0 if record is None else record.queued)

    @property
    def recent_runs(self) -> float:
        """Its runs, by `RecentUse`."""
        return self._recent.value(monotonic())

    def instance_with(self, token: str) -> Instance | None:
        """`token`: the `instance` of an identity. Also one that has ended, as long as its container may be there."""
        return self._set.instance_with(token)

    def close_for(self, generation: int, reason: str) -> None:
        """Let an instance go for another plugin: it takes no new runs, and is parked when those that it has, and those
        that wait for it now, have ended.
        """
        self._set.close_for(generation, Verdict(ReasonCode.PARKED, reason))
        if not self._set.serving:
            self._spawn(self._hold("parked"))

    # Commands of operators

    async def start(self, *, asked: bool = True) -> None:
        """Start the instances that are missing. Returns without waiting for them; the registry has their progress.
        `asked`: by an operator, who waits for them. Raises `UpdateRefusedError`.
        """
        self.asked = asked
        self._restarts += 1
        try:
            async with self._command:
                await self._allowed("start")
                await self._hold(None)
                if self._set.serving or (self._set.draining and not self._set.closing):
                    self._set.begin_missing()
                elif not self._set.beginning:
                    await self._start_new()
        finally:
            self._restarts -= 1
            self._notify_changed()

    def start_parked(self, manifest: Manifest) -> None:
        """Begin as parked: the first run, or a command, starts it."""
        self._begin_without(
            Verdict(ReasonCode.PARKED, _STILL_PARKED if self.held == "parked" else _NOT_CALLED), manifest
        )

    async def start_stopped(self) -> None:
        """Begin as stopped, as an operator left it: a command starts it."""
        if self._set.serving or self._set.draining:  # the orchestrator was killed before it had stopped them
            await self.stop()
        else:
            self._begin_without(Verdict(ReasonCode.STOPPED, _STOPPED), self.manifest)

    async def restart(self, wait: float = 0.0) -> Verdict | None:
        """Replace all instances by new ones, from the manifest as it is now. Those that are ready serve on until the
        new ones are prepared.

        Returns why that was refused: then they serve on. None once new instances have begun. Raises `TimeoutError`
        after `wait` seconds where an image is built: the restart goes on; and `UpdateRefusedError`.
        """
        require_allowed("restart", self._file.state)
        slow = asyncio.Event()
        self.asked = True
        restart = self._begin_restart(slow, _RESTARTED)
        patience = asyncio.create_task(_elapsed(slow, wait))
        try:
            await asyncio.wait({restart, patience}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        if not restart.done():
            raise TimeoutError
        return restart.result()

    def restart_changed(self) -> None:
        """Begin to replace adopted instances that a start would make differently now."""
        self.asked = False
        self._begin_restart(asyncio.Event(), _CHANGED)

    def _begin_restart(self, slow: asyncio.Event, why: str) -> asyncio.Task[Verdict | None]:
        """It goes on when nobody waits for it. Sets `slow` when it begins what may take minutes."""
        # Before the lock: runs that come while this waits for it are to wait for the new instances.
        self._restarts += 1
        restart = asyncio.create_task(self._restart(slow, why), name=f"restart {self.name}")
        self._tasks.add(restart)
        restart.add_done_callback(self._restart_ended)
        return restart

    async def stop(self, reason: str = _STOPPED, *, lasts: bool = True) -> None:
        """End the instances and return when their containers are removed. `lasts`: the orchestrator's next start begins
        none.
        """
        self._refuse_restart()  # at once: what it builds holds up nothing
        async with self._command:
            self._refuse_restart()  # one that came before this, and has begun since
            if self._updater.running or self.updating:  # its end may not have been written
                await self._updater.stop(reason)
            if lasts:
                await self._hold("stopped")
            self._stop_parked(Verdict(ReasonCode.STOPPED, reason))
            await self._set.end(Verdict(ReasonCode.STOPPED, reason))

    async def park(self, reason: str = _PARKED) -> bool:
        """Stop the instances until a run comes for them, or a command. False, and nothing happens, where one executes a
        run or a run waits, where one starts, and where none is alive for another reason than this. Raises
        `UpdateRefusedError`.
        """
        async with self._command:
            await self._allowed("park")
            if self.parked:
                return True
            if self.busy or not self._set.serving or self._set.beginning or self.restarting:
                return False
            self._set.park(reason)
            await self._hold("parked")
            return True

    async def scale(self, replicas: int) -> None:
        """Set the number of instances at a time, in place of the manifest's: it is on file before it takes effect.
        Returns without waiting for them. Raises `ReleaseStoreError`, `UpdateRefusedError`.
        """
        async with self._command:
            await self._allowed("scale")
            manifest = self._plugin.manifest
            own = None if manifest is not None and manifest.replicas == replicas else replicas
            await self._file.change(lambda state: msgspec.structs.replace(state, replicas=own))
            self.asked = True
            self._set.scale(replicas)

    async def update(self, strategy: AskedStrategy) -> Update:
        """Begin to bring up what the plugin's folder has now, proven before it takes runs. It goes on by itself.
        Raises `UpdateRefusedError`, `ReleaseStoreError`.
        """
        async with self._command:
            self._require_no_restart("update")
            self.asked = True
            return await self._updater.begin("update", strategy, self._plugin)

    async def revert(self) -> Update:
        """As `update`, to the former release."""
        async with self._command:
            self._require_no_restart("revert")
            self.asked = True
            return await self._updater.begin("revert", "auto", self._plugin)

    def updates(self) -> Sequence[Update]:
        """The newest first."""
        return self._file.state.updates

    async def wait_updated(self, update_id: str) -> None:
        """Returns when this update has ended."""
        while any(each.id == update_id and not each.ended for each in self.updates()):
            await self._change().wait()

    def adopt(self, adopted: Sequence[Adopted], drains: Collection[int] = ()) -> None:
        """Continue with instances that an earlier orchestrator started; the registry has them already. `drains`: the
        generations of those that are to end with their runs.
        """
        self._adopting = True
        self._updater.newest_seen = max(found.instance.generation for found in adopted)
        self._to_drain = frozenset(drains)
        manifest = adopted[-1].instance.manifest
        self._plugin = replace(self._plugin, manifest=manifest, error=None)
        # Of too many, none is drained yet: which of them have runs is not known.
        self._set.adopt(adopted, max(self._replicas(manifest), len(adopted)), self.folder)

    def settle_adopted(self) -> None:
        """Drain those of the adopted instances that are not wanted, now that their runs are counted, and go on with an
        update.
        """
        manifest = self._plugin.manifest
        self._adopting = False
        if self._updater.under_way is not None:
            self._set.hold()
            if manifest is not None and self._set.template is not None:  # not those that it drains
                self._set.expect(self._set.template, self._replicas(manifest))
        for generation in self._to_drain:
            self._set.drain(generation)
        self._updater.resume()
        if (
            self._updater.under_way is None
            and manifest is not None
            and self._set.replicas > (replicas := self._replicas(manifest))
        ):
            self._set.scale(replicas)

    async def close(self) -> None:
        """Let go of the instances without ending them: their containers stay."""
        if self._preparation is not None:
            await self._preparation.close()
        await self._updater.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._set.close()
        if self._idle is not None:  # last: the end of each task begins it anew
            self._idle.cancel()

    async def wait_ready(self, timeout: float) -> None:
        """Returns when no instance starts any more, after `timeout` seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    async with self._command:  # a restart that overtook this one has instances of its own
                        changed = self._change()
                        if not self._set.beginning:
                            return
                    await changed.wait()

    async def logs(self, *, tail: int, generation: int | None = None) -> str:
        """The last lines that a container printed: that of the newest instance, or of this generation. While there is
        none, those of the build for it. Raises `EngineError`.
        """
        chosen = self.instance if generation is None else self._instance_of(generation)
        if chosen is not None and chosen.container_id:
            return await self._deps.engine.logs(chosen.container_id, tail=tail)
        return await self.build_output(tail=tail) if self._building() else ""

    async def build_output(self, *, tail: int) -> str:
        """The last lines of the last build, or of the one that is under way."""
        build_output = self._deps.builder.build_output
        return await asyncio.to_thread(build_output, self.name, lines=tail, running=self._building())

    def follow_logs(self, *, tail: int, generation: int | None = None) -> AsyncGenerator[str, None]:
        """The last lines and those to come: of the newest instance and of the next ones, until the plugin is removed;
        or of this generation, until its end. See `log_follower`.
        """
        chosen = None if generation is None else self._instance_of(generation)
        if chosen is not None:
            return follow_instance(self._deps.engine, chosen, tail=tail)
        return follow_logs(self._deps.engine, self, tail=tail)

    async def next_instance(self, after: Instance | None) -> Instance | None:
        """The instance that replaces this one, once there is one; None where the plugin is removed."""
        while self.instance in (None, after):
            if self._removed:
                return None
            await self._change().wait()
        return self.instance

    def removed(self) -> None:
        """It is no longer listed: nobody need wait for its next instance."""
        self._removed = True
        self._notify_changed()

    # Runs

    def free_instance(self, tool: str) -> Instance | None:
        """The instance that takes the next run, of `tool`, the least loaded; None while none can."""
        instance = self._set.free_instance(tool)
        if instance is not None:
            self._recent.count(monotonic())
        return instance

    async def ready_instance(self, tool: str = "") -> Instance:
        """As `free_instance`, but waits while none can: they start, are full, or a restart is under way. Begins those
        that are parked. Raises `InstanceEndedError`.
        """
        now = monotonic()
        self._recent.count(now)
        if self._runs_waiting == 0:
            self.waiting_since = now
        self._runs_waiting += 1
        try:
            while (instance := self._set.free_instance(tool)) is None:
                if self.parked and not self._coming:
                    self._unpark()
                elif not (self._set.serving or self._set.closing or self._coming):
                    raise InstanceEndedError(self._set.cause or self._refusal)
                else:
                    self._deps.gpus.changed()
                    await self._change().wait()
        finally:
            self._runs_waiting -= 1
        return instance

    def run_ended(self, instance: Instance, tool: str, result: RunResult) -> None:
        """Take account of a run's result: it may end its instance."""
        tolerant = instance.manifest.failure_policy == "tolerant"
        verdict = verdict_of_run(tool, result, tolerant=tolerant)
        instance.used_at = monotonic()
        # A run may return after its instance was replaced, and must not end the new one.
        if verdict is not None and (driver := self._set.driver_of(instance.identity.instance)) is not None:
            driver.end(verdict)
        self.run_left()

    def run_left(self) -> None:
        """The place of a run is free: for one that waits, or for the end of an instance that is drained."""
        if self._set.draining:
            self._set.advance()
        else:  # nothing has become of an instance
            self._watch_idleness()
            self._wake()

    # Events of the engine and the GPUs

    def driver_of(self, token: str) -> InstanceDriver | None:
        """`token`: the `instance` of an identity."""
        return self._set.driver_of(token)

    def add_check(self, check: Check) -> None:
        """A finding about the newest instance, ended or not."""
        if self.instance is not None and (driver := self._set.driver_of(self.instance.identity.instance)) is not None:
            driver.add_check(check)

    def retry_removal(self) -> None:
        """Try again to remove containers that were left behind."""
        self._set.retry_removal()

    # Inside

    @property
    def _coming(self) -> bool:
        return self.restarting or self._set.beginning or self._updater.brings_up

    @property
    def _uncalled(self) -> bool:
        """It was parked before it ever had an instance."""
        return self._set.newest is None and self._refusal.code is ReasonCode.PARKED

    def _unpark(self) -> None:
        self.asked = False
        self._woken = True
        self._spawn(self._hold(None))
        # In a context of its own: what it logs is not the run's that came first.
        if self._set.parked:
            Context().run(self._set.unpark)
        else:
            self._restarts += 1  # now: one start for all that wait
            task = asyncio.create_task(self._start_uncalled(), name=f"start {self.name}", context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._restart_ended)

    async def _start_uncalled(self) -> Verdict | None:
        async with self._command:
            if self._uncalled and not self._updater.brings_up:
                await self._start_new()
        return None

    def _stop_parked(self, verdict: Verdict) -> None:
        if self._uncalled:
            self._refusal = verdict
            record = self._deps.registry.get(self.name)
            assert record is not None  # noqa: S101 - it is registered as long as it has a supervisor
            self._deps.registry.amend_failure(self.name, record.generation, verdict.code, verdict.reason)
        self._set.stop_parked(verdict)

    def _watch_idleness(self) -> None:
        """Park when nothing happens for as long as the manifest says; from now on, since something has happened."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        manifest = self._plugin.manifest
        if manifest is not None and manifest.idle.after is not None and self._set.serving:
            seconds = manifest.idle.after.total_seconds()
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(seconds, self._park_idle, seconds, context=Context())

    def _park_idle(self, seconds: float) -> None:
        busy = self.busy or self._coming or self._updater.running or self._command.locked()
        if self._set.serving and not busy:
            self._set.park(
                f"It had no run for {format_duration(seconds)} (`idle.after`). The next run starts it again."
            )
        elif self._set.serving:
            self._watch_idleness()

    def _instance_of(self, generation: int) -> Instance | None:
        return next((instance for instance in self._set if instance.generation == generation), None)

    def _replicas(self, manifest: Manifest) -> int:
        scaled = self._file.state.replicas
        return manifest.replicas if scaled is None else scaled

    async def _allowed(self, command: Command) -> None:
        """Raises `UpdateRefusedError`."""
        require_allowed(command, self._file.state)
        await self._updater.settled()

    def _require_no_restart(self, command: Literal["update", "revert"]) -> None:
        if self._preparation is not None:
            raise UpdateRefusedError(
                f"A restart of {self.name} prepares its new instances. Wait for its end, or stop the plugin, then "
                f"{command} again.",
                "RestartUnderWay",
            )

    def _switched(self, manifest: Manifest) -> None:
        self._plugin = replace(self._plugin, manifest=manifest, error=None)
        self._spawn(self._hold(None))

    async def _hold(self, held: Literal["stopped", "parked"] | None) -> None:
        """Have it on file whether the orchestrator's next start begins instances. A command is obeyed without."""
        try:
            await self._file.change(lambda state: msgspec.structs.replace(state, held=held))
        except ReleaseStoreError as error:
            _log.warning("%s: the orchestrator's next start will not know that it is %s: %s", self.name, held, error)

    def _begin_without(self, verdict: Verdict, manifest: Manifest | None) -> None:
        """No instance begins, for this reason."""
        if manifest is not None:
            limits = effective_limits(manifest, self._deps.settings)
            self._set.expect(Template(manifest, limits, self.folder), self._replicas(manifest))
        self._fail(verdict)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # In a context of its own: what it logs is not the run's that happens to come.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restart(self, slow: asyncio.Event, why: str) -> Verdict | None:
        async with self._command:
            await self._allowed("restart")
            await self._hold(None)
            if not any(instance.ready for instance in self._set.serving):
                await self._set.end(Verdict(ReasonCode.STOPPED, why))
                await self._start_new(anew=True)
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
            await self._replace(restart, why)
        return await asyncio.shield(restart.outcome)

    async def _replace(self, restart: Restart, why: str) -> None:
        """Replace the instances once a restart is prepared, unless it ends otherwise."""
        prepared = await restart.prepared()
        async with self._command:
            if self._preparation is not restart:
                return
            self._preparation = None
            if prepared is not None:
                try:
                    await self._set.end(Verdict(ReasonCode.STOPPED, why))
                    await self._start_new(restart.plugin, prepared)
                finally:
                    restart.end(None)

    def _restart_ended(self, task: asyncio.Task[Verdict | None]) -> None:
        self._restarts -= 1
        self._tasks.discard(task)
        self._notify_changed()

    def _building(self) -> bool:
        record = self._deps.registry.get(self.name)
        return record is not None and record.activity is not None

    def _refuse_restart(self) -> None:
        if self._preparation is not None:
            self._preparation.stop()
            self._preparation = None

    async def _start_new(
        self, plugin: DiscoveredPlugin | None = None, prepared: Prepared | None = None, *, anew: bool = False
    ) -> None:
        """Start as many as wanted. Without `plugin` from its folder as it is now or, unless `anew`, from the release on
        file where `begins_from` says so.
        """
        # Else the new instances would find the GPUs of the old ones leased.
        await self._set.torn_down()
        deps = self._deps
        if plugin is None:
            plugin = await asyncio.to_thread(deps.loader.reload, self._plugin)
            current = None if anew else await self._current(plugin)
            if current is not None:
                self._set.clear()
                try:
                    template = await template_of(deps, current, plugin.folder)
                except (InstanceEndedError, OSError) as error:
                    self._fail(verdict_of_preparation(error))
                else:
                    self._plugin = replace(plugin, manifest=template.manifest, error=None)
                    self._set.begin(template, self._replicas(template.manifest))
                return
        self._plugin = plugin
        self._set.clear()
        manifest = plugin.manifest
        if manifest is None:
            self._fail(verdict_of_manifest(plugin.error))
            return
        limits = effective_limits(manifest, deps.settings)
        self._set.begin(Template(manifest, limits, plugin.folder, prepared), self._replicas(manifest))

    async def _current(self, plugin: DiscoveredPlugin) -> Release | None:
        """The release on file, where a start begins instances from that and not from the folder."""
        state = self._file.state
        if not state.may_begin_current:
            return None
        content = await asyncio.to_thread(content_of, plugin, self._deps)
        return state.current if begins_from(state, content) == "current" else None

    def _fail(self, verdict: Verdict) -> None:
        """There can be no instance."""
        self._refusal = verdict
        generation = self._deps.registry.renew(self.name)
        self._deps.registry.mark_ended(self.name, generation, verdict.code, verdict.reason)

    def _notify_changed(self) -> None:
        coming = self._coming
        self._woken = self._woken and coming
        if self._set.parked and not coming and self.held is None:
            self._spawn(self._hold("parked"))
        self._watch_idleness()
        if (release := self._updater.unrecorded()) is not None:
            self._spawn(self._updater.record(release))
        self._updater.look()
        self._wake()

    def _wake(self) -> None:
        """Let those look again that wait for something here, or for GPUs that it has."""
        self._deps.gpus.changed()
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _change(self) -> asyncio.Event:
        """Set when something may have an answer that had none; to be waited for at once."""
        if self._changed is None:  # each run changes something, and as a rule nobody waits
            self._changed = asyncio.Event()
        return self._changed


async def _elapsed(begun: asyncio.Event, seconds: float) -> None:
    """Returns `seconds` from now, but not before the event."""
    await asyncio.gather(begun.wait(), asyncio.sleep(seconds))
