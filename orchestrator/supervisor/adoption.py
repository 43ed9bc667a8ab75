"""Adoption: the containers that an earlier orchestrator left running are adopted, or removed."""

import asyncio
import logging
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.containers.spec import ContainerStatus
from orchestrator.errors import EngineError, NotFoundError, OrchestratorError
from orchestrator.gpus import Grant
from orchestrator.gpus.device_requests import Way, way_of
from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import EffectiveLimits, InstanceRecord
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.supervisor.container_policy import (
    LABEL_QUOTA,
    InstanceIdentity,
    effective_limits,
    instances_of,
    made_from,
)
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.limits import missing_limits
from orchestrator.supervisor.preparation import content_of
from orchestrator.supervisor.release_store import ReleaseStoreError
from orchestrator.supervisor.releases import Resumption, begins_from, resume

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adopted:
    """An instance that lives on, its channel open, and its status."""

    instance: Instance
    status: RuntimeStatus
    changed: bool
    """A start would make it differently now: a restart is due."""
    drains: bool = False
    """It ends with the runs that it has: an update has replaced it."""

    @property
    def plugin(self) -> str:
        return self.instance.identity.plugin


class AdoptionRefusedError(OrchestratorError):
    """A container cannot be adopted; the message says why, for the log."""


def adopted_record(adopted: Adopted, now: float) -> InstanceRecord:
    """As the registry has it. `now`: the monotonic clock, seconds."""
    instance, status = adopted.instance, adopted.status
    return InstanceRecord(
        generation=instance.generation,
        state=PluginLifecycleState.RUNNING if status.runs_begun else PluginLifecycleState.INITIALIZED,
        version=instance.manifest.version,
        description=instance.manifest.description,
        observed_at=datetime.now(UTC),
        limits=instance.limits,
        # Its uptime goes on: it was ready before this process began.
        ready_tick=now - (status.ready_seconds or 0),
        tools=status.tools,
    )


async def adopt_all(
    deps: SupervisorDeps, plugins: Iterable[DiscoveredPlugin], ended: Collection[tuple[str, int]]
) -> dict[str, list[Adopted]]:
    """Adopt or remove the containers of an earlier orchestrator, and remove unused socket folders. Returns the adopted
    instances by plugin, oldest first. `ended`: plugin and generation of instances that had ended.
    """
    await deps.builder.clear_leftovers()
    by_name = {plugin.name: plugin for plugin in plugins}
    try:
        leftovers = instances_of(await deps.engine.list(deps.labels))
    except EngineError as error:
        # The fleet removes them as orphans once the engine can be reached.
        _log.warning("leftover containers could not be listed: %s", error)
        await _resume_updates(deps, by_name, ())
        return {}
    resumed = await _resume_updates(deps, by_name, leftovers)
    attempts = await asyncio.gather(
        *(
            _adopt(deps, by_name[identity.plugin], container, ended=ended, resumed=resumed[identity.plugin])
            for container in leftovers
            if container.state == "running"
            and (identity := InstanceIdentity.from_labels(container.labels)) is not None
            and identity.plugin in by_name
        )
    )
    adopted = sorted((found for found in attempts if found is not None), key=lambda found: found.instance.generation)
    ids = {found.instance.container_id for found in adopted}
    # Once more, of what could be adopted: an update does not go on without an instance that it had switched to.
    resumed = await _resume_updates(deps, by_name, [each for each in leftovers if each.id in ids])
    adopted = [
        replace(found, drains=found.drains and found.instance.generation in resumed[found.plugin].drains)
        for found in adopted
    ]
    # Before any start: they may hold what the new instances need.
    await asyncio.gather(*(_remove(deps, container) for container in leftovers if container.id not in ids))
    with suppress(EngineError):
        await deps.engine.sweep(deps.labels)
    in_use = {found.instance.run_folder.name for found in adopted}
    await asyncio.to_thread(_remove_folders, deps.run_dir, in_use)
    by_plugin: defaultdict[str, list[Adopted]] = defaultdict(list)
    for found in adopted:
        by_plugin[found.instance.identity.plugin].append(found)
    return by_plugin


