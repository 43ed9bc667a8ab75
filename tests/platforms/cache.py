"""What rows need and is slow to get: kept in the user's cache, made anew when it is out of date."""

import os
import subprocess
from pathlib import Path

import platformdirs

from platforms.rooms import PROJECT, NotHadError

BASE_IMAGE = "plugin-orchestrator/python:3.11-bookworm"


def folder() -> Path:
    """`PLATFORMS_CACHE`, else one of the user's cache."""
    named = os.environ.get("PLATFORMS_CACHE")
    folder = Path(named) if named else platformdirs.user_cache_path("plugin-orchestrator") / "platforms"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make(what: str, seconds: float) -> None:
    """Have `uml/tree` make a part of the cache that is not there or out of date; its progress is seen."""
    made = subprocess.run([PROJECT / "tests/platforms/uml/tree", folder(), what], timeout=seconds, check=False)
    if made.returncode:
        raise NotHadError(f"tests/platforms/uml/tree could not make {what}; its message is above")


def programs() -> Path:
    """A root folder with slirp4netns, a kernel that is a program, and compose."""
    make("programs", 600)
    return folder() / "programs"


def save_images() -> Path:
    """An archive of the base image, as this machine's engine has it."""
    archive = folder() / "images.tar"
    inspected = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", BASE_IMAGE], capture_output=True, text=True, check=False
    )
    if inspected.returncode:
        raise NotHadError(f"this machine's engine has no image {BASE_IMAGE}: run make base-image")
    identity = folder() / "images.id"
    if not archive.exists() or not identity.exists() or identity.read_text() != inspected.stdout:
        subprocess.run(["docker", "save", "--output", archive, BASE_IMAGE], check=True, timeout=300)
        identity.write_text(inspected.stdout)
    return archive
