"""PluginSupervisor: one plugin's commands and events, one after the other on the event loop."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, Literal

from msgspec.structs import replace

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import Check, PluginRecord
from orchestrator.sandbox.call import RunResult
from orchestrator.sandbox.verdict import Verdict, verdict_of_run
from orchestrator.supervisor.adoption import Adopted
from orchestrator.supervisor.demand import Demand
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.hand_over import Epoch, moved_sentence
from orchestrator.supervisor.instance import Instance, InstanceEndedError
from orchestrator.supervisor.instance_driver import InstanceDriver
from orchestrator.supervisor.instance_set import InstanceSet
from orchestrator.supervisor.logs import PluginLogs
from orchestrator.supervisor.parker import Parker
from orchestrator.supervisor.release_store import ReleaseFile
from orchestrator.supervisor.releases import Release, UpdateRefusedError, require_allowed
from orchestrator.supervisor.starter import Starter
from orchestrator.supervisor.update import AskedStrategy, Update
from orchestrator.supervisor.updater import Updater

_PARKED: Final = "An operator parked it. The next run starts it again."
_STOPPED: Final = "An operator stopped it. A start brings it back."
_NOT_PLACED: Final = "It was never started on this host, where only what a command starts serves (ORCHESTRATOR_PLACED)."
_LOOK_INTERVAL: Final = 0.1  # seconds
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
    instances begin, are drained and end, `InstanceDriver` has the table of one instance, `Starter` that of a restart
    that prepares its instances.
    """

    def __init__(self, plugin: DiscoveredPlugin, deps: SupervisorDeps) -> None:
        self.name = plugin.name
        self._deps = deps
        self._command = asyncio.Lock()
        self.demand = Demand()
        self._set = InstanceSet(plugin.name, deps, self._notify_changed, lambda: self.runs_waiting)
        self._roster = self._set.roster
        self._file = ReleaseFile(deps.releases, plugin.name, placed=deps.settings.placed)
        self._updater = Updater(
            plugin.name, deps, self._set, self._file, on_switch=self._switched, on_change=self._notify_changed
        )
        self._starter = Starter(
            plugin, deps, self._set, self._file, self._updater, command=self._command, on_change=self._notify_changed
        )
        self._parker = Parker(
            self._set,
            self._file,
            self._starter,
            self._updater,
            demand=self.demand,
            registry=deps.registry,
            command=self._command,
        )
        self.logs = PluginLogs(plugin.name, deps, self)
        self._changed: asyncio.Event | None = None
        """Where somebody waits: see `_change`."""
        self._removed = False
        self._adopting = False
        """The runs of adopted instances are not counted yet."""
        self._to_drain: frozenset[int] = frozenset()
        """The generations of adopted instances that are to end with their runs."""

    @property
    def instances(self) -> Collection[Instance]:
        """Oldest first; those that ended are among them until they are replaced."""
        return tuple(self._roster)

    @property
    def instance(self) -> Instance | None:
        """The newest instance, also where it has ended."""
        return self._roster.newest

    @property
    def expected_tokens(self) -> set[str]:
        """The tokens of instances that have a container, or may get one."""
        return self._roster.tokens

    @property
    def folder(self) -> Path:
        """The plugin's folder, as last discovered."""
        return self._starter.folder

    @property
    def manifest(self) -> Manifest | None:
        """As last read; None where it cannot be used."""
        return self._starter.plugin.manifest

    @property
    def restarting(self) -> bool:
        """A start or restart is under way, its new instances not yet started."""
        return self._starter.under_way > 0

    @property
    def idle(self) -> bool:
        """It has no instance, nothing is left of one, and no command is under way."""
        busy = self.restarting or self._command.locked() or self._set.beginning or bool(self._roster.serving)
        return not busy and not self._updater.running and self._roster.removed

    @property
    def returning(self) -> bool:
        """Where none takes runs, they wait: instances are on their way, or a run begins them."""
        return self.parked or self._starter.coming

    @property
    def held(self) -> Literal["stopped", "parked"] | None:
        """Why the orchestrator's start begins none."""
        return self._file.state.held

    @property
    def stopped(self) -> bool:
        """Nothing but a command begins it here: an operator stopped it, or it was handed over, or is being."""
        return self._file.state.stopped

    @property
    def unplaced(self) -> bool:
        """It waits for a command that starts it here: a front places plugins, and has not placed it on this host."""
        return self._deps.settings.placed and not self._file.state.placed

    @property
    def moved_to(self) -> str | None:
        """The host that it was handed over to, or is being: it takes no new runs here."""
        return self._file.state.moved_to

    @property
    def epoch(self) -> Epoch:
        """The highest seen."""
        return self._file.state.epoch

    @property
    def updating(self) -> bool:
        """An update is under way."""
        return self._updater.under_way is not None

    @property
    def parked(self) -> bool:
        """A run begins its instances again."""
        return self._parker.parked

    @property
    def waking(self) -> bool:
        """It is parked, or starts because a run came."""
        return self._parker.waking

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
        return self.demand.waiting + (0 if record is None else record.queued)

    @property
    def waiting_since(self) -> float:
        """When the first of those came that look for an instance; the event loop's clock."""
        return self.demand.waiting_since

    @property
    def asked(self) -> bool:
        """An operator's command began the last instances: it waits for them."""
        return self.demand.asked

    @property
    def recent_runs(self) -> float:
        """Its runs, by `RecentUse`."""
        return self.demand.recent_runs

    def instance_with(self, token: str) -> Instance | None:
        """`token`: the `instance` of an identity. Also one that has ended, as long as its container may be there."""
        return self._roster.instance_with(token)

    def close_for(self, generation: int, reason: str) -> None:
        """Let an instance go for another plugin: it takes no new runs, and is parked when those that it has, and those
        that wait for it now, have ended.
        """
        self._parker.close_for(generation, reason)

    # Commands of operators. `caller`: the name of the key that they come with

    async def start(self, *, asked: bool = True, caller: str | None = None) -> None:
        """Start the instances that are missing. Returns without waiting for them; the registry has their progress.
        `asked`: by an operator, who waits for them. Raises `UpdateRefusedError`.
        """
        self.demand.asked = asked
        await self._starter.start(caller)

    def start_parked(self, manifest: Manifest) -> None:
        """Begin as parked: the first run, or a command, starts it."""
        self._parker.begin_parked(manifest)

    async def start_stopped(self) -> None:
        """Begin as stopped, as an operator left it: a command starts it."""
        reason = _STOPPED if self.held else _NOT_PLACED
        reason = reason if self.moved_to is None else moved_sentence(self.name, self.moved_to)
        # The orchestrator was killed before it had stopped them.
        if self._roster.serving or self._roster.draining or self.updating:
            await self.stop(reason)
        else:
            self._starter.begin_without(Verdict(ReasonCode.STOPPED, reason), self.manifest)

    async def restart(self, wait: float = 0.0, caller: str | None = None) -> Verdict | None:
        """Replace all instances by new ones, from the manifest as it is now. Those that are ready serve on until the
        new ones are prepared.

        Returns why that was refused: then they serve on. None once new instances have begun. Raises `TimeoutError`
        after `wait` seconds where an image is built: the restart goes on; and `UpdateRefusedError`.
        """
        require_allowed("restart", self._file.state)
        slow = asyncio.Event()
        self.demand.asked = True
        restart = self._starter.restart(slow, Verdict(ReasonCode.STOPPED, _RESTARTED, caller=caller))
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
        self.demand.asked = False
        self._starter.restart(asyncio.Event(), Verdict(ReasonCode.STOPPED, _CHANGED))

    async def stop(self, reason: str = _STOPPED, *, lasts: bool = True, caller: str | None = None) -> None:
        """End the instances and return when their containers are removed. `lasts`: the orchestrator's next start begins
        none.
        """
        self._starter.refuse_restart()  # at once: what it builds holds up nothing
        async with self._command:
            self._starter.refuse_restart()  # one that came before this, and has begun since
            if self._updater.running or self.updating:  # its end may not have been written
                await self._updater.stop(reason)
            if lasts:
                await self._file.hold("stopped")
            verdict = Verdict(ReasonCode.STOPPED, reason, caller=caller)
            self._parker.stop(verdict)
            await self._set.end(verdict)

    async def record_move(self, to: str | None, epoch: Epoch) -> None:
        """Have on file that it was moved to another host, or, with None, here. Raises `ReleaseStoreError`."""
        await self._file.change(lambda state: replace(state, moved_to=to, epoch=epoch))

    async def unused(self, seconds: float) -> None:
        """Returns when no run executes or waits, when a command has started it here again, and after so many seconds at
        the latest.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._parker.busy and self.moved_to is not None:
                    # The end of a run that is counted after its place was free wakes nobody.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._change().wait(), _LOOK_INTERVAL)

    async def show_stopped(self, reason: str) -> None:
        """Why it ended here before counts no more: it is shown as stopped for this reason."""
        async with self._command:
            cause = self._roster.cause or self._starter.refusal
            if cause.code is not ReasonCode.STOPPED and not self._roster.serving and not self._starter.coming:
                await self._set.torn_down()
                self._set.clear()
                self._starter.begin_without(Verdict(ReasonCode.STOPPED, reason), self.manifest)

    async def park(self, reason: str = _PARKED, *, caller: str | None = None) -> bool:
        """Stop the instances until a run comes for them, or a command. False, and nothing happens, where one executes a
        run or a run waits, where one starts, and where none is alive for another reason than this. Raises
        `UpdateRefusedError`.
        """
        return await self._parker.park(Verdict(ReasonCode.PARKED, reason, caller=caller))

    async def scale(self, replicas: int, caller: str | None = None) -> None:
        """Set the number of instances at a time, in place of the manifest's: it is on file before it takes effect.
        Returns without waiting for them. Raises `ReleaseStoreError`, `UpdateRefusedError`.
        """
        async with self._command:
            await self._updater.allow("scale")
            manifest = self.manifest
            own = None if manifest is not None and manifest.replicas == replicas else replicas
            await self._file.change(lambda state: replace(state, replicas=own))
            self.demand.asked, self._set.caller = True, caller
            self._set.scale(replicas)

    async def update(self, strategy: AskedStrategy, caller: str | None = None) -> Update:
        """Begin to bring up what the plugin's folder has now, proven before it takes runs. It goes on by itself.
        Raises `UpdateRefusedError`, `ReleaseStoreError`.
        """
        async with self._command:
            self._require_no_restart("update")
            self.demand.asked, self._set.caller = True, caller
            return await self._updater.begin("update", strategy, self._starter.plugin)

    async def revert(self, caller: str | None = None) -> Update:
        """As `update`, to the former release."""
        async with self._command:
            self._require_no_restart("revert")
            self.demand.asked, self._set.caller = True, caller
            return await self._updater.begin("revert", "auto", self._starter.plugin)

    def updates(self) -> Sequence[Update]:
        """The newest first."""
        return self._file.state.updates

    def releases(self) -> tuple[Release | None, Release | None]:
        """What its instances are made from, and what a revert goes back to."""
        return self._file.state.current, self._updater.revert_target()

    async def wait_updated(self, update_id: str) -> None:
        """Returns when this update has ended."""
        while any(each.id == update_id and not each.ended for each in self.updates()):
            await self._change().wait()

    def adopt(self, adopted: Sequence[Adopted], drains: Collection[int] = ()) -> None:
        """Continue with instances that an earlier orchestrator started; the registry has them already. `drains`: the
        generations of those that are to end with their runs.
        """
        self._adopting = True
        self._updater.seen(max(found.instance.generation for found in adopted))
        self._to_drain = frozenset(drains)
        manifest = adopted[-1].instance.manifest
        self._starter.became(manifest)
        # Of too many, none is drained yet: which of them have runs is not known.
        self._set.adopt(adopted, max(self._starter.replicas(manifest), len(adopted)), self.folder)

    def settle_adopted(self) -> None:
        """Drain those of the adopted instances that are not wanted, now that their runs are counted, and go on with an
        update.
        """
        manifest = self.manifest
        self._adopting = False
        if self._updater.under_way is not None:
            self._set.hold()
            if manifest is not None and self._set.template is not None:  # not those that it drains
                self._set.expect(self._set.template, self._starter.replicas(manifest))
        for generation in self._to_drain:
            self._set.drain(generation)
        self._updater.resume()
        if (
            self._updater.under_way is None
            and manifest is not None
            and self._set.replicas > (replicas := self._starter.replicas(manifest))
        ):
            self._set.scale(replicas)

    async def close(self) -> None:
        """Let go of the instances without ending them: their containers stay."""
        await self._starter.close()
        await self._updater.close()
        await self._file.close()
        await self._set.close()
        self._parker.close()  # last: the end of each of them has it look anew

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
        instance = self._roster.free_instance(tool)
        if instance is not None:
            self.demand.taken()
        return instance

    async def ready_instance(self, tool: str = "") -> Instance:
        """As `free_instance`, but waits while none can: they start, are full, or a restart is under way. Begins those
        that are parked. Raises `InstanceEndedError`.
        """
        instance = None
        self.demand.came()
        try:
            while (instance := self._roster.free_instance(tool)) is None:
                if self.parked and not self._starter.coming:
                    self._parker.unpark()
                elif not (self._roster.serving or self._roster.closing or self._starter.coming):
                    raise InstanceEndedError(self._roster.cause or self._starter.refusal)
                else:
                    self._deps.gpus.changed()
                    await self._change().wait()
        finally:
            self.demand.left()
            if instance is None and self._roster.closing:  # one may have stayed for this run alone
                self._set.advance()
        return instance

    def run_ended(self, instance: Instance, tool: str, result: RunResult, caller: str | None = None) -> None:
        """Take account of the result of a run of `caller`: it may end its instance."""
        tolerant = instance.manifest.failure_policy == "tolerant"
        verdict = verdict_of_run(tool, result, tolerant=tolerant)
        instance.used_at = monotonic()
        # A run may return after its instance was replaced, and must not end the new one.
        if verdict is not None and (driver := self._roster.driver_of(instance.identity.instance)) is not None:
            driver.end(dataclasses.replace(verdict, caller=caller))
        self.run_left()

    def run_left(self) -> None:
        """The place of a run is free: for one that waits, or for the end of an instance that is drained."""
        self.demand.served_at = monotonic()
        if self._roster.draining:
            self._set.advance()
        else:  # nothing has become of an instance
            self._wake()

    # Events of the engine and the GPUs

    def driver_of(self, token: str) -> InstanceDriver | None:
        """`token`: the `instance` of an identity."""
        return self._roster.driver_of(token)

    def add_check(self, check: Check) -> None:
        """A finding about the newest instance, ended or not."""
        if (
            self.instance is not None
            and (driver := self._roster.driver_of(self.instance.identity.instance)) is not None
        ):
            driver.add_check(check)

    def retry_removal(self) -> None:
        """Try again to remove containers that were left behind."""
        self._set.retry_removal()

    # Inside

    def _require_no_restart(self, command: Literal["update", "revert"]) -> None:
        if self._starter.prepares:
            raise UpdateRefusedError(
                f"A restart of {self.name} prepares its new instances. Wait for its end, or stop the plugin, then "
                f"{command} again.",
                "RestartUnderWay",
            )

    def _switched(self, manifest: Manifest) -> None:
        self._starter.became(manifest)
        self._file.switched_soon()

    def _notify_changed(self) -> None:
        self._parker.look()
        if (release := self._updater.unrecorded()) is not None:
            self._file.record_soon(release)
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
