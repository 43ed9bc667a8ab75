"""Adoption: the containers that an earlier orchestrator left running are adopted, or removed."""

import asyncio
import logging
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.containers.spec import ContainerStatus
from orchestrator.errors import EngineError, NotFoundError, OrchestratorError
from orchestrator.gpus import Grant
from orchestrator.gpus.device_requests import Way, way_of
from orchestrator.lifecycle import FINAL_STATES
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import EffectiveLimits, LifecycleEvent
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.supervisor.bring_up import content_of
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

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adopted:
    """An instance that lives on, its channel open, and its status."""

    instance: Instance
    status: RuntimeStatus
    changed: bool
    """A start would make it differently now: a restart is due."""


class AdoptionRefusedError(OrchestratorError):
    """A container cannot be adopted; the message says why, for the log."""


def newest_running(containers: Iterable[ContainerStatus]) -> dict[str, tuple[ContainerStatus, InstanceIdentity]]:
    """By plugin, its running container of the highest generation. Pure."""
    found: defaultdict[str, list[tuple[InstanceIdentity, ContainerStatus]]] = defaultdict(list)
    for container in containers:
        identity = InstanceIdentity.from_labels(container.labels)
        if identity is not None and container.state == "running":
            found[identity.plugin].append((identity, container))
    # An older one is still there where its removal had failed.
    newest = {name: max(each, key=lambda pair: pair[0].generation) for name, each in found.items()}
    return {name: (container, identity) for name, (identity, container) in newest.items()}


async def adopt_all(
    deps: SupervisorDeps, plugins: Iterable[DiscoveredPlugin], last_events: Mapping[str, LifecycleEvent]
) -> dict[str, Adopted]:
    """Adopt or remove the containers of an earlier orchestrator, and remove unused socket folders. Returns the adopted
    instances by plugin. `last_events`: by plugin, the newest in the history.
    """
    await deps.builder.clear_leftovers()
    try:
        leftovers = instances_of(await deps.engine.list(deps.labels))
    except EngineError as error:
        # The fleet removes them as orphans once the engine can be reached.
        _log.warning("leftover containers could not be listed: %s", error)
        return {}
    by_name = {plugin.name: plugin for plugin in plugins}
    chosen = {name: pair for name, pair in newest_running(leftovers).items() if name in by_name}
    attempts = await asyncio.gather(
        *(_adopt(deps, by_name[name], *pair, last_events.get(name)) for name, pair in chosen.items())
    )
    adopted = {found.instance.identity.plugin: found for found in attempts if found is not None}
    ids = {found.instance.container_id for found in adopted.values()}
    # Before any start: they may hold what the new instances need.
    await asyncio.gather(*(_remove(deps, container) for container in leftovers if container.id not in ids))
    with suppress(EngineError):
        await deps.engine.sweep(deps.labels)
    in_use = {found.instance.run_folder.name for found in adopted.values()}
    await asyncio.to_thread(_remove_folders, deps.run_dir, in_use)
    return adopted


async def _adopt(
    deps: SupervisorDeps,
    plugin: DiscoveredPlugin,
    container: ContainerStatus,
    identity: InstanceIdentity,
    last_event: LifecycleEvent | None,
) -> Adopted | None:
    instance: Instance | None = None
    try:
        _require_alive(identity, last_event)
        changed = not await _unchanged(deps, plugin, container, identity)
        manifest, limits = _made_from(deps, plugin, container, changed=changed)
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
    return Adopted(instance, status, changed)


def _require_alive(identity: InstanceIdentity, last_event: LifecycleEvent | None) -> None:
    """By what the earlier orchestrator recorded of the instance."""
    if last_event is None:
        return
    if last_event.generation > identity.generation:
        raise AdoptionRefusedError("a newer instance had started")
    if last_event.generation == identity.generation and last_event.state in FINAL_STATES:
        raise AdoptionRefusedError(f"it had ended: {last_event.reason_code}")


async def _unchanged(
    deps: SupervisorDeps, plugin: DiscoveredPlugin, container: ContainerStatus, identity: InstanceIdentity
) -> bool:
    """Whether a start would make the same instance now."""
    if identity.content != await asyncio.to_thread(content_of, plugin, deps):
        return False
    assert plugin.manifest is not None  # noqa: S101 - else there is no content
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
