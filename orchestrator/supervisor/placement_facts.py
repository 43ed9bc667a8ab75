"""What a front asks of a host before it places a plugin: what the manifest wants, and what is here already."""

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.errors import EngineError
from orchestrator.loader.manifest import Manifest
from orchestrator.registry import PluginRecord
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor


async def placement_facts(deps: SupervisorDeps, supervisor: PluginSupervisor) -> Mapping[str, Any]:
    """As `GET /v1/plugins/{name}/placement` answers. Sizes are bytes. `wants` is None for an invalid manifest."""
    manifest, epoch = supervisor.manifest, supervisor.epoch
    try:
        memory = (await deps.engine_info()).memory or None
    except EngineError:
        memory = None
    return {
        "plugin": supervisor.name,
        "wants": None if manifest is None else _wants(manifest, deps),
        "has": {
            "image": manifest is not None and await _has_image(manifest, deps),
            "models": manifest is not None
            and all(model.path.exists() for model in deps.checker.models(manifest, supervisor.folder)),
            "memory_bytes": memory,
            "committed_bytes": _committed(deps.registry.list()),
        },
        "moved_to": supervisor.moved_to,
        "epoch": {"number": epoch.number, "to": epoch.to, "ends": epoch.ends},
    }


def _wants(manifest: Manifest, deps: SupervisorDeps) -> dict[str, Any]:
    gpu = manifest.gpu
    return {
        "hosts": manifest.placement.hosts,
        "requires": dict(manifest.placement.requires),
        "replicas": manifest.replicas,
        "spread": manifest.spread,
        "memory_bytes": effective_limits(manifest, deps.settings).memory,
        "gpu": {"count": gpu.count, "memory_bytes": gpu.memory, "sharing": gpu.sharing}
        if manifest.requires_gpu
        else None,
    }


async def _has_image(manifest: Manifest, deps: SupervisorDeps) -> bool:
    """Some version of it: a build starts from that."""
    try:
        if manifest.image in ("base", "cuda"):
            await deps.builder.newest(manifest.name)
        else:
            await deps.engine.image(manifest.image)
    except EngineError:
        return False
    return True


def _committed(records: Iterable[PluginRecord]) -> int:
    """Memory that the live instances of all plugins may use."""
    return sum(
        instance.limits.memory
        for record in records
        for instance in record.instances
        if not instance.ended and instance.limits is not None
    )
