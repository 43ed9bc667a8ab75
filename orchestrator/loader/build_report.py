"""A build's log file for the operator, and one sentence of advice on a failed build."""

import itertools
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self

# Pattern → advice; the first match wins. Network comes before packages: without it, no package is found either.
_HINTS: Final = {
    r"No space left on device": """
        The disk is full: free space where the container engine stores images (docker system df, docker image prune).
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
        or PIP_INDEX_URL where it has its own package index.
        """,
    r"Unable to locate package|has no installation candidate": """
        Correct system_packages in plugin.yaml: Debian has no package of that name.
        """,
    r"No matching distribution found|Could not find a version that satisfies|ResolutionImpossible": """
        Correct requirements.txt: the package index has no version that fits it and this Python.
        """,
    r"command '?\S*(gcc|g\+\+|cc|cmake)'? failed|unable to execute|CMake must be installed|No such file.*'g?cc'|"
    r"legacy-install-failure|failed-wheel-build|Failed building wheel|Failed to build|Python\.h: No such file": """
        A requirement has to be compiled: require a version that comes as a wheel, or add what compiles it to
        system_packages in plugin.yaml (build-essential, python3-dev, and the libraries that it names).
        """,
    r"the plugin's code does not compile": """
        Correct it; nothing else has to be built again.
        """,
    r"pull access denied|manifest unknown|manifest for \S+ not found|repository does not exist": """
        The image it is built on is missing: run `make up`, which builds it, or set ORCHESTRATOR_PYTHON_IMAGE to one
        that can be pulled, such as python:3.11-slim-bookworm.
        """,
}

# pip's account of a conflict: a heading, one line per party, an empty line.
_CONFLICT: Final = "The conflict is caused by:"
_CONSTRAINT: Final = re.compile(r"The user requested \(constraint\) (?P<name>[\w.-]+)==(?P<version>\S+)")
_REQUESTED: Final = re.compile(r"The user requested (?!\(constraint\))(?P<wish>.+)")
_DEPENDS: Final = re.compile(r"(?P<by>.+) depends on (?P<wish>.+)")
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*")
_SHOWN_WISHES: Final = 2  # pip names each version that it has tried
_CLASH: Final = (
    "{wishes}, and the runtime in this image needs {runtime}, which cannot be replaced. Remove it from "
    "requirements.txt, or require a version of it, or of what depends on it, that allows {name} {version}."
)

_MAX_TAIL: Final = 4 * 1024**2  # bytes of a log file's end that are read

# pip's last error names its kind, and what could not be installed below it.
_KIND: Final = re.compile(r"[a-z]+(-[a-z]+)+")
_NOT_BUILT: Final = re.compile(r"╰─> (?P<packages>[A-Za-z0-9][\w.-]*(, [A-Za-z0-9][\w.-]*)*)\s*")

_ERROR_LINE = re.compile(r"^\s*(?:ERROR|E|error|fatal error):\s+(?P<text>.+)$")


def hint(output: str) -> str:
    """Advice on a failed build with this output; empty for an unknown failure."""
    for pattern, advice in _HINTS.items():
        if re.search(pattern, output, re.IGNORECASE):
            return " ".join(advice.split())
    return ""


def error_line(output: str) -> str:
    """The last error line of pip, apt or a compiler; empty without one."""
    packages = ""
    for line in reversed(output.splitlines()):
        if (match := _ERROR_LINE.match(line)) is not None:
            text = match["text"].strip()
            return f"pip could not install {packages} ({text})" if packages and _KIND.fullmatch(text) else text
        if (named := _NOT_BUILT.fullmatch(line.strip())) is not None:
            packages = packages or named["packages"]
    return ""


def conflict(output: Iterable[str], fixed: Collection[str]) -> str | None:
    """What clashes with the runtime's own packages, whose names are `fixed`, by pip's account; None without a clash."""
    lines = [line.strip() for line in output]
    if _CONFLICT not in lines:
        return None
    account = list(itertools.takewhile(bool, lines[len(lines) - lines[::-1].index(_CONFLICT) :]))
    for line in account:
        pin = _CONSTRAINT.fullmatch(line)
        if pin is not None and _canonical(pin["name"]) in fixed:
            name = pin["name"]
            wishes = [wish for wish in dict.fromkeys(_wish(other, name) for other in account) if wish]
            more = f" (and {len(wishes) - _SHOWN_WISHES} more)" if len(wishes) > _SHOWN_WISHES else ""
            return _CLASH.format(
                wishes=(" and ".join(wishes[:_SHOWN_WISHES]) or f"requirements.txt wants another {name}") + more,
                runtime=f"{name}=={pin['version']}",
                name=name,
                version=pin["version"],
            )
    return None


def _wish(line: str, package: str) -> str:
    """What a line of pip's account wants of a package; empty for another line."""
    if (depends := _DEPENDS.fullmatch(line)) is not None and _names(depends["wish"], package):
        return f"{depends['by']} (which requirements.txt installs) wants {depends['wish']}"
    if (requested := _REQUESTED.fullmatch(line)) is not None and _names(requested["wish"], package):
        return f"requirements.txt wants {requested['wish']}"
    return ""


def _names(requirement: str, package: str) -> bool:
    name = _NAME.match(requirement)
    return name is not None and _canonical(name[0]) == _canonical(package)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def modified_at(path: Path) -> float:
    """When a build last wrote to its log file; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def last_lines(path: Path, count: int) -> str:
    """The last lines of a build's log file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MAX_TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
    except OSError:
        return ""
    return "".join(lines[-count:])


class BuildLog:
    """The log file of a build, written line by line; the previous build's becomes `<name>.log.1`."""

    # A disk that cannot take the log must not fail the build.

    def __init__(self, folder: Path, name: str, *, appends: bool = False) -> None:
        """`appends`: this build goes on where the previous one has ended."""
        self.path = folder / f"{name}.log"
        self._appends = appends
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self._appends:
                self.path.replace(self.path.with_suffix(".log.1"))
            self._file = self.path.open("a", encoding="utf-8", errors="replace", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def write(self, line: str) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.write(f"{line}\n")
