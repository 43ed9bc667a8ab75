"""What a plugin's image is made of, and the Dockerfile that says so. Nothing is read or run here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from orchestrator.containers.spec import UNPRIVILEGED_USER
from orchestrator.errors import BuildError
from orchestrator.loader.manifest import Manifest

SHARED: Final = ("base", "cuda")
"""The images that plugins are built on; each is a folder of that name among the plugin images."""
HASH_LABEL: Final = "plugin-orchestrator.content-hash"
PLUGIN_LABEL: Final = "plugin-orchestrator.plugin"
"""On a plugin's images and on its containers."""
SHARED_LABEL: Final = "plugin-orchestrator.shared-image"
SOURCE_LABEL: Final = "plugin-orchestrator.source-hash"
"""On a shared image: the hash of what it was built from, without the Python image under it."""

REQUIREMENTS: Final = "requirements.txt"

_DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """A plugin's wish for an image."""

    name: str
    folder: Path
    system_packages: tuple[str, ...] = ()
    base: str = "base"
    """`base`, `cuda`, or the reference of a prebuilt image, which is taken as it is."""
    left_out: tuple[str, ...] = ()
    """Paths in the folder that do not go into the image, besides those that never do: a manifest's models."""

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> Self:
        """What the manifest asks for. Models are mounted when the plugin starts, never baked in."""
        return cls(
            name=manifest.name,
            folder=folder,
            system_packages=manifest.system_packages,
            base=manifest.image,
            left_out=tuple(manifest.models.values()),
        )

    @property
    def prebuilt(self) -> bool:
        """Whether there is nothing to build."""
        return self.base not in SHARED


def shared_tag(kind: str, content_hash: str) -> str:
    """The tag of a shared image with this content."""
    return f"plugin-orchestrator/{kind}:{content_hash[:12]}"


def plugin_tag(name: str, content_hash: str) -> str:
    """The tag of a plugin's image with this content."""
    return f"plugin-orchestrator/plugin-{name}:{content_hash[:12]}"


def plugin_dockerfile(base: str, system_packages: Iterable[str], *, requirements: bool) -> str:
    """The Dockerfile of a plugin on the image `base`; its context holds requirements.txt and the folder `plugin`.

    What changes seldom comes first: a change of code installs nothing again. Raises `BuildError` for a name that no
    Debian package can have, since it would be read by a shell.
    """
    packages = sorted(set(system_packages))
    for package in packages:
        if _DEBIAN_PACKAGE.fullmatch(package) is None:
            raise BuildError(f"system_packages: expected the name of a Debian package, not {package!r}")
    steps = [f"FROM {base}", "USER root"]
    if packages:
        steps.append(
            "RUN apt-get update \\\n"
            " && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \\\n"
            f"    {' '.join(packages)} \\\n"
            " && rm -rf /var/lib/apt/lists/*"
        )
    if requirements:
        steps.append("ARG PIP_INDEX_URL")
        steps.append(f"COPY {REQUIREMENTS} /tmp/{REQUIREMENTS}")
        steps.append(f"RUN pip install --no-cache-dir --requirement /tmp/{REQUIREMENTS}")
    steps.append("COPY plugin /plugin")
    # A file that does not compile is no failed build: the runtime says what is wrong when it imports it. Nothing in
    # the image changes later, so the bytecode need not be held against its source.
    steps.append("RUN python -m compileall -q --invalidation-mode unchecked-hash /plugin || true")
    steps.append(f"USER {UNPRIVILEGED_USER}")
    return "\n".join(steps) + "\n"
