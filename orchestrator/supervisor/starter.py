"""Starter: begins the instances of one plugin anew, by a start or a restart, from its folder or its release on file."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.candidate import template_of
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import InstanceEndedError
from orchestrator.supervisor.instance_set import InstanceSet
from orchestrator.supervisor.preparation import Prepared, Template, content_of
from orchestrator.supervisor.release_store import ReleaseFile
from orchestrator.supervisor.releases import Release, begins_from
from orchestrator.supervisor.restart import Restart
from orchestrator.supervisor.start_verdict import verdict_of_manifest, verdict_of_preparation
from orchestrator.supervisor.updater import Updater

T = TypeVar("T")


class Starter:
    """`command` is held while instances begin; `on_change` is called when a start or restart has ended.

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

    def __init__(
        self,
        plugin: DiscoveredPlugin,
        deps: SupervisorDeps,
        instances: InstanceSet,
        file: ReleaseFile,
        updater: Updater,
        *,
        command: asyncio.Lock,
        on_change: Callable[[], None],
    ) -> None:
        self.plugin = plugin
        """As last read."""
        self.refusal = Verdict(ReasonCode.STOPPED, "The plugin has not been started.")
        """Why there is no instance, where there is none."""
        self.under_way = 0
        """Starts and restarts whose new instances have not begun."""
        self._name = plugin.name
        self._deps = deps
        self._set = instances
        self._roster = instances.roster
        self._file = file
        self._updater = updater
        self._command = command
        self._on_change = on_change
        self._preparation: Restart | None = None
        """The restart that prepares the next instances."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def folder(self) -> Path:
        """As last discovered."""
        return self.plugin.folder

    @property
    def prepares(self) -> bool:
        """A restart prepares the next instances."""
        return self._preparation is not None

    @property
    def coming(self) -> bool:
        """Instances that take runs are on their way."""
        return self.under_way > 0 or self._set.beginning or self._updater.brings_up

    def replicas(self, manifest: Manifest) -> int:
        """How many instances are wanted at a time."""
        return self._file.state.replicas_of(manifest)

    def became(self, manifest: Manifest) -> None:
        """Instances of this manifest serve."""
        self.plugin = replace(self.plugin, manifest=manifest, error=None)

    async def start(self, caller: str | None) -> None:
        """Begin those that are missing, by a command of `caller`. Raises `UpdateRefusedError`."""
        self.under_way += 1
        try:
            async with self._command:
                await self._updater.allow("start")
                await self._file.hold(None)
                self._set.caller = caller
                if self._roster.serving or (self._roster.draining and not self._roster.closing):
                    self._set.begin_missing()
                elif not self._set.beginning:
                    await self._begin()
        finally:
            self._ended()

    def start_soon(self, wanted: Callable[[], bool]) -> None:
        """Begin instances in the background, where they are `wanted` once no command is under way."""
        # Counted now: one start for all that wait. In a context of its own: what it logs is not the run's that came.
        self._spawn(self._start_if(wanted), f"start {self._name}", context=Context())

    def restart(self, slow: asyncio.Event, why: Verdict) -> asyncio.Task[Verdict | None]:
        """Replace all instances by new ones; it goes on when nobody waits for it. Sets `slow` when it begins what may
        take minutes. `why`: what the old ones end by. Its result: why it was refused, None once new instances have
        begun; or it raises `UpdateRefusedError`.
        """
        # Before the lock: runs that come while this waits for it are to wait for the new instances.
        return self._spawn(self._restart(slow, why), f"restart {self._name}")

    def refuse_restart(self) -> None:
        """The plugin is stopped."""
        if self._preparation is not None:
            self._preparation.stop()
            self._preparation = None

    def begin_without(self, verdict: Verdict, manifest: Manifest | None) -> None:
        """No instance begins, for this reason. A later command or run may begin some, of this manifest."""
        if manifest is not None:
            limits = effective_limits(manifest, self._deps.settings)
            self._set.expect(Template(manifest, limits, self.folder), self.replicas(manifest))
        self._fail(verdict)

    async def close(self) -> None:
        """Let go; the containers stay."""
        if self._preparation is not None:
            await self._preparation.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Inside

    async def _start_if(self, wanted: Callable[[], bool]) -> None:
        async with self._command:
            if wanted():
                await self._begin()

    async def _restart(self, slow: asyncio.Event, why: Verdict) -> Verdict | None:
        async with self._command:
            await self._updater.allow("restart")
            await self._file.hold(None)
            if not any(instance.ready for instance in self._roster.serving):
                self._set.caller = why.caller
                await self._set.end(why)
                await self._begin(anew=True)
                return None
            plugin = await asyncio.to_thread(self._deps.loader.reload, self.plugin)
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

    async def _replace(self, restart: Restart, why: Verdict) -> None:
        """Replace the instances once a restart is prepared, unless it ends otherwise."""
        prepared = await restart.prepared()
        async with self._command:
            if self._preparation is not restart:
                return
            self._preparation = None
            if prepared is not None:
                self._set.caller = why.caller
                try:
                    await self._set.end(why)
                    await self._begin_from(restart.plugin, prepared)
                finally:
                    restart.end(None)

    async def _begin(self, *, anew: bool = False) -> None:
        """Begin as many as wanted, from the plugin's folder as it is now or, unless `anew`, from the release on file
        where `begins_from` says so.
        """
        # Else the new instances would find the GPUs of the old ones leased.
        await self._set.torn_down()
        plugin = await asyncio.to_thread(self._deps.loader.reload, self.plugin)
        current = None if anew else await self._current(plugin)
        if current is None:
            await self._begin_from(plugin, None)
            return
        self._set.clear()
        try:
            template = await template_of(self._deps, current, plugin.folder)
        except (InstanceEndedError, OSError) as error:
            self._fail(verdict_of_preparation(error))
        else:
            self.plugin = replace(plugin, manifest=template.manifest, error=None)
            self._set.begin(template, self.replicas(template.manifest))

    async def _begin_from(self, plugin: DiscoveredPlugin, prepared: Prepared | None) -> None:
        self.plugin = plugin
        self._set.clear()
        manifest = plugin.manifest
        if manifest is None:
            self._fail(verdict_of_manifest(plugin.error))
            return
        limits = effective_limits(manifest, self._deps.settings)
        self._set.begin(Template(manifest, limits, plugin.folder, prepared), self.replicas(manifest))

    async def _current(self, plugin: DiscoveredPlugin) -> Release | None:
        """The release on file, where a start begins instances from that and not from the folder."""
        state = self._file.state
        if not state.may_begin_current:
            return None
        content = await asyncio.to_thread(content_of, plugin, self._deps)
        return state.current if begins_from(state, content) == "current" else None

    def _fail(self, verdict: Verdict) -> None:
        """There can be no instance."""
        self.refusal = verdict
        caller = self._set.caller
        generation = self._deps.registry.renew(self._name, caller=caller)
        self._deps.registry.mark_ended(self._name, generation, verdict.code, verdict.reason, caller=caller)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str, *, context: Context | None = None) -> asyncio.Task[T]:
        self.under_way += 1
        task = asyncio.create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._ended()

    def _ended(self) -> None:
        self.under_way -= 1
        self._on_change()
