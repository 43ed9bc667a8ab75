"""Docker 26, the first in Debian with CDI: fetched with apt from Debian 13, unpacked, never installed.

It uses the host's own runc: Debian 13's needs a newer libc than Debian 12 has.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs
import pytest

SUITE = "trixie"
PACKAGES = ("docker.io", "containerd", "tini")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def docker26() -> tuple[str, str]:
    """The path of its dockerd, and the folders that must come first on its PATH.

    Fetched once, into the user's cache. Skips the test if it cannot be fetched: no apt, no network.
    """
    root = unpacked("docker26", PACKAGES)
    return str(root / "usr/sbin/dockerd"), f"{root / 'usr/bin'}:{root / 'usr/sbin'}"


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """A root folder with the files of Debian 13's `packages`: the folder `name` of the user's cache.

    Skips the test if they cannot be fetched: no apt, no network.
    """
    root = platformdirs.user_cache_path("plugin-orchestrator") / name
    if not root.exists():
        _fetch(root, packages)
    return root


def _fetch(root: Path, packages: Sequence[str]) -> None:
    if shutil.which("apt-get") is None or not Path(KEYRING).exists():
        pytest.skip(f"Debian 13's {packages[0]} is fetched with apt, and this is no Debian")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        work = Path(name)
        environment = {**os.environ, "APT_CONFIG": str(_apt_config(work))}
        for command in (["update"], ["download", *packages]):
            try:
                subprocess.run(["apt-get", "--quiet", *command], cwd=work, env=environment, check=True, timeout=240)
            except subprocess.SubprocessError as error:
                pytest.skip(f"Debian 13's {packages[0]} could not be fetched: {error}")
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg", "--extract", str(package), str(work / "root")], check=True)
        (work / "root").rename(root)


def _apt_config(work: Path) -> Path:
    """Settings under which apt uses only Debian 13 and writes only below `work`."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    config = work / "apt.conf"
    config.write_text(
        f'Dir::State "{work}/state";\nDir::State::status "/dev/null";\nDir::Cache "{work}/cache";\n'
        f'Dir::Etc::SourceList "{work}/sources.list";\nDir::Etc::SourceParts "/dev/null";\nAPT::Sandbox::User "root";\n'
    )
    return config


def _mirror() -> str:
    """The mirror that this machine's apt uses for Debian itself: a mirror of Debian has all releases."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"]
    listed = subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines()
    for uri, _, label in (line.partition(" ") for line in listed):
        if label == "Debian" or uri.rstrip("/").endswith("/debian"):  # no label where apt has no lists yet
            return uri
    pytest.skip("Debian 13's packages are fetched with apt, and apt's sources name no mirror of Debian")
