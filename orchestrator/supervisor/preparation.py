"""Preparation: all that can be known and made before an instance is started. Nothing here starts one, or touches one
that runs.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from plugin_runtime.startup.model_files import walk

from orchestrator.errors import BuildError
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import Check, EffectiveLimits
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.activity import activity
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import InstanceEndedError
from orchestrator.supervisor.start_verdict import engine_verdicts

_log = logging.getLogger(__name__)

_SLOW_LOOK: Final = 1.0  # seconds from which on a look at the GPUs is shown
_OF_THE_SET: Final = {"replicas", "spread", "update", "idle", "placement"}
"""Fields of a manifest that say how many instances there are, where and when, not what one is made of."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a preparation has found and made."""

    checks: tuple[Check, ...]
    content: str
    """The fingerprint."""
    image_id: str


@dataclass(frozen=True, slots=True)
class Template:
    """What instances are made from. A release on file is one that is prepared."""

    manifest: Manifest
    limits: EffectiveLimits
    folder: Path
    prepared: Prepared | None = None
    """None: each instance prepares itself."""


async def prepare(
    deps: SupervisorDeps,
    manifest: Manifest,
    limits: EffectiveLimits,
    folder: Path,
    *,
    on_checks: Callable[..., None] = lambda *_: None,
    on_build: Callable[[], None] = lambda: None,
) -> Prepared:
    """Check the host and make the image ready. `on_checks` takes the host's checks before anything is built, `on_build`
    is called with every line of a build.

    Raises `InstanceEndedError`, `BuildError`, `OSError`.
    """
    # First: nothing is built for a plugin whose GPU does not work.
    if manifest.requires_gpu:
        await _check_gpus(deps, manifest.name)
    checks = await asyncio.to_thread(check_host, deps, manifest, folder)
    on_checks(*checks)
    # Before the build: after a change in between, the next orchestrator replaces the container and does not adopt it.
    content = await asyncio.to_thread(fingerprint, deps, manifest, limits, folder)
    return Prepared(checks, content, await _ensure_image(deps, manifest, folder, on_build))


async def prepare_from(
    deps: SupervisorDeps, manifest: Manifest, folder: Path, *, content: str, image_id: str
) -> Prepared:
    """As `prepare`, for what was made before: nothing is built. Raises `InstanceEndedError`, `OSError`."""
    if manifest.requires_gpu:
        await _check_gpus(deps, manifest.name)
    checks = await asyncio.to_thread(check_host, deps, manifest, folder)
    async with engine_verdicts("its image was looked up"):
        await deps.engine.image(image_id)
    return Prepared(checks, content, image_id)


def check_host(deps: SupervisorDeps, manifest: Manifest, folder: Path) -> tuple[Check, ...]:
    """The host-side checks. Raises `InstanceEndedError` for the first that fails."""
    checks = deps.checker.check(manifest, folder)
    for check in checks:
        if check.code is not None:
            # The log is the operator's: the reason, which callers see, has no path of this host.
            _log.warning("%s: %s: %s It is %s on this host.", manifest.name, check.code, check.reason, check.path)
            raise InstanceEndedError(Verdict(check.code, check.reason or check.detail))
    return tuple(Check(check.name, check.ok, check.detail, "host") for check in checks)


def fingerprint(deps: SupervisorDeps, manifest: Manifest, limits: EffectiveLimits, folder: Path) -> str:
    """SHA-256 over everything that an instance is made from. Raises `BuildError`, `OSError`."""
    content = {
        "manifest": manifest.model_dump(mode="json", exclude=_OF_THE_SET),
        "limits": msgspec.structs.asdict(limits),
        "image": deps.builder.fingerprint(ImageRecipe.of(manifest, folder)),
        "models": {model.name: _model_stamp(model.path) for model in deps.checker.models(manifest, folder)},
        "max_result": int(deps.settings.max_result),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def content_of(plugin: DiscoveredPlugin, deps: SupervisorDeps) -> str | None:
    """The fingerprint of the instance that would be made now; None where something for it is missing."""
    if plugin.manifest is None:
        return None
    with suppress(BuildError, OSError):  # the preparation says what is wrong
        return fingerprint(deps, plugin.manifest, effective_limits(plugin.manifest, deps.settings), plugin.folder)
    return None


async def _check_gpus(deps: SupervisorDeps, plugin: str) -> None:
    async with activity(deps.registry, plugin, f"waiting {deps.gpus.waits_for_driver()}") as say:
        waits = asyncio.get_running_loop().call_later(_SLOW_LOOK, say, "")
        try:
            await deps.gpus.check()
        finally:
            waits.cancel()


async def _ensure_image(deps: SupervisorDeps, manifest: Manifest, folder: Path, on_build: Callable[[], None]) -> str:
    """The id of the plugin's image, built where its content has changed."""
    recipe = ImageRecipe.of(manifest, folder)
    doing, done = ("pulling", "pulled") if recipe.prebuilt else ("building", "built")
    async with (
        engine_verdicts("its image was made ready"),
        activity(deps.registry, manifest.name, f"{doing} its image", done=f"{done} its image") as say,
    ):

        def on_output(line: str) -> None:
            say(line)
            on_build()

        return (await deps.builder.ensure_plugin(recipe, on_output)).id


def _model_stamp(path: Path) -> list[list[str | int]]:
    # Gigabytes are not read for this: another file has another inode, size or time.
    if not path.is_dir():
        return [_file_stamp("", path)]
    return [_file_stamp(file.relative, Path(file.path)) for file in walk(str(path))]


def _file_stamp(name: str, path: Path) -> list[str | int]:
    stat = path.stat()
    return [name, stat.st_ino, stat.st_size, stat.st_mtime_ns]
