"""Parker: stops one plugin's instances while nobody needs them, and begins them again for the first run."""

import asyncio
from contextvars import Context
from typing import Final

from orchestrator.formatting import format_duration
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.registry import PluginRegistry
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.demand import Demand
from orchestrator.supervisor.instance_set import InstanceSet
from orchestrator.supervisor.release_store import ReleaseFile
from orchestrator.supervisor.starter import Starter
from orchestrator.supervisor.updater import Updater

_NOT_CALLED: Final = "It has not been called yet, and starts with its first run (ORCHESTRATOR_PARKED)."
_STILL_PARKED: Final = "It was parked before the orchestrator was started anew. The next run starts it again."


class Parker:
    """`command` is held while a command of an operator is under way."""

    def __init__(
        self,
        instances: InstanceSet,
        file: ReleaseFile,
        starter: Starter,
        updater: Updater,
        *,
        demand: Demand,
        registry: PluginRegistry,
        command: asyncio.Lock,
    ) -> None:
        self._plugin = instances.roster.plugin
        self._registry = registry
        self._set = instances
        self._roster = instances.roster
        self._file = file
        self._starter = starter
        self._updater = updater
        self._demand = demand
        self._command = command
        self._woken = False
        """A run began the instances that start."""
        self._changed_at = 0.0
        """When something became of an instance or a command; the event loop's clock."""
        self._idle: asyncio.TimerHandle | None = None
        """Parks the instances when they have had no run for as long as the manifest says."""

    @property
    def parked(self) -> bool:
        """A run begins its instances again."""
        return self._roster.parked or self._uncalled

    @property
    def waking(self) -> bool:
        """It is parked, or starts because a run came."""
        return self.parked or (self._woken and self._starter.coming)

    @property
    def busy(self) -> bool:
        """A run executes in one of its instances, or waits for one."""
        record = self._registry.get(self._plugin)
        return self._demand.waiting > 0 or (record is not None and record.in_flight + record.queued > 0)

    def begin_parked(self, manifest: Manifest) -> None:
        """Begin no instance: the first run, or a command, does."""
        reason = _STILL_PARKED if self._file.state.held == "parked" else _NOT_CALLED
        self._starter.begin_without(Verdict(ReasonCode.PARKED, reason), manifest)

    async def park(self, verdict: Verdict) -> bool:
        """Stop the instances by this verdict until a run comes for them, or a command. False, and nothing happens,
        where one executes a run or a run waits, where one starts, and where none is alive for another reason than this.
        Raises `UpdateRefusedError`.
        """
        async with self._command:
            await self._updater.allow("park")
            if self.parked:
                return True
            if self.busy or not self._roster.serving or self._starter.coming:
                return False
            self._set.park(verdict.reason, verdict.caller)
            await self._file.hold("parked")
            return True

    def close_for(self, generation: int, reason: str) -> None:
        """Let an instance go for another plugin: it takes no new runs, and is parked when those that it has, and those
        that wait for it now, have ended.
        """
        self._set.close_for(generation, Verdict(ReasonCode.PARKED, reason))
        if not self._roster.serving:
            self._file.idled_soon()

    def unpark(self) -> None:
        """Begin instances for a run that waits."""
        self._demand.asked, self._set.caller = False, None
        self._woken = True
        self._file.woken_soon()
        if self._roster.parked:
            # In a context of its own: what it logs is not the run's that came first.
            Context().run(self._set.unpark)
        else:
            self._starter.start_soon(lambda: self._uncalled and not self._updater.brings_up)

    def stop(self, verdict: Verdict) -> None:
        """Let no run begin those again that are parked."""
        if self._uncalled:
            self._starter.refusal = verdict
            record = self._registry.get(self._plugin)
            assert record is not None  # noqa: S101 - it is registered as long as it has a supervisor
            self._registry.amend_failure(
                self._plugin, record.generation, verdict.code, verdict.reason, caller=verdict.caller
            )
        self._set.stop_parked(verdict)

    def look(self) -> None:
        """Something has become of an instance or a command."""
        coming = self._starter.coming
        self._woken = self._woken and coming
        if self._roster.parked and not coming and self._file.state.held is None:
            self._file.idled_soon()
        self._changed_at = asyncio.get_running_loop().time()
        self._watch_idleness()

    def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    # Inside

    @property
    def _uncalled(self) -> bool:
        """It was parked before it ever had an instance."""
        return self._roster.newest is None and self._starter.refusal.code is ReasonCode.PARKED

    def _watch_idleness(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        manifest = self._starter.plugin.manifest
        if manifest is not None and manifest.idle.after is not None and self._roster.serving:
            # A run moves no timer: when it is over, it is seen when the last one ended.
            seconds, loop = manifest.idle.after.total_seconds(), asyncio.get_running_loop()
            idle_at = max(self._changed_at, self._demand.served_at) + seconds
            if idle_at <= loop.time():
                idle_at = loop.time() + seconds  # something goes on: it is looked at again
            self._idle = loop.call_at(idle_at, self._park_idle, seconds, context=Context())

    def _park_idle(self, seconds: float) -> None:
        coming = self._starter.coming or self._updater.running or self._command.locked()
        idle_since = max(self._changed_at, self._demand.served_at)
        over = asyncio.get_running_loop().time() >= idle_since + seconds
        if self._roster.serving and over and not (self.busy or coming):
            self._set.park(
                f"It had no run for {format_duration(seconds)} (`idle.after`). The next run starts it again."
            )
        else:
            self._watch_idleness()
