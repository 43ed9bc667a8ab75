"""Fleet: all plugins of one deployment, and the one event stream that tells of their containers."""

import asyncio
import logging
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator.errors import EngineError, EngineUnreachableError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import PluginRecord
from orchestrator.sandbox.policy import LABEL_DEPLOYMENT, LABEL_INSTANCE, LABEL_PLUGIN, effective_limits
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.parts import Parts
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor

_RECONNECT: Final = 1.0
"""Seconds between tries to reach an engine that went away."""
_PULSE: Final = 2.0
"""Seconds between questions that only ask whether the engine answers."""
_LOST_ACTIONS: Final = frozenset({"die", "destroy"})

_log = logging.getLogger(__name__)


class Fleet:
    """Opened once, closed once; in between it knows a supervisor for every plugin name."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._supervisors: dict[str, PluginSupervisor] = {}
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def labels(self) -> Mapping[str, str]:
        """What marks a container as ours."""
        return {LABEL_DEPLOYMENT: self._parts.deployment}

    def get(self, name: str) -> PluginSupervisor | None:
        return self._supervisors.get(name)

    async def look_for(self, name: str) -> PluginSupervisor | None:
        """As `get`; for an unknown name the plugin folders are searched again, since its folder may be new."""
        if name not in self._supervisors:
            for plugin in await asyncio.to_thread(self._parts.loader.discover):
                if plugin.name == name and name not in self._supervisors:
                    self._register(plugin)
        return self._supervisors.get(name)

    async def open(self) -> None:
        """Register every plugin and begin to start them; returns without waiting for any."""
        for plugin in await asyncio.to_thread(self._parts.loader.discover):
            self._register(plugin)
        await self._sweep()
        self._watchers = [
            asyncio.create_task(self._listen(), name="engine events"),
            asyncio.create_task(self._feel_pulse(), name="engine pulse"),
            asyncio.create_task(self._parts.gpus.watch(self._gpu_lost), name="gpus"),
        ]
        await asyncio.gather(*(supervisor.start() for supervisor in self._supervisors.values()))

    async def close(self, *, stop_plugins: bool) -> None:
        """Let go of everything; with `stop_plugins` the containers are stopped and removed too."""
        if stop_plugins:
            await asyncio.gather(*(s.stop("The orchestrator was stopped.") for s in self._supervisors.values()))
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await asyncio.gather(*(supervisor.close() for supervisor in self._supervisors.values()))
        if stop_plugins:
            shutil.rmtree(self._parts.run_dir, ignore_errors=True)

    def _register(self, plugin: DiscoveredPlugin) -> None:
        manifest = plugin.manifest
        good = manifest is not None
        self._parts.registry.register(
            PluginRecord(
                name=plugin.name,
                version=manifest.version if manifest else "",
                description=manifest.description if manifest else "",
                state=PluginLifecycleState.LOADED if good else PluginLifecycleState.FAILED,
                reason_code=None if good else ReasonCode.MANIFEST_INVALID,
                reason=plugin.error,
                observed_at=datetime.now(UTC),
                limits=effective_limits(manifest, self._parts.settings).report() if manifest else {},
            )
        )
        self._supervisors[plugin.name] = PluginSupervisor(plugin, self._parts)

    async def _sweep(self) -> None:
        """Remove what an earlier run of this deployment left behind."""
        try:
            left = await self._parts.engine.list(self.labels)
            await asyncio.gather(*(self._parts.engine.remove(container.id) for container in left))
        except EngineError as error:
            _log.warning("leftovers could not be looked for: %s", error)
        shutil.rmtree(self._parts.run_dir, ignore_errors=True)

    async def _listen(self) -> None:
        """Follow the engine's events for ever; after every gap ask for the whole picture."""
        since: datetime | None = None
        while True:
            begun = datetime.now(UTC)
            try:
                async with self._parts.engine.events(self.labels, since=since) as events:
                    await self._relist()
                    self._parts.registry.mark_stale(stale=False)
                    async for event in events:
                        since = event.time
                        if event.action in _LOST_ACTIONS:
                            self._lost(event.labels)
                _log.warning("the engine's event stream ended; connecting again")
            except EngineUnreachableError as error:
                self._parts.registry.mark_stale(stale=True)
                _log.warning("the engine cannot be asked: %s", error)
            except EngineError as error:
                _log.warning("the engine's event stream broke: %s", error)
            since = since or begun
            await asyncio.sleep(_RECONNECT)

    async def _feel_pulse(self) -> None:
        """Ask the engine now and then: one that is frozen breaks no stream, it only says nothing."""
        frozen = False
        while True:
            await asyncio.sleep(_PULSE)
            was_frozen, frozen = frozen, not await self._answers()
            if frozen != was_frozen:
                self._parts.registry.mark_stale(stale=frozen)

    async def _answers(self) -> bool:
        try:
            await self._parts.engine.info()
        except EngineUnreachableError as error:
            _log.warning("the engine cannot be asked: %s", error)
            return False
        except EngineError:
            return True  # a refusal is an answer
        return True

    async def _relist(self) -> None:
        there = {
            container.labels.get(LABEL_INSTANCE)
            for container in await self._parts.engine.list(self.labels)
            if container.state != "exited"
        }
        for supervisor in self._supervisors.values():
            instance = supervisor.instance
            if instance is not None and instance.container_id is not None and instance.identity.instance not in there:
                supervisor.container_died(instance.identity.instance)

    def gpus(self) -> Mapping[str, Any]:
        """The host's GPUs and who holds them, as last seen."""
        return self._parts.gpus.report()

    def _gpu_lost(self, holder: str, verdict: Verdict) -> None:
        for supervisor in self._supervisors.values():
            supervisor.gpu_lost(holder, verdict)

    def _lost(self, labels: Mapping[str, str]) -> None:
        supervisor = self._supervisors.get(labels.get(LABEL_PLUGIN, ""))
        if supervisor is not None:
            supervisor.container_died(labels.get(LABEL_INSTANCE, ""))
