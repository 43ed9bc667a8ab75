"""DependencyChecker, host side: dependencies that are known to be missing before anything is built or started.

The container checks its own view again (packages, models, GPU), which is authoritative.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from plugin_runtime.startup.model_files import check_model

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.model_locations import ModelLocation, locate_models
from orchestrator.loader.plugin_secrets import SecretMissingError, SecretSource
from orchestrator.models.store import ModelStore


@dataclass(frozen=True, slots=True)
class DependencyCheck:
    """The check of one dependency. `code` and `reason` are None where it is present."""

    name: str
    detail: str
    code: ReasonCode | None = None
    reason: str | None = None
    path: Path | None = None
    """Where on this host it is missing or wrong: for the operator's terminal and log, never for a caller."""

    @property
    def ok(self) -> bool:
        return self.code is None


class DependencyChecker:
    """Checks on the host that a plugin's models can be what their files' names say, and that its secrets exist."""

    def __init__(
        self, models_dir: Path | None = None, secrets: SecretSource | None = None, store: ModelStore | None = None
    ) -> None:
        self._models_dir = models_dir
        self.store = store or ModelStore(Path(os.devnull))
        self.secrets = secrets or SecretSource(Path(os.devnull), {})

    def models(self, manifest: Manifest, folder: Path) -> list[ModelLocation]:
        """Where the plugin's models are on the host."""
        return locate_models(manifest, folder, self._models_dir, self.store)

    def check(self, manifest: Manifest, folder: Path) -> list[DependencyCheck]:
        """One check per model and per secret, in the manifest's order."""
        models = [_check_model(location) for location in self.models(manifest, folder)]
        return models + [self._check_secret(manifest.name, name) for name in manifest.secrets]

    def _check_secret(self, plugin: str, name: str) -> DependencyCheck:
        check = f"secret:{name}"
        try:
            self.secrets.read(plugin, name)
        except SecretMissingError as error:
            path = self.secrets.path(plugin, name)
            return DependencyCheck(check, "is missing", ReasonCode.SECRET_MISSING, str(error), path)
        return DependencyCheck(check, "is provided")


def _check_model(location: ModelLocation) -> DependencyCheck:
    check = f"model:{location.name}"
    if location.stored is not None:
        return DependencyCheck(check, "is in the model store, which holds right files alone")
    if not location.inside():
        sentence = (
            f"The model {location.name!r} ({location.declared}) is a link out of its folder. Put the model itself"
            " there, then restart the plugin."
        )
        return DependencyCheck(check, "leaves its folder", ReasonCode.MODEL_MISSING, sentence, location.path)
    found = check_model(location.name, location.path, location.remedy)
    if found.failure is None:
        return DependencyCheck(check, found.detail)
    sentence = found.failure.reason
    if location.remedy not in sentence:
        sentence += f" ({location.declared} in {location.base_name})"
    return DependencyCheck(check, found.detail, ReasonCode(found.failure.code), sentence, location.path)
