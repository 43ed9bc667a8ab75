"""What an instance is made from, as one hash: two starts that would make the same instance have the same."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.manifest import Manifest
from orchestrator.supervisor.container_policy import EffectiveLimits
from orchestrator.supervisor.deps import SupervisorDeps


def fingerprint(deps: SupervisorDeps, manifest: Manifest, limits: EffectiveLimits, folder: Path) -> str:
    """SHA-256 over manifest, limits, code, base image sources, and which model files there are. Reads files.

    Raises `BuildError`, `OSError`.
    """
    models = deps.checker.models_folder(manifest, folder)
    facts = {
        "manifest": manifest.model_dump(mode="json"),
        "limits": asdict(limits),
        "image": deps.builder.fingerprint(ImageRecipe.of(manifest, folder)),
        "models": {name: _stamp(models / relative) for name, relative in manifest.models.items()},
        "max_result": int(deps.settings.max_result),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> list[int]:
    """Gigabytes are not read for this: another file has another inode, size or time."""
    told = path.stat()
    return [told.st_ino, told.st_size, told.st_mtime_ns]
