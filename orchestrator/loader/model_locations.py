"""Where a plugin's models are on the host: decided here alone, for the check, the mounts and the fingerprint."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.loader.manifest import Manifest
from orchestrator.models.store import ModelStore


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A model of a manifest, a file or a folder that need not be there."""

    name: str
    declared: str
    """Its path in plugin.yaml, which says its file's name in the container too."""
    base: Path
    """The host's folder that the path is relative to; no link may lead out of it."""
    base_name: str
    """The base in a sentence that callers see: no path of the host."""

    stored: Path | None = None
    """The store's file of its SHA-256."""
    pull: str = ""
    """What fetches and uses it; empty where nothing says from where."""

    @property
    def path(self) -> Path:
        # The store's first: one at its place may be what an earlier manifest named, and nobody has hashed it.
        return self.stored or self.place

    @property
    def place(self) -> Path:
        """Where its path in plugin.yaml leads."""
        return self.base / self.declared

    @property
    def remedy(self) -> str:
        """What brings the model where it is missing, as the end of a sentence."""
        return f"run {self.pull}" if self.pull else f"put it at {self.declared} in {self.base_name}"

    def inside(self) -> bool:
        """Whether its place is in its base, wherever links lead."""
        try:
            return self.place.resolve().is_relative_to(self.base.resolve())
        except (OSError, RuntimeError):  # links in a circle
            return False


def locate_models(
    manifest: Manifest, folder: Path, models_dir: Path | None, store: ModelStore | None = None
) -> list[ModelLocation]:
    """In the manifest's order. `folder`: the plugin's own, whose models are replaced by `<models_dir>/<plugin>`."""
    base, base_name = folder, "the plugin's folder"
    if models_dir is not None:
        base, base_name = models_dir / manifest.name, f"<MODELS_DIR>/{manifest.name}"
    pull = f"`orchestrator models pull {manifest.name}`, then restart the plugin"
    return [
        ModelLocation(
            name,
            model.path,
            base,
            base_name,
            stored=store.find(model.sha256) if store is not None and model.sha256 is not None else None,
            pull=pull if model.sources else "",
        )
        for name, model in manifest.models.items()
    ]
