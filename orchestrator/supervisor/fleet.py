"""Fleet: all plugins of one deployment, and the one event stream of their containers."""

import asyncio
import contextlib
import itertools
import logging
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from orchestrator.containers.spec import ContainerStatus, EngineEvent
from orchestrator.errors import EngineError, EngineUnreachableError
from orchestrator.gpus import Grant, LeaseChange
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.loader.image_recipe import PLUGIN_LABEL
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import Check, PluginRecord
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.adoption import Adopted, adopt_all, adopted_record
from orchestrator.supervisor.container_policy import LABEL_INSTANCE, effective_limits, instances_of, is_instance
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance_driver import InstanceDriver
from orchestrator.supervisor.model_watch import watch_models
from orchestrator.supervisor.parking import starts_uncalled
from orchestrator.supervisor.placement_facts import placement_facts
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor
from orchestrator.supervisor.update import step_sentence

_RECONNECT_PAUSE: Final = 1.0  # seconds between attempts to follow the engine's events
_PING_INTERVAL: Final = 2.0  # seconds
_PINGS_PER_RELIST: Final = 15  # between two lists, which repair what no event reported
_FOLDERS_INTERVAL: Final = 2.0  # seconds between looks for plugin folders that were removed
_LOST_ACTIONS: Final = frozenset({"die", "destroy"})
_HEALTH_ACTION: Final = "health_status:"
_ORCHESTRATOR_STOPPED: Final = "The orchestrator was stopped."
_FOLDER_REMOVED: Final = (
    "The plugin's folder was removed, and the plugin is no longer listed. Its history stays; put the folder back and "
    "start it to have it again."
)

_log = logging.getLogger(__name__)


