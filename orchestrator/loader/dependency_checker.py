"""DependencyChecker, host side: dependencies that are known to be missing before anything is built or started.

The container checks its own view again (packages, models, GPU), which is authoritative.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from plugin_runtime.startup import model_files

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import Manifest, Model
from orchestrator.loader.plugin_secrets import SecretMissingError, SecretSource
from orchestrator.models.store import ModelStore


@dataclass(frozen=True, slots=True)
class DependencyCheck:
    """The check of one dependency. `code` and `reason` are None where it is present."""

    name: str
    detail: str
    code: ReasonCode | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        return self.code is None


class DependencyChecker:
    """Checks on the host that a plugin's model files are valid by their first 16 bytes, and that its secrets exist."""

    def __init__(
        self, models_dir: Path | None = None, secrets: SecretSource | None = None, store: ModelStore | None = None
    ) -> None:
        self._models_dir = models_dir
        self.store = store or ModelStore(Path(os.devnull))
        self.secrets = secrets or SecretSource(Path(os.devnull), {})

    def models_folder(self, manifest: Manifest, folder: Path) -> Path:
        """The host folder of this plugin's model files."""
        return folder if self._models_dir is None else self._models_dir / manifest.name

    def model_paths(self, manifest: Manifest, folder: Path) -> dict[str, Path]:
        """Where each model is on the host, whether it exists or not: the store's file, else the one at its path."""
        base = self.models_folder(manifest, folder)
        return {name: self._fetched(model) or base / model.path for name, model in manifest.models.items()}

    def _fetched(self, model: Model) -> Path | None:
        # Before a file at its path: that may be what an earlier manifest named, and nobody has hashed it.
        return None if model.sha256 is None else self.store.find(model.sha256)

    def check(self, manifest: Manifest, folder: Path) -> list[DependencyCheck]:
        """One check per model file and per secret, in the manifest's order."""
        base = self.models_folder(manifest, folder)
        models = [self._check_model(manifest.name, name, base, model) for name, model in manifest.models.items()]
        return models + [self._check_secret(manifest.name, name) for name in manifest.secrets]

    def _check_secret(self, plugin: str, name: str) -> DependencyCheck:
        try:
            self.secrets.read(plugin, name)
        except SecretMissingError as error:
            return DependencyCheck(f"secret:{name}", "is missing", ReasonCode.SECRET_MISSING, str(error))
        return DependencyCheck(f"secret:{name}", "is provided")

    def _check_model(self, plugin: str, name: str, base: Path, model: Model) -> DependencyCheck:
        check, relative = f"model:{name}", model.path
        if self._fetched(model) is not None:
            return DependencyCheck(check, "it is in the model store, which holds right files alone")
        path = base / relative
        if not _inside(path, base):
            sentence = (
                f"The model {name!r} ({relative}) is a link out of its folder. Put the file itself there, then restart"
                " the plugin."
            )
            return DependencyCheck(check, "leaves its folder", ReasonCode.MODEL_MISSING, sentence)
        problem = model_files.check_model_file(name, path)
        if problem is None:
            return DependencyCheck(check, "its first bytes fit its format")
        where = "its plugin's folder" if self._models_dir is None else f"<MODELS_DIR>/{base.name}"
        if model.sources and not os.path.lexists(path):
            sentence = (
                f"The model {name!r} ({relative}) has not been fetched. Run `orchestrator models pull {plugin}`, then"
                f" `orchestrator start {plugin}`."
            )
            return DependencyCheck(check, "has not been fetched", ReasonCode.MODEL_MISSING, sentence)
        sentence = f"{problem.reason} ({relative} in {where})"
        return DependencyCheck(check, problem.reason, ReasonCode(problem.code), sentence)


def _inside(path: Path, base: Path) -> bool:
    try:
        return path.resolve().is_relative_to(base.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False
