"""Updater: one plugin's updates, one at a time: begins them, makes the new release ready, ends them by a stop.
`rollout_driver` replaces the instances. Also has on file what served without an update.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from msgspec.structs import replace

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.supervisor.candidate import Candidate, from_file, from_folder, strategy_for
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance_set import InstanceSet
from orchestrator.supervisor.preparation import content_of
from orchestrator.supervisor.release_store import ReleaseFile, ReleaseStoreError
from orchestrator.supervisor.releases import (
    Command,
    PluginReleases,
    Release,
    UpdateRefusedError,
    advanced,
    require_allowed,
    revert_target,
    with_proposed,
)
from orchestrator.supervisor.rollout import abandoned, built
from orchestrator.supervisor.rollout_driver import RolloutDriver, utc_now
from orchestrator.supervisor.start_verdict import is_defect, verdict_of_preparation
from orchestrator.supervisor.update import AskedStrategy, Update, UpdateStep, proposed

_log = logging.getLogger(__name__)


class Updater:
    """`on_switch` is called with the manifest of the release whose instance takes new runs, `on_change` whenever an
    update has come further.
    """

    def __init__(
        self,
        plugin: str,
        deps: SupervisorDeps,
        instances: InstanceSet,
        file: ReleaseFile,
        *,
        on_switch: Callable[[Manifest], None],
        on_change: Callable[[], None],
    ) -> None:
        self._plugin = plugin
        self._deps = deps
        self._set = instances
        self._roster = instances.roster
        self._file = file
        self._on_change = on_change
        self._rollout = RolloutDriver(plugin, deps, instances, file, on_switch=on_switch, on_change=on_change)
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> Update | None:
        return self._file.state.under_way

    @property
    def running(self) -> bool:
        """An update is under way, or an instance that it ended is to begin again."""
        return self._task is not None and not self._task.done()

    @property
    def _switching(self) -> bool:
        """What serves is of its release, or is replaced: its own steps have it on file."""
        update = self._file.state.update
        return self.running and update is not None and update.step is UpdateStep.SWITCHED

    @property
    def brings_up(self) -> bool:
        """An instance that takes runs may come of an update: one that serves nothing waits for it."""
        update = self._file.state.update
        return self.running and update is not None and update.step is not UpdateStep.PROPOSED

    async def allow(self, command: Command) -> None:
        """Returns when the command may be obeyed: an update that has ended may be about to begin an instance again.
        Raises `UpdateRefusedError` while one is under way.
        """
        require_allowed(command, self._file.state)
        if self._task is not None:
            await asyncio.wait({self._task})

    def look(self) -> None:
        """Something has changed that may be waited for."""
        self._rollout.look()

    # Commands

    async def begin(self, kind: Literal["update", "revert"], asked: AskedStrategy, plugin: DiscoveredPlugin) -> Update:
        """Begin an update to what the plugin's folder has, or back to the former release. It goes on by itself. Raises
        `UpdateRefusedError`, `ReleaseStoreError`.
        """
        await self.allow(kind)
        found = await asyncio.to_thread(self._deps.loader.reload, plugin)
        content = await asyncio.to_thread(content_of, found, self._deps)
        await self._file.written()  # what serves may just have become ready
        state = self._file.state
        former = revert_target(state, self._roster.members()) if kind == "revert" else None
        current = None if state.current is None else state.current.name
        update = proposed(
            secrets.token_hex(4), self._plugin, utc_now(), asked=asked, kind=kind, current=current, content=content
        )
        await self._file.change(lambda state: with_proposed(state, update))
        self._rollout.say(update)
        making = from_file(self._deps, former, plugin.folder) if former is not None else from_folder(self._deps, plugin)
        self._start(self._bring_up(update, making))
        return update

    def revert_target(self) -> Release | None:
        """What a revert would go back to now; None where there is nothing."""
        try:
            return revert_target(self._file.state, self._roster.members())
        except UpdateRefusedError:
            return None

    def resume(self) -> None:
        """Go on with what an earlier orchestrator began; its instances are adopted."""
        update = self._file.state.update
        if update is not None and not update.ended:
            self._start(self._rollout.run())

    async def stop(self, reason: str) -> None:
        """End an update that is under way, and what it does for its end: the instances end too, by their owner."""
        await self._cancel()
        self._set.let_go(self._set.replicas)
        now = utc_now()

        def ended(state: PluginReleases) -> PluginReleases:
            if state.update is None:
                return state
            update = abandoned(state.update, ReasonCode.STOPPED, reason, now)
            return advanced(state, replace(update, restores=False))

        try:
            await self._file.change(ended)
        except ReleaseStoreError as error:
            _log.warning("%s: %s", self._plugin, error)
        self._on_change()

    def unrecorded(self) -> Release | None:
        """The release of an instance that became ready without an update, where it may not be on file: the next start
        begins it, and a revert leaves it.
        """
        ready = [instance for instance in self._roster.serving if instance.ready and instance.image_id]
        newest = max(ready, key=lambda instance: instance.generation, default=None)
        template = self._set.template
        if newest is None or template is None or newest.generation <= self._rollout.newest_seen or self._switching:
            return None
        self._rollout.newest_seen = newest.generation
        content, image_id = newest.identity.content, newest.image_id or ""
        return Release.of(newest.manifest, content=content, image_id=image_id, folder=template.folder)

    def seen(self, generation: int) -> None:
        """The release of this instance need not be recorded: an earlier orchestrator has it on file."""
        self._rollout.newest_seen = generation

    async def close(self) -> None:
        """Leave everything as it is, for the next orchestrator."""
        await self._cancel()

    # Inside

    async def _bring_up(self, update: Update, making: Coroutine[Any, Any, Candidate]) -> None:
        try:
            new = await making
            strategy = await strategy_for(self._deps, new, update.asked, alone=not self._roster.serving)
        except Exception as error:  # noqa: BLE001 - else the update would stay PROPOSED for ever
            if is_defect(error):
                _log.exception("%s: a defect in the orchestrator", self._plugin)
            verdict = verdict_of_preparation(error)
            await self._rollout.write(abandoned(update, verdict.code, verdict.reason, utc_now()))
            return
        manifest = new.template.manifest
        self._set.hold()
        with_release = built(
            update,
            new.release.name,
            strategy,
            self._roster.members(),
            utc_now(),
            replicas=self._file.state.replicas_of(manifest),
            drain=manifest.update.drain,
        )
        await self._rollout.write(with_release, new.release)
        await self._rollout.run(new)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(self._guarded(work), name=f"update {self._plugin}")
        self._task.add_done_callback(self._log_defect)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - else it would be under way for ever, and refuse every other command
            _log.exception("%s: a defect in the orchestrator", self._plugin)
            await self._rollout.break_off()

    def _log_defect(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("%s: a defect in the orchestrator; a stop ends the update", self._plugin, exc_info=error)

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._rollout.close()
