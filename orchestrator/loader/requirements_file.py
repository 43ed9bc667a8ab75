"""requirements.txt as pip reads it: its lines, and the files of the plugin's folder that they name."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from orchestrator.errors import BuildError
from orchestrator.loader.build_context import ContextFile, files_at

REQUIREMENTS: Final = "requirements.txt"
CODE_FOLDER: Final = PurePosixPath("/plugin")
"""Where a plugin's folder is in its image, and where pip runs."""

_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_ARCHIVES: Final = (".whl", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar.lzma")
_EXTRAS: Final = re.compile(r"\[[^\]]*\]$")
_DIRECT: Final = re.compile(r"[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@\s*(?P<reference>.+)", re.DOTALL)
# Options that name a file or folder: short and long form, as pip's optparse takes them.
_INCLUDE: Final = {"-r": "--requirement", "-c": "--constraint"}
_PATHS: Final = {**_INCLUDE, "-e": "--editable", "-f": "--find-links"}


@dataclass(frozen=True, slots=True)
class Line:
    """One requirement or option, with continuation lines joined and without comments. `file` is relative to the
    plugin's folder.
    """

    file: PurePosixPath
    number: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.file} line {self.number}"

    @property
    def requirement(self) -> str:
        """The line without its options."""
        return self._split()[0]

    @property
    def path(self) -> str | None:
        """The file or folder that its requirement is, as it is written; None for the name of a package or a URL."""
        return _local_path(self.requirement)

    def option_values(self) -> Iterator[tuple[str, str]]:
        """The values of its options that name a file: (option's short form, value)."""
        try:
            words = iter(shlex.split(self._split()[1]))
        except ValueError:  # an unclosed quote: pip reports it
            return
        for word in words:
            for short, long in _PATHS.items():
                if word in (short, long):
                    yield short, next(words, "")
                elif word.startswith(f"{long}="):
                    yield short, word.removeprefix(f"{long}=")
                elif word.startswith(short) and not word.startswith("--"):
                    yield short, word.removeprefix(short)

    def _split(self) -> tuple[str, str]:
        words = self.text.split(" ")
        options = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
        return " ".join(words[:options]).strip(), " ".join(words[options:])


def lines(folder: Path, file: PurePosixPath) -> list[Line]:
    """The lines of a requirements file in the folder. Raises `BuildError` where it cannot be read."""
    try:
        content = (folder / file).read_text("utf-8-sig", "replace")
    except OSError as error:
        raise BuildError(f"{file} cannot be read: {error.strerror}") from error
    return [Line(file, number, text) for number, text in _joined(content) if text]


def named_files(folder: Path, excluded: Iterable[str]) -> list[ContextFile]:
    """requirements.txt and everything in the folder that it names, also through further files; in a fixed order.

    `excluded`: paths in a named folder that are left out. Raises `BuildError` for a file that is missing or lies
    outside the plugin's folder.
    """
    if not (folder / REQUIREMENTS).is_file():
        return []
    root = PurePosixPath(REQUIREMENTS)
    found = {root: files_at(folder, root)[0]}
    for line in _all_lines(folder, _INCLUDE):
        for _, path in _named(folder, line):
            found.update((each.path, each) for each in files_at(folder, path, excluded))
    return [found[path] for path in sorted(found)]


def requirement_lines(folder: Path) -> list[Line]:
    """The lines of requirements.txt and of those that it includes (`-r`). Raises `BuildError`, as `named_files`."""
    return list(_all_lines(folder, ("-r",)))


def _all_lines(folder: Path, included: Iterable[str]) -> Iterator[Line]:
    """Lines of requirements.txt and of the files that options of these names add to it."""
    options = set(included)
    waiting = [PurePosixPath(REQUIREMENTS)]
    read = set(waiting)
    while waiting:
        for line in lines(folder, waiting.pop()):
            yield line
            further = [path for option, path in _named(folder, line) if option in options and path not in read]
            read.update(further)
            waiting += further


def _named(folder: Path, line: Line) -> Iterator[tuple[str, PurePosixPath]]:
    """Paths in the folder that this line names: (option's short form, or nothing for a requirement, and path)."""
    if "${" in line.text:  # a variable of the build, which pip expands
        return
    if (path := line.path) is not None:
        yield "", _inside(folder, line, path, PurePosixPath())
    for option, value in line.option_values():
        if option in _INCLUDE:
            if (path := _path_of(value)) is not None:
                yield option, _inside(folder, line, path, line.file.parent)
        elif option == "-e":
            if (path := _local_path(value, is_path=True)) is not None:
                yield option, _inside(folder, line, path, PurePosixPath())
        elif (path := _path_of(value)) is not None:
            # pip looks beside the file first, then where it runs.
            beside = (folder / line.file.parent / path).exists()
            yield option, _inside(folder, line, path, line.file.parent if beside else PurePosixPath())


def _inside(folder: Path, line: Line, value: str, base: PurePosixPath) -> PurePosixPath:
    """The path, relative to the plugin's folder."""
    normal = PurePosixPath(os.path.normpath(base / value))
    if normal.is_relative_to(CODE_FOLDER):
        normal = normal.relative_to(CODE_FOLDER)
    name = normal.name
    if normal.is_absolute() or ".." in normal.parts or "\0" in value:
        raise BuildError(
            f"{line.where}: {value} is outside the plugin's folder; copy it into the folder and name it from there,"
            f" such as ./vendor/{name}"
        )
    if not (folder / normal).exists():
        raise BuildError(f"{line.where}: {value} is not in the plugin's folder; put it there, or correct the line")
    if not (folder / normal).resolve().is_relative_to(folder.resolve()):
        raise BuildError(
            f"{line.where}: {value} is a symbolic link that leads out of the plugin's folder; put the file itself there"
        )
    return normal


def _local_path(requirement: str, *, is_path: bool = False) -> str | None:
    """The path in a requirement, as pip recognises one; None for anything else."""
    text = requirement.split(" ;", maxsplit=1)[0].strip()
    if (direct := _DIRECT.fullmatch(text)) is not None:
        reference = direct["reference"].strip()
        return _path_of(reference) if reference.startswith("file:") else None
    if text.startswith("file:"):
        return _path_of(text)
    if "://" in text:
        return None
    path = _EXTRAS.sub("", text.split(";")[0].strip())
    looks_so = path.startswith(".") or "/" in path or path.lower().endswith(_ARCHIVES)
    return path if path and (is_path or looks_so) else None


def _path_of(reference: str) -> str | None:
    """The path of a file: URL or of a plain path; None for another URL."""
    if reference.startswith("file:"):
        return unquote(urlsplit(reference).path)
    return None if "://" in reference or not reference else reference


def _joined(content: str) -> Iterator[tuple[int, str]]:
    """Logical lines with the number of their first line, as pip joins them."""
    pieces: list[str] = []
    start = 0
    for number, text in enumerate(content.splitlines(), start=1):
        comment = text.lstrip().startswith("#")
        if not pieces:
            start = number
        if text.endswith("\\") and not comment:
            pieces.append(text.removesuffix("\\"))
            continue
        # A comment ends a continued line.
        pieces.append(f" {text}" if comment else text)
        yield start, _COMMENT.sub("", "".join(pieces)).strip()
        pieces = []
    if pieces:
        yield start, _COMMENT.sub("", "".join(pieces)).strip()
