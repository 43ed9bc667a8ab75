"""A build's output, kept for the operator; and one sentence on what to do when it failed."""

import re
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self

_HINTS: Final = {
    r"No space left on device": """
        The disk is full: make room where the container engine keeps its images (docker system df, docker image prune).
        """,
    r"CERTIFICATE_VERIFY_FAILED|certificate verif(y|ication) failed|self[- ]signed certificate": """
        The build does not trust this network's certificates: set ORCHESTRATOR_CA_BUNDLE to a file of CA certificates.
        """,
    r"Proxy Authentication Required|ProxyError|Cannot connect to proxy": """
        The proxy refused the build: check HTTPS_PROXY and HTTP_PROXY.
        """,
    r"Temporary failure|Could not resolve|Name or service not known|Network is unreachable|Connection timed out|"
    r"Connection refused|Could not connect|Failed to establish a new connection|ConnectTimeout|ReadTimeoutError": """
        The build could not reach the network: connect this host, set HTTPS_PROXY and HTTP_PROXY where it has a proxy,
        or PIP_INDEX_URL where it has a package index of its own.
        """,
    r"Unable to locate package|has no installation candidate": """
        Correct system_packages in plugin.yaml: Debian has no package of that name.
        """,
    r"No matching distribution found|Could not find a version that satisfies|ResolutionImpossible": """
        Correct requirements.txt: the package index has nothing that fits it and this Python.
        """,
    r"command '?\S*(gcc|g\+\+|cc|cmake)'? failed|unable to execute|CMake must be installed|No such file.*'gcc'": """
        A requirement has to be compiled: ask for a version that comes as a wheel, or add what compiles it to
        system_packages in plugin.yaml (build-essential, for one).
        """,
    r"pull access denied|manifest unknown|manifest for \S+ not found|repository does not exist": """
        The image it is built on is not there: run `make up`, which makes it, or set ORCHESTRATOR_PYTHON_IMAGE to one
        that can be pulled, such as python:3.11-slim-bookworm.
        """,
}
"""Pattern → advice; the first that fits is given. When the network is down, packages are not found either."""

_COMPLAINT = re.compile(r"^\s*(?:ERROR|E|error|fatal error):\s+(?P<text>.+)$")


def hint(output: str) -> str:
    """What to do about a build with this output; empty where it says nothing known."""
    for pattern, advice in _HINTS.items():
        if re.search(pattern, output, re.IGNORECASE):
            return " ".join(advice.split())
    return ""


def complaint(output: str) -> str:
    """The line that says best what went wrong: pip's and apt's own, where there is one. Empty where there is none."""
    for line in reversed(output.splitlines()):
        if (match := _COMPLAINT.match(line)) is not None:
            return match["text"].strip()
    return ""


class BuildLog:
    """A file that takes a build's output, a line at a time; the build before it is kept beside it, as `<name>.log.1`.

    A disk that cannot take it fails no build.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.log"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self.path.replace(self.path.with_suffix(".log.1"))
            self._file = self.path.open("w", encoding="utf-8", errors="replace", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def write(self, line: str) -> None:
        """Keep one line."""
        if self._file is not None:
            with suppress(OSError):
                self._file.write(f"{line}\n")