class Fleet:
    """Opened once, closed once; in between it has a supervisor for every plugin."""

    def __init__(self, deps: SupervisorDeps) -> None:
        self._deps = deps
        deps.gpus.meet(self.get)
        self._supervisors: dict[str, PluginSupervisor] = {}
        self._adopted: tuple[Adopted, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []

    def get(self, name: str) -> PluginSupervisor | None:
        return self._supervisors.get(name)

    async def discover(self, name: str) -> PluginSupervisor | None:
        """As `get`; for an unknown name after another read of the plugin folders."""
        if name not in self._supervisors:
            for plugin in await asyncio.to_thread(self._deps.loader.discover):
                # Another request may have registered it while the folders were read.
                if plugin.name == name and name not in self._supervisors:
                    self._register(plugin)
        return self._supervisors.get(name)

    async def open(self, ended: Collection[tuple[str, int]]) -> None:
        """Register every plugin, adopt the containers of an earlier orchestrator, and start what is missing;
        returns without waiting for any. `ended`: plugin and generation of instances that had ended, by the history.
        Those that would be made differently now are restarted by `restart_changed`.
        """
        plugins = await asyncio.to_thread(self._deps.loader.discover)
        under_way = {plugin.name for plugin in plugins if self._deps.releases.get(plugin.name).under_way is not None}
        # Before the registration: the registry shall have an adopted plugin in its state, never as LOADED.
        adopted = await adopt_all(self._deps, plugins, ended)
        self._adopted = tuple(found for each in adopted.values() for found in each)
        for plugin in plugins:
            self._register(plugin, adopted.get(plugin.name, ()))
            update = self._deps.releases.get(plugin.name).update
            if plugin.name in under_way and update is not None and update.ended:
                self._deps.registry.note(plugin.name, step_sentence(update), update.reason_code)
        self._tasks = [
            asyncio.create_task(self._follow_engine_events(), name="engine events"),
            asyncio.create_task(self._ping_engine(), name="engine ping"),
            asyncio.create_task(self._watch_folders(), name="plugin folders"),
            asyncio.create_task(self._deps.gpus.watch(self._gpu_lost, self._gpu_changed, self._gpus_seen), name="gpus"),
            asyncio.create_task(
                watch_models(self._deps.registry, self._deps.checker.store, self._folder_of), name="models"
            ),
        ]
        # What changed is restarted as a whole.
        changed = self._changed()
        await asyncio.gather(*(self._start(each) for name, each in self._supervisors.items() if name not in changed))

    def restart_changed(self) -> None:
        """Begin to restart the adopted instances that a start would make differently now. They serve meanwhile."""
        for name in sorted(self._changed()):
            self._supervisors[name].restart_changed()

    def settle_adopted(self) -> None:
        """Drain the adopted instances that are not wanted, once the runs that they have are counted, and go on with
        updates.
        """
        for supervisor in self._supervisors.values():
            supervisor.settle_adopted()

    def adopted(self) -> list[tuple[PluginSupervisor, Adopted]]:
        """What `open` adopted, with its status at that time."""
        return [(self._supervisors[found.instance.identity.plugin], found) for found in self._adopted]

    async def close(self, *, stop_plugins: bool) -> None:
        """Let go of every instance; with `stop_plugins` the containers are stopped and removed too."""
        if stop_plugins:
            await asyncio.gather(*(s.stop(_ORCHESTRATOR_STOPPED, lasts=False) for s in self._supervisors.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Only now: an event of the engine would give a closed supervisor work.
        await asyncio.gather(*(supervisor.close() for supervisor in self._supervisors.values()))
        if stop_plugins:
            shutil.rmtree(self._deps.run_dir, ignore_errors=True)

    def _changed(self) -> set[str]:
        names = {adopted.instance.identity.plugin for adopted in self._adopted if adopted.changed}
        return {name for name in names if not self._supervisors[name].stopped}

    async def _start(self, supervisor: PluginSupervisor) -> None:
        manifest, held = supervisor.manifest, supervisor.held
        if supervisor.stopped:  # first: a move may have begun during an update
            await supervisor.start_stopped()
        elif supervisor.updating:
            return
        elif supervisor.unplaced and not supervisor.instances:
            await supervisor.start_stopped()
        elif not supervisor.instances and manifest is not None and self._waits_for_a_run(held, manifest):
            supervisor.start_parked(manifest)
        else:
            await supervisor.start(asked=False)

    def _waits_for_a_run(self, held: str | None, manifest: Manifest) -> bool:
        return held == "parked" or not starts_uncalled(manifest, self._deps.settings)

    def _folder_of(self, name: str) -> Path | None:
        supervisor = self._supervisors.get(name)
        return None if supervisor is None else supervisor.folder

    def _register(self, plugin: DiscoveredPlugin, adopted: Sequence[Adopted] = ()) -> None:
        manifest = adopted[-1].instance.manifest if adopted else plugin.manifest
        good = manifest is not None
        record = PluginRecord(
            name=plugin.name,
            version=manifest.version if manifest else "",
            description=manifest.description if manifest else "",
            state=PluginLifecycleState.LOADED if good else PluginLifecycleState.FAILED,
            reason_code=None if good else ReasonCode.MANIFEST_INVALID,
            reason=None if good else plugin.error,
            observed_at=datetime.now(UTC),
            limits=effective_limits(manifest, self._deps.settings) if manifest else None,
            highest_generation=self._deps.releases.get(plugin.name).last_generation,
            instances=tuple(adopted_record(found, time.monotonic()) for found in adopted),
        )
        self._deps.registry.register(record)
        supervisor = self._supervisors[plugin.name] = PluginSupervisor(plugin, self._deps)
        if adopted:
            supervisor.adopt(adopted, [found.instance.generation for found in adopted if found.drains])

    async def _watch_folders(self) -> None:
        """For ever: a plugin whose folder was removed leaves the list, once nothing is left of its instance."""
        missing: set[str] = set()
        while True:
            await asyncio.sleep(_FOLDERS_INTERVAL)
            folders = {name: each.folder for name, each in self._supervisors.items() if each.idle}
            earlier, missing = missing, await asyncio.to_thread(self._deps.loader.missing, folders)
            # Twice in a row: an editor or a checkout may replace a folder.
            for name in missing & earlier:
                if self._supervisors[name].idle and self._deps.registry.remove(name, _FOLDER_REMOVED):
                    _log.info("%s: %s", name, _FOLDER_REMOVED)
                    self._supervisors.pop(name).removed()

    async def _follow_engine_events(self) -> None:
        """For ever; after every gap the containers are listed."""
        since: datetime | None = None
        while True:
            opened_at = datetime.now(UTC)
            try:
                async with self._deps.engine.events(self._deps.labels, since=since) as events:
                    # Once the stream is open: an end before that shows in the list, one after it comes as an event.
                    await self._relist()
                    self._deps.registry.mark_stale(stale=False)
                    async for event in events:
                        # By the engine's clock: a reconnection gets the events of the gap.
                        since = event.time
                        self._on_engine_event(event)
                _log.warning("the engine's event stream ended; connecting again")
            except EngineUnreachableError as error:
                self._deps.registry.mark_stale(stale=True)
                _log.warning("the engine cannot be reached: %s", error)
            # A refusal is an answer, so what is known is not stale.
            except EngineError as error:
                _log.warning("the engine's event stream broke: %s", error)
            # No event has shown the engine's clock yet.
            since = since or opened_at
            await asyncio.sleep(_RECONNECT_PAUSE)

    async def _ping_engine(self) -> None:
        """Mark the records stale while the engine is frozen, and list its containers now and then."""
        # Own requests, since a frozen engine breaks no stream.
        frozen = False
        for ping in itertools.count(1):
            await asyncio.sleep(_PING_INTERVAL)
            was_frozen, frozen = frozen, not await self._engine_answers()
            if frozen != was_frozen:
                self._deps.registry.mark_stale(stale=frozen)
            if not frozen and ping % _PINGS_PER_RELIST == 0:
                with contextlib.suppress(EngineError):
                    await self._relist()

    async def _engine_answers(self) -> bool:
        try:
            await self._deps.engine.ping()
        except EngineUnreachableError as error:
            _log.warning("the engine cannot be reached: %s", error)
            return False
        except EngineError:
            return True  # a refusal is an answer
        return True

    async def _relist(self) -> None:
        """Compare the engine's containers with the instances: find ends that no event reported, and remove containers
        of ours that belong to no instance.
        """
        containers = instances_of(await self._deps.engine.list(self._deps.labels))
        # After the list: an instance that began while it was on its way is expected too.
        expected = {token for s in self._supervisors.values() for token in s.expected_tokens}
        for container in containers:
            token = container.labels.get(LABEL_INSTANCE, "")
            if token not in expected:
                await self._remove_orphan(container, token)
            # A change of health during a gap in the events shows here alone.
            elif container.health != "none" and (driver := self._driver_of(container.labels)) is not None:
                _add_healthcheck(driver, container.health)
        running = {c.labels.get(LABEL_INSTANCE) for c in containers if not c.over}
        paused = {c.labels.get(LABEL_INSTANCE) for c in containers if c.state == "paused"}
        for supervisor in self._supervisors.values():
            for instance in supervisor.instances:
                token = instance.identity.instance
                driver = supervisor.driver_of(token)
                if driver is not None and instance.container_id is not None and token not in running:
                    # No verdict yet: its driver inspects the container first.
                    driver.container_died()
                elif driver is not None and token in paused:
                    driver.container_paused()
            supervisor.retry_removal()

    async def _remove_orphan(self, container: ContainerStatus, token: str) -> None:
        _log.warning("the container %s belongs to no plugin's instance; it is removed", container.name)
        with contextlib.suppress(EngineError):
            await self._deps.engine.remove(container.id)
            # Withheld since the adoption, which could not remove it.
            self._deps.gpus.release(token)
            if token:
                shutil.rmtree(self._deps.run_dir / token, ignore_errors=True)

    def gpus(self) -> Mapping[str, Any]:
        """The host's GPUs and their holders, as last read."""
        return self._deps.gpus.report()

    async def placement(self, supervisor: PluginSupervisor) -> Mapping[str, Any]:
        """What a front asks before it places this plugin."""
        return await placement_facts(self._deps, supervisor)

    def clear_gpu(self, uuid: str) -> bool:
        """Take a GPU out of quarantine. False where it is in none that an operator can end."""
        return self._deps.gpus.clear(uuid)

    def _gpu_lost(self, holder: str, verdict: Verdict) -> None:
        for supervisor in self._supervisors.values():
            if (driver := supervisor.driver_of(holder)) is not None:
                driver.end(verdict)

    def _gpus_seen(self, grant: Grant) -> None:
        if (driver := self._driver(grant.plugin, grant.holder)) is not None:
            driver.gpus_seen(grant)

    def _gpu_changed(self, change: LeaseChange) -> None:
        # The plugin that had it shows in its health whether its GPU's memory came back.
        if (supervisor := self._supervisors.get(change.plugin)) is not None:
            check = Check(f"gpu {change.uuid}", ok=change.state == "free", detail=change.sentence, source="host")
            supervisor.add_check(check)

    def _on_engine_event(self, event: EngineEvent) -> None:
        if not is_instance(event.labels):
            return
        driver = self._driver_of(event.labels)
        if driver is None:
            return
        if event.action in _LOST_ACTIONS:
            driver.container_died(event.exit_code)
        elif event.action == "oom":
            driver.ran_out_of_memory()
        elif event.action == "pause":
            driver.container_paused()
        elif event.action.startswith(_HEALTH_ACTION):
            _add_healthcheck(driver, event.action.removeprefix(_HEALTH_ACTION).strip())

    def _driver_of(self, labels: Mapping[str, str]) -> InstanceDriver | None:
        # By its token: a late event of an earlier instance ends nothing.
        return self._driver(labels.get(PLUGIN_LABEL, ""), labels.get(LABEL_INSTANCE, ""))

    def _driver(self, plugin: str, token: str) -> InstanceDriver | None:
        supervisor = self._supervisors.get(plugin)
        return None if supervisor is None else supervisor.driver_of(token)


def _add_healthcheck(driver: InstanceDriver, health: str) -> None:
    if driver.instance.ended is None:
        detail = f"the engine's own probe: {health}"
        driver.add_check(Check("healthcheck", ok=health != "unhealthy", detail=detail, source="engine"))
