"""Candidate: what an update brings up, made ready from the plugin's folder or from what is on file of a release.

Nothing of it starts anything, or touches an instance that serves.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.loader.samples import Sample
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import InstanceEndedError
from orchestrator.supervisor.preparation import Template, prepare, prepare_from
from orchestrator.supervisor.proof import samples_of
from orchestrator.supervisor.releases import Release
from orchestrator.supervisor.start_verdict import verdict_of_manifest
from orchestrator.supervisor.update import AskedStrategy, Strategy, choose_strategy

_MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release, what its instances are made from, and the calls that prove them."""

    release: Release
    template: Template
    samples: tuple[Sample, ...]


async def from_folder(deps: SupervisorDeps, plugin: DiscoveredPlugin) -> Candidate:
    """Of what the plugin's folder has now; its image is built. Raises `InstanceEndedError`, `BuildError`, `OSError`."""
    found = await asyncio.to_thread(deps.loader.reload, plugin)
    manifest = found.manifest
    if manifest is None:
        raise InstanceEndedError(verdict_of_manifest(found.error))
    # Before the build, which may take minutes.
    samples = await asyncio.to_thread(samples_of, found.folder)
    limits = effective_limits(manifest, deps.settings)
    prepared = await prepare(deps, manifest, limits, found.folder)
    release = Release.of(manifest, content=prepared.content, image_id=prepared.image_id, folder=found.folder)
    return Candidate(release, Template(manifest, limits, found.folder, prepared), samples)


async def from_file(deps: SupervisorDeps, release: Release, folder: Path) -> Candidate:
    """Of a release that served before. Raises `InstanceEndedError`, `OSError`."""
    # Proven by its start alone: the folder's sample calls are those of the release that is left.
    return Candidate(release, await template_of(deps, release, folder), ())


async def template_of(deps: SupervisorDeps, release: Release, folder: Path) -> Template:
    """What instances of a release on file are made from, its image and what it needs of the host being there. Raises
    `InstanceEndedError`, `OSError`.
    """
    try:
        manifest = release.read_manifest()
    except ValueError:
        sentence = (
            f"The manifest of {release.name.version} on file is one that this program takes no longer; restart it."
        )
        raise InstanceEndedError(Verdict(ReasonCode.MANIFEST_INVALID, sentence)) from None
    prepared = await prepare_from(deps, manifest, folder, content=release.content, image_id=release.image_id)
    return Template(manifest, effective_limits(manifest, deps.settings), folder, prepared)


async def strategy_for(
    deps: SupervisorDeps, candidate: Candidate, asked: AskedStrategy, *, alone: bool
) -> tuple[Strategy, str]:
    """By what the operator asked for, the manifest, and what there is room for now. `alone`: no instance serves."""
    if alone:
        return "overlap", "no instance serves that could be in its way"
    manifest = candidate.template.manifest
    return choose_strategy(
        manifest.update,
        asked,
        gpu_missing=await deps.gpus.missing(manifest),
        parks=deps.gpus.would_park(manifest),
        memory_needed=candidate.template.limits.memory,
        memory_free=_available_memory(),
    )


def _available_memory() -> int | None:
    """Bytes, of this host; None where it does not say."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
