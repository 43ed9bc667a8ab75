"""The files that go into an image: which they are, their hash, and a copy of them that the engine can be given."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from orchestrator.errors import BuildError

LEFT_OUT: Final = ("samples", "tests", "models", "plugin.yaml")
"""Names at the top of a plugin's folder that its code does not need: a new sample or limit must build no new image."""

_NEVER = frozenset({"__pycache__", "node_modules"})
_NEVER_ENDINGS = (".pyc", ".pyo", ".egg-info")


@dataclass(frozen=True, slots=True)
class ContextFile:
    """A file or symbolic link, by its place in the folder."""

    path: PurePosixPath
    source: Path
    executable: bool
    link: str | None = None
    """Where a symbolic link leads, relative to its own folder."""


def context_files(folder: Path, left_out: Iterable[str] = ()) -> list[ContextFile]:
    """The files of `folder` in a fixed order: without dot-files, caches and the paths `left_out`.

    Raises `BuildError` for a symbolic link that leads out of the folder: what it shows would depend on this host.
    """
    if not folder.is_dir():
        raise BuildError(f"the folder {folder.name} is not there")
    root = folder.resolve()
    unwanted = {PurePosixPath(path) for path in left_out}
    return list(_walk(root, root, unwanted))


def content_hash(files: Iterable[ContextFile], *more: str) -> str:
    """SHA-256 over names, contents and executability of `files`, and over the texts `more`."""
    digest = hashlib.sha256()
    for text in more:
        _feed(digest, "text", text)
    for file in files:
        mode = "link" if file.link is not None else "executable" if file.executable else "file"
        _feed(digest, mode, file.path.as_posix())
        _feed(digest, "content", file.link if file.link is not None else _file_hash(file))
    return digest.hexdigest()


def stage(files: Iterable[ContextFile], target: Path) -> None:
    """Copy `files` into the folder `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.link is not None:
            place.symlink_to(file.link)
            continue
        try:
            shutil.copyfile(file.source, place)
        except OSError as error:
            raise BuildError(f"{file.path} cannot be read: {error.strerror}") from error
        place.chmod(0o755 if file.executable else 0o644)


def _walk(folder: Path, root: Path, unwanted: set[PurePosixPath]) -> Iterator[ContextFile]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BuildError(f"{folder.relative_to(root)} cannot be read: {error.strerror}") from error
    for entry in entries:
        path = Path(entry.path)
        place = PurePosixPath(path.relative_to(root).as_posix())
        if entry.name.startswith(".") or entry.name in _NEVER or entry.name.endswith(_NEVER_ENDINGS):
            continue
        if place in unwanted:
            continue
        if entry.is_symlink():
            yield ContextFile(place, path, executable=False, link=_inner_link(path, root))
        elif entry.is_dir():
            yield from _walk(path, root, unwanted)
        elif entry.is_file():
            yield ContextFile(place, path, executable=bool(entry.stat().st_mode & 0o100))


def _inner_link(path: Path, root: Path) -> str:
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        raise BuildError(
            f"{path.relative_to(root)} is a symbolic link that leads round in a circle; remove it"
        ) from None
    if not target.is_relative_to(root):
        raise BuildError(
            f"{path.relative_to(root)} is a symbolic link that leads out of the plugin's folder; "
            "put the file itself there, or list it under models"
        )
    return os.path.relpath(target, path.parent)


def _file_hash(file: ContextFile) -> str:
    try:
        with file.source.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BuildError(f"{file.path} cannot be read: {error.strerror}") from error


def _feed(digest: "hashlib._Hash", kind: str, text: str) -> None:
    # With its length in front no text can pass for two others.
    encoded = text.encode("utf-8", "surrogateescape")
    digest.update(f"{kind} {len(encoded)}\n".encode())
    digest.update(encoded)
