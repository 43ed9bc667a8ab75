"""Fleet: all plugins of one deployment, and the one event stream that tells of their containers."""

import asyncio
import contextlib
import itertools
import logging
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from msgspec.structs import replace

from orchestrator.containers.spec import ContainerStatus, EngineEvent
from orchestrator.errors import EngineError, EngineUnreachableError
from orchestrator.gpus import LeaseChange
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.loader.image_recipe import PLUGIN_LABEL
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import Check, LifecycleEvent, PluginRecord, PostMortem
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.adoption import Adopted, adopt_all
from orchestrator.supervisor.container_policy import LABEL_INSTANCE, effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor

_RECONNECT: Final = 1.0
"""Seconds between tries to reach an engine that went away."""
_PULSE: Final = 2.0
"""Seconds between questions that only ask whether the engine answers."""
_RELIST_BEATS: Final = 15
"""Pulses between full lists that nothing has asked for: what went wrong unseen is put right by these."""
_LOST_ACTIONS: Final = frozenset({"die", "destroy"})
_HEALTH_ACTION: Final = "health_status:"

_log = logging.getLogger(__name__)


class Fleet:
    """Opened once, closed once; in between it knows a supervisor for every plugin name."""

    def __init__(self, deps: SupervisorDeps) -> None:
        self._deps = deps
        self._supervisors: dict[str, PluginSupervisor] = {}
        self._adopted: tuple[Adopted, ...] = ()
        self._watchers: list[asyncio.Task[None]] = []

    def get(self, name: str) -> PluginSupervisor | None:
        return self._supervisors.get(name)

    async def look_for(self, name: str) -> PluginSupervisor | None:
        """As `get`; for an unknown name the plugin folders are searched again, since its folder may be new."""
        if name not in self._supervisors:
            for plugin in await asyncio.to_thread(self._deps.loader.discover):
                if plugin.name == name and name not in self._supervisors:
                    self._register(plugin)
        return self._supervisors.get(name)

    async def open(self, last_events: Mapping[str, LifecycleEvent]) -> None:
        """Register every plugin, take up again what runs of an earlier orchestrator, and begin to start the others;
        returns without waiting for any. `last_events`: by plugin, what the history knows last of it.
        """
        plugins = await asyncio.to_thread(self._deps.loader.discover)
        adopted = await adopt_all(self._deps, plugins, last_events)
        self._adopted = tuple(adopted.values())
        for plugin in plugins:
            self._register(plugin, adopted.get(plugin.name))
        self._watchers = [
            asyncio.create_task(self._listen(), name="engine events"),
            asyncio.create_task(self._feel_pulse(), name="engine pulse"),
            asyncio.create_task(self._deps.gpus.watch(self._gpu_lost, self._gpu_changed), name="gpus"),
        ]
        await asyncio.gather(*(supervisor.start() for supervisor in self._supervisors.values()))

    def adopted(self) -> list[tuple[PluginSupervisor, Adopted]]:
        """What `open` has taken up again, and what it said of itself then."""
        return [(self._supervisors[found.instance.identity.plugin], found) for found in self._adopted]

    async def close(self, *, stop_plugins: bool) -> None:
        """Let go of everything; with `stop_plugins` the containers are stopped and removed too."""
        if stop_plugins:
            await asyncio.gather(*(s.stop("The orchestrator was stopped.") for s in self._supervisors.values()))
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await asyncio.gather(*(supervisor.close() for supervisor in self._supervisors.values()))
        if stop_plugins:
            shutil.rmtree(self._deps.run_dir, ignore_errors=True)

    def _register(self, plugin: DiscoveredPlugin, adopted: Adopted | None = None) -> None:
        manifest = plugin.manifest
        good = manifest is not None
        now = datetime.now(UTC)
        record = PluginRecord(
            name=plugin.name,
            version=manifest.version if manifest else "",
            description=manifest.description if manifest else "",
            state=PluginLifecycleState.LOADED if good else PluginLifecycleState.FAILED,
            reason_code=None if good else ReasonCode.MANIFEST_INVALID,
            reason=plugin.error,
            observed_at=now,
            limits=effective_limits(manifest, self._deps.settings).report() if manifest else {},
        )
        if adopted is not None:
            status = adopted.status
            record = replace(
                record,
                state=PluginLifecycleState.RUNNING if status.runs_begun else PluginLifecycleState.INITIALIZED,
                generation=adopted.instance.generation,
                ready_tick=time.monotonic() - (status.ready_seconds or 0),
                tools=status.tools,
            )
        self._deps.registry.register(record)
        supervisor = self._supervisors[plugin.name] = PluginSupervisor(plugin, self._deps)
        if adopted is not None:
            supervisor.adopt(adopted)

    async def _listen(self) -> None:
        """Follow the engine's events for ever; after every gap ask for the whole picture."""
        since: datetime | None = None
        while True:
            begun = datetime.now(UTC)
            try:
                async with self._deps.engine.events(self._deps.labels, since=since) as events:
                    await self._relist()
                    self._deps.registry.mark_stale(stale=False)
                    async for event in events:
                        since = event.time
                        self._take(event)
                _log.warning("the engine's event stream ended; connecting again")
            except EngineUnreachableError as error:
                self._deps.registry.mark_stale(stale=True)
                _log.warning("the engine cannot be asked: %s", error)
            except EngineError as error:
                _log.warning("the engine's event stream broke: %s", error)
            since = since or begun
            await asyncio.sleep(_RECONNECT)

    async def _feel_pulse(self) -> None:
        """Ask the engine now and then: one that is frozen breaks no stream, it only says nothing."""
        frozen = False
        for beat in itertools.count(1):
            await asyncio.sleep(_PULSE)
            was_frozen, frozen = frozen, not await self._answers()
            if frozen != was_frozen:
                self._deps.registry.mark_stale(stale=frozen)
            if not frozen and beat % _RELIST_BEATS == 0:
                with contextlib.suppress(EngineError):
                    await self._relist()

    async def _answers(self) -> bool:
        try:
            await self._deps.engine.ping()
        except EngineUnreachableError as error:
            _log.warning("the engine cannot be asked: %s", error)
            return False
        except EngineError:
            return True  # a refusal is an answer
        return True

    async def _relist(self) -> None:
        """Hold what the engine has against what should be there: find ends that no event told of, and remove
        containers of ours that belong to no instance any more.
        """
        containers = await self._deps.engine.list(self._deps.labels)
        # Known only now: what was made while the list was on its way is expected too.
        expected = {s.instance.identity.instance for s in self._supervisors.values() if s.instance is not None}
        for container in containers:
            token = container.labels.get(LABEL_INSTANCE, "")
            if token not in expected:
                await self._remove_orphan(container, token)
            elif container.health != "none":
                self._health_told(container.labels, container.health)
        running = {c.labels.get(LABEL_INSTANCE) for c in containers if c.state != "exited"}
        for supervisor in self._supervisors.values():
            instance = supervisor.instance
            if instance is not None and instance.container_id is not None and instance.identity.instance not in running:
                supervisor.container_died(instance.identity.instance)
            supervisor.retry_removal()

    async def _remove_orphan(self, container: ContainerStatus, token: str) -> None:
        _log.warning("the container %s belongs to no plugin's instance; it is removed", container.name)
        with contextlib.suppress(EngineError):
            await self._deps.engine.remove(container.id)
            self._deps.gpus.release(token)
            if token:
                shutil.rmtree(self._deps.run_dir / token, ignore_errors=True)

    def gpus(self) -> Mapping[str, Any]:
        """The host's GPUs and who holds them, as last seen."""
        return self._deps.gpus.report()

    async def post_mortem(self, name: str, generation: int | None) -> PostMortem | None:
        """What the history keeps of this instance's end, or of the plugin's last that has ended."""
        return await self._deps.history.post_mortem_of(name, generation)

    def _gpu_lost(self, holder: str, verdict: Verdict) -> None:
        for supervisor in self._supervisors.values():
            supervisor.gpu_lost(holder, verdict)

    def _gpu_changed(self, change: LeaseChange) -> None:
        """Of a GPU whose memory was waited for: the health of the plugin that had it says how that ended."""
        if (supervisor := self._supervisors.get(change.plugin)) is not None:
            supervisor.note(
                Check(f"gpu {change.uuid}", ok=change.state == "free", detail=change.sentence, source="host")
            )

    def clear_gpu(self, uuid: str) -> bool:
        """An operator takes a GPU out of quarantine. False where it is in none that can be ended so."""
        return self._deps.gpus.clear(uuid)

    def _take(self, event: EngineEvent) -> None:
        supervisor = self._supervisors.get(event.labels.get(PLUGIN_LABEL, ""))
        if supervisor is not None and event.action in _LOST_ACTIONS:
            supervisor.container_died(event.labels.get(LABEL_INSTANCE, ""))
        elif event.action.startswith(_HEALTH_ACTION):
            self._health_told(event.labels, event.action.removeprefix(_HEALTH_ACTION).strip())

    def _health_told(self, labels: Mapping[str, str], health: str) -> None:
        supervisor = self._supervisors.get(labels.get(PLUGIN_LABEL, ""))
        if supervisor is not None:
            check = Check(
                "healthcheck", ok=health != "unhealthy", detail=f"the engine's own probe: {health}", source="engine"
            )
            supervisor.engine_says(labels.get(LABEL_INSTANCE, ""), check)