async def _adopt(
    deps: SupervisorDeps,
    plugin: DiscoveredPlugin,
    container: ContainerStatus,
    *,
    ended: Collection[tuple[str, int]],
    resumed: Resumption,
) -> Adopted | None:
    identity = InstanceIdentity.from_labels(container.labels)
    assert identity is not None  # noqa: S101 - else it is no instance of ours
    instance: Instance | None = None
    try:
        if (identity.plugin, identity.generation) in ended:
            raise AdoptionRefusedError("it had ended")
        if identity.generation in resumed.removes:
            raise AdoptionRefusedError("an update had begun it, and had not proven it, or had replaced it")
        content = await asyncio.to_thread(content_of, plugin, deps)
        same = identity.content == content and await _is_current(deps, plugin, container)
        manifest, limits = _made_from(deps, plugin, container, changed=not same)
        instance = Instance(manifest, limits, identity, deps.run_dir / identity.instance)
        instance.container_id, instance.image_id = container.id, container.image_id
        instance.scratch_quota = LABEL_QUOTA in container.labels
        instance.open_channel(RuntimeChannel(await deps.engine.endpoint(container.id, instance.run_folder)))
        status = await instance.channel.status()
        _require_ready(status)
        _require_limits(deps, limits, status)
        # Only kills from now on are judged.
        instance.oom_kills = status.oom_kills
        instance.grant = Grant.from_labels(container.labels, holder=identity.instance, plugin=identity.plugin)
        # Last: it leases them, and nothing after it may refuse.
        _require_gpus(deps, instance.grant, way_of(container.labels))
    except (OrchestratorError, OSError, ValueError) as error:
        _log.info("%s: the container %s is replaced: %s", identity.plugin, container.name, error)
        if instance is not None:
            await instance.close_channel()
        return None
    _log.info("%s: the container %s is adopted", identity.plugin, container.name)
    # What an update has brought up, or an operator went back to, is right, whatever the folder has.
    state = resumed.state
    stays = state.under_way is not None or begins_from(state, content) == "current"
    return Adopted(instance, status, changed=not (same or stays), drains=identity.generation in resumed.drains)


async def _resume_updates(
    deps: SupervisorDeps, plugins: Mapping[str, DiscoveredPlugin], containers: Iterable[ContainerStatus]
) -> Mapping[str, Resumption]:
    """What becomes of each plugin's containers by its releases on file: of an update that was under way."""
    running: defaultdict[str, list[int]] = defaultdict(list)
    for container in containers:
        identity = InstanceIdentity.from_labels(container.labels)
        if container.state == "running" and identity is not None:
            running[identity.plugin].append(identity.generation)
    resumed, now = {}, datetime.now(UTC)
    for name in plugins:
        resumed[name] = found = resume(deps.releases.get(name), running[name], now)
        try:
            await asyncio.to_thread(deps.releases.write, name, found.state)
        except ReleaseStoreError as error:
            _log.warning("%s: %s", name, error)
    return resumed


async def _is_current(deps: SupervisorDeps, plugin: DiscoveredPlugin, container: ContainerStatus) -> bool:
    """Whether the plugin's prebuilt image, if it has one, is still this."""
    if plugin.manifest is None:
        return False
    try:
        return await deps.builder.is_current(ImageRecipe.of(plugin.manifest, plugin.folder), container.image_id)
    except NotFoundError:
        return False


def _made_from(
    deps: SupervisorDeps, plugin: DiscoveredPlugin, container: ContainerStatus, *, changed: bool
) -> tuple[Manifest, EffectiveLimits]:
    if not changed and plugin.manifest is not None:
        return plugin.manifest, effective_limits(plugin.manifest, deps.settings)
    found = made_from(container.labels)
    if found is None:
        raise AdoptionRefusedError("the plugin, its limits or the runtime have changed")
    return found


def _require_ready(status: RuntimeStatus) -> None:
    if status.phase != "ready":
        raise AdoptionRefusedError(f"its runtime reports {status.phase}")


def _require_limits(deps: SupervisorDeps, limits: EffectiveLimits, status: RuntimeStatus) -> None:
    # A new container may be held to them; else its start says what is wrong.
    missing = missing_limits(limits, status.limits, deps.settings.allow_unlimited)
    if missing:
        raise AdoptionRefusedError(f"it is not held to its limits of {', '.join(missing)}")


def _require_gpus(deps: SupervisorDeps, grant: Grant | None, way: Way | None) -> None:
    if grant is not None and not deps.gpus.adopt(grant, way):
        raise AdoptionRefusedError("another container has its GPU")


async def _remove(deps: SupervisorDeps, container: ContainerStatus) -> None:
    try:
        await deps.engine.remove(container.id)
    except EngineError as error:
        _log.warning("the leftover container %s could not be removed yet: %s", container.name, error)
        _quarantine_gpus(deps, container)


def _quarantine_gpus(deps: SupervisorDeps, container: ContainerStatus) -> None:
    # It may still run on its GPUs: nobody is granted them before it is removed.
    identity = InstanceIdentity.from_labels(container.labels)
    if identity is None:
        return
    with suppress(ValueError):
        grant = Grant.from_labels(container.labels, holder=identity.instance, plugin=identity.plugin)
        if grant is not None and deps.gpus.adopt(grant):
            gpus = ", ".join(grant.uuids)
            deps.gpus.quarantine(identity.instance, f"{gpus}: the container {container.name} could not be removed.")


def _remove_folders(run_dir: Path, in_use: set[str]) -> None:
    if run_dir.is_dir():
        for folder in run_dir.iterdir():
            if folder.name not in in_use:
                shutil.rmtree(folder, ignore_errors=True)
