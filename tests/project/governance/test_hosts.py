"""No file names the host of a package registry: each tool's own configuration decides where packages come from."""

import os
import re
import subprocess

import pytest
from support.checkout import PROJECT

MACHINE_WRITTEN = {"uv.lock"}
"""uv writes the index of every package into its lock; nobody edits that file, and another index can serve it."""
_IN_PIECES = (
    "pypi org",
    "pythonhosted org",
    "deb debian org",
    "security debian org",
    "archive ubuntu com",
    "npmjs org",
    "npmjs com",
    "registry-1 docker io",
    "index docker io",
    "docker io/",
    "ghcr io",
    "quay io",
    "nvcr io",
)
"""In pieces, so that this file names none of them."""
HOSTS = tuple(pieces.replace(" ", ".") for pieces in _IN_PIECES)
_NAMED = re.compile("|".join(re.escape(host) for host in HOSTS))


def tree() -> list[str]:
    """Every file that is under version control, or would be with the next commit."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.split(b"\0")
    return sorted({os.fsdecode(name) for name in listed if (PROJECT / os.fsdecode(name)).is_file()})


def test_no_file_names_a_registry() -> None:
    """Neither as a default nor in a comment, a page or the sample text of a test."""
    found = [
        f"{name}: {line.strip()[:100]}"
        for name in tree()
        if name not in MACHINE_WRITTEN
        for line in (PROJECT / name).read_text(errors="replace").splitlines()
        if _NAMED.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("host", HOSTS)
def test_each_of_them_would_be_found(host: str) -> None:
    assert _NAMED.search(f"see https://{host}/simple for it")


def test_the_package_of_docker_in_debian_is_no_host() -> None:
    """Debian calls its package of Docker Engine as the registry's domain is called."""
    assert not _NAMED.search(f"apt-get install {'docker io'.replace(' ', '.')} iptables")
