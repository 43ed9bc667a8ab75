"""Build contexts: the files that go into an image, their hash, and a copy of them for the engine."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from orchestrator.errors import BuildError

EXCLUDED: Final = ("samples", "tests", "models", "plugin.yaml")
"""Names at the top of a plugin's folder that its code does not need: a new sample or limit must not cause a build."""

_ALWAYS_EXCLUDED = frozenset({"__pycache__", "node_modules"})
_EXCLUDED_SUFFIXES = (".pyc", ".pyo", ".egg-info")


@dataclass(frozen=True, slots=True)
class ContextFile:
    """A file or symbolic link; `path` is relative to the folder."""

    path: PurePosixPath
    source: Path
    executable: bool
    link: str | None = None  # target of a symbolic link, relative to the link's folder


def context_files(folder: Path, excluded: Iterable[str] = ()) -> list[ContextFile]:
    """The files of `folder` in a fixed order, without dot-files, caches, the paths `excluded` (files, or whole folders)
    and what these lead to as links.

    Raises `BuildError` for a symbolic link that leads out of the folder: its content would depend on this host.
    """
    if not folder.is_dir():
        raise BuildError(f"the folder {folder.name} does not exist")
    root = folder.resolve()
    return list(_walk(root, root, _with_targets(root, excluded)))


def files_at(folder: Path, path: PurePosixPath, excluded: Iterable[str] = ()) -> list[ContextFile]:
    """The file `path` of `folder`, or everything below it if it is a folder. A link to a file is that file.

    Raises `BuildError` for a symbolic link below it that leads out of `folder`.
    """
    source = folder / path
    if source.is_dir():
        root = folder.resolve()
        return list(_walk(root / path, root, _with_targets(root, excluded)))
    return [ContextFile(path, source, executable=os.access(source, os.X_OK))]


def content_hash(files: Iterable[ContextFile], *more: str) -> str:
    """SHA-256 of the names, contents and executability of `files`, and of the texts `more`."""
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
        copy = target / file.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.link is not None:
            copy.symlink_to(file.link)
            continue
        try:
            shutil.copyfile(file.source, copy)
        except OSError as error:
            raise BuildError(f"{file.path} cannot be read: {error.strerror}") from error
        copy.chmod(0o755 if file.executable else 0o644)


def _with_targets(root: Path, excluded: Iterable[str]) -> set[PurePosixPath]:
    paths = {PurePosixPath(path) for path in excluded}
    for path in tuple(paths):
        try:
            target = (root / path).resolve()
        except (OSError, RuntimeError, ValueError):
            continue  # links in a circle, which are excluded themselves
        if target.is_relative_to(root):
            paths.add(PurePosixPath(target.relative_to(root).as_posix()))
    return paths


def _walk(folder: Path, root: Path, excluded: set[PurePosixPath]) -> Iterator[ContextFile]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BuildError(f"{folder.relative_to(root)} cannot be read: {error.strerror}") from error
    for entry in entries:
        path = Path(entry.path)
        name = PurePosixPath(path.relative_to(root).as_posix())
        if entry.name.startswith(".") or entry.name in _ALWAYS_EXCLUDED or entry.name.endswith(_EXCLUDED_SUFFIXES):
            continue
        if name in excluded:
            continue
        if entry.is_symlink():
            yield ContextFile(name, path, executable=False, link=_inner_link(path, root))
        elif entry.is_dir():
            yield from _walk(path, root, excluded)
        elif entry.is_file():
            yield ContextFile(name, path, executable=bool(entry.stat().st_mode & 0o100))


def _inner_link(path: Path, root: Path) -> str:
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        raise BuildError(f"{path.relative_to(root)} is a symbolic link in a circle; remove it") from None
    if not target.is_relative_to(root):
        raise BuildError(
            f"{path.relative_to(root)} is a symbolic link that leads out of the plugin's folder; "
            "put the file itself into the folder, or list it under models"
        )
    return os.path.relpath(target, path.parent)


def _file_hash(file: ContextFile) -> str:
    try:
        with file.source.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BuildError(f"{file.path} cannot be read: {error.strerror}") from error


def _feed(digest: "hashlib._Hash", kind: str, text: str) -> None:
    # The length in front makes the encoding unambiguous: no text can pass for two others.
    encoded = text.encode("utf-8", "surrogateescape")
    digest.update(f"{kind} {len(encoded)}\n".encode())
    digest.update(encoded)
