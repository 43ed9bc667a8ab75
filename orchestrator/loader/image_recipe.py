"""What a plugin demands of its image, and the Dockerfile for it. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from orchestrator.containers.spec import UNPRIVILEGED_USER
from orchestrator.errors import BuildError
from orchestrator.loader.build_settings import PIP_SETTINGS
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.requirements_file import CODE_FOLDER, REQUIREMENTS

SHARED: Final = ("base", "cuda")
"""The images that plugins are built on; each has a folder of that name among the plugin images."""
HASH_LABEL: Final = "plugin-orchestrator.content-hash"
PLUGIN_LABEL: Final = "plugin-orchestrator.plugin"
"""On a plugin's images and on its containers."""
SHARED_LABEL: Final = "plugin-orchestrator.shared-image"
SOURCE_LABEL: Final = "plugin-orchestrator.source-hash"
"""On a shared image: the hash of its sources, without the Python image under it."""

RUNTIME_PACKAGES: Final = "/opt/venv/runtime-packages.txt"
"""In the base image: the runtime and what it needs, in the versions that are installed, as constraints for pip."""

_DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """A plugin's image, as its manifest demands it."""

    name: str
    folder: Path
    system_packages: tuple[str, ...] = ()
    base: str = "base"  # `base`, `cuda`, or the reference of a prebuilt image, which is used as it is
    excluded: tuple[str, ...] = ()
    """Paths in the folder that do not go into the image, in addition to `build_context.EXCLUDED`."""

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> Self:
        """The manifest's demand."""
        return cls(
            name=manifest.name,
            folder=folder,
            system_packages=manifest.system_packages,
            base=manifest.image,
            # Models are mounted at the start, never baked in.
            excluded=tuple(model.path for model in manifest.models.values()),
        )

    @property
    def prebuilt(self) -> bool:
        return self.base not in SHARED


def shared_tag(kind: str, content_hash: str) -> str:
    return f"plugin-orchestrator/{kind}:{content_hash[:12]}"


def plugin_tag(name: str, content_hash: str) -> str:
    return f"plugin-orchestrator/plugin-{name}:{content_hash[:12]}"


def plugin_dockerfile(base: str, system_packages: Iterable[str], *, requirements: bool) -> str:
    """The Dockerfile of a plugin on the image `base`; its context has the folders `plugin` and, with `requirements`,
    `packages`: requirements.txt and the files that it names.

    Raises `BuildError` for a name that no Debian package can have: a shell would interpret it.
    """
    # Steps that change seldom come first: a change of code installs nothing again.
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
        # pip runs where the plugin's folder will be: there the paths in requirements.txt hold, those of `-e` for good.
        # Its configuration, which may have credentials, is in memory: no layer gets it.
        steps.append(f"COPY packages {CODE_FOLDER}")
        steps.append(
            f'RUN cd {CODE_FOLDER} && printf %s "${PIP_SETTINGS}" >/dev/shm/pip.conf \\\n'
            f" && {PIP_SETTINGS}= PIP_CONFIG_FILE=/dev/shm/pip.conf pip install --no-cache-dir \\\n"
            f"    --constraint {RUNTIME_PACKAGES} --requirement {REQUIREMENTS}"
        )
    steps.append(f"COPY plugin {CODE_FOLDER}")
    # A file that does not compile fails no build: the runtime reports it at the import. Nothing in the image changes
    # later, so the bytecode need not be checked against its source.
    steps.append(f"RUN python -m compileall -q --invalidation-mode unchecked-hash {CODE_FOLDER} || true")
    steps.append(f"USER {UNPRIVILEGED_USER}")
    return "\n".join(steps) + "\n"
