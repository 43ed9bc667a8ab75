"""What a plugin demands of its image, and how that is made: a script for packages, a Dockerfile for code. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from orchestrator.containers.spec import UNPRIVILEGED_USER
from orchestrator.errors import BuildError
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.requirements_file import CODE_FOLDER, REQUIREMENTS

SHARED: Final = ("base", "cuda")
"""The images that plugins are built on; each has a folder of that name among the plugin images."""
HASH_LABEL: Final = "plugin-orchestrator.content-hash"
PLUGIN_LABEL: Final = "plugin-orchestrator.plugin"
"""On a plugin's images and on its containers."""
PACKAGES_LABEL: Final = "plugin-orchestrator.packages-of"
"""On the images that plugins' own are built on where they require packages."""
INSTALLATION_LABEL: Final = "plugin-orchestrator.installation"
"""On containers that install packages, and on volumes of downloads: which orchestrator's they are."""
SHARED_LABEL: Final = "plugin-orchestrator.shared-image"
SOURCE_LABEL: Final = "plugin-orchestrator.source-hash"
"""On a shared image: the hash of its sources, without the Python image under it."""

RUNTIME_PACKAGES: Final = "/opt/venv/runtime-packages.txt"
"""In the base image: the runtime and what it needs, in the versions that are installed, as constraints for pip."""

INSTALL_FOLDER: Final = "/install"
"""Of the settings for `install_script`: `pip.conf` and `proxies`."""
DOWNLOADS: Final = "/mnt"
"""Where a plugin's volume of downloads is while its packages are installed; an empty folder of every image."""
_SETTINGS: Final = "/dev/shm/install"  # noqa: S108  of a container of its own
_UNUSED_DAYS: Final = 30  # after which a download that no installation has read is deleted

_CHECK: Final = "plugin_runtime.startup.own_code"
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
    module: str = ""
    """The entrypoint's: the image is not built where its code does not compile. Empty: nothing is tried."""

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
            module=manifest.entrypoint.partition(":")[0],
        )

    @property
    def prebuilt(self) -> bool:
        return self.base not in SHARED


def shared_tag(kind: str, content_hash: str) -> str:
    return f"plugin-orchestrator/{kind}:{content_hash[:12]}"


def packages_tag(name: str, content_hash: str) -> str:
    return f"plugin-orchestrator/packages-{name}:{content_hash[:12]}"


def plugin_tag(name: str, content_hash: str) -> str:
    return f"plugin-orchestrator/plugin-{name}:{content_hash[:12]}"


def plugin_dockerfile(base: str, module: str = "") -> str:
    """The Dockerfile of a plugin on the image `base`, which has its packages; its context has the folder `plugin`.
    `module` is the entrypoint's.
    """
    # A file that does not compile fails the build only where the entrypoint's module needs it, and then before an
    # instance is stopped for the new one. Nothing in the image changes later, so the bytecode need not be checked
    # against its source.
    check = f" && python -I -m {_CHECK} {module} {CODE_FOLDER}" if module else ""
    return f"""\
FROM {base}
USER root
COPY plugin {CODE_FOLDER}
RUN (python -m compileall -qq --invalidation-mode unchecked-hash {CODE_FOLDER} || true){check}
USER {UNPRIVILEGED_USER}
"""


def install_script(system_packages: Iterable[str], *, requirements: bool) -> str:
    """The shell script that installs a plugin's packages, with what it downloads in `DOWNLOADS`.

    It finds the files of `install_files` in `INSTALL_FOLDER`, and requirements.txt, with the files that it names, where
    the plugin's folder will be. Raises `BuildError` for a name that no Debian package can have: a shell would interpret
    it.
    """
    packages = sorted(set(system_packages))
    for package in packages:
        if _DEBIAN_PACKAGE.fullmatch(package) is None:
            raise BuildError(f"system_packages: expected the name of a Debian package, not {package!r}")
    # Settings may have credentials: in memory, they get into no layer.
    steps = [f"mv {INSTALL_FOLDER} {_SETTINGS}", f"set -a && . {_SETTINGS}/proxies && set +a"]
    if packages:
        archives = f"{DOWNLOADS}/apt"
        steps += [
            f"mkdir -p {archives}/partial && chown _apt {archives}/partial",
            f"apt='apt-get -o Dir::Cache::Archives={archives} -o APT::Keep-Downloaded-Packages=true'",
            "$apt update",
            "DEBIAN_FRONTEND=noninteractive $apt install --yes --no-install-recommends " + " ".join(packages),
            "$apt autoclean",
            "rm -rf /var/lib/apt/lists/*",
        ]
    if requirements:
        # pip runs where the plugin's folder will be: there the paths in requirements.txt hold, those of `-e` for good.
        steps += [
            f"cd {CODE_FOLDER} && unset PIP_NO_CACHE_DIR",
            f"export PIP_CONFIG_FILE={_SETTINGS}/pip.conf PIP_CACHE_DIR={DOWNLOADS}/pip",
            f"python /opt/venv/cached_pip.py install --constraint {RUNTIME_PACKAGES} --requirement {REQUIREMENTS}",
        ]
    steps.append(f"find {DOWNLOADS} -type f -atime +{_UNUSED_DAYS} -delete")
    return "\n".join(steps) + "\n"
