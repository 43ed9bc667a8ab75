"""Parking: which idle instances are stopped, and when. Pure."""

from orchestrator.loader.manifest import Manifest
from orchestrator.settings import Settings


def starts_uncalled(manifest: Manifest, settings: Settings) -> bool:
    """Whether the orchestrator's own start begins an instance of this plugin before anybody calls it."""
    return not (settings.parked and manifest.may_be_parked)
