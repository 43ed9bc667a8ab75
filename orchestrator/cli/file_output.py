"""Saves the files of a result, or only describes them; returns the text that replaces each in the printed result.

Both kinds take files that the orchestrator stores (`file`) and files inline in the result, perhaps in parts (`start`,
`write`, `finish`).
"""

import filecmp
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Self

from rich.text import Text

from orchestrator.cli.console import errors, fail
from orchestrator.cli.result_files import InlineFile
from orchestrator.cli.tables import RUN_DIGITS
from orchestrator.client import FileNotSaved, ResultFile
from orchestrator.client.downloads import rename_to_new, safe_name
from orchestrator.formatting import format_size

STDOUT: Final = "-"
"""In place of a path."""


class DescribedFiles:
    """Each file is printed as its name, type and size."""

    def __init__(self) -> None:
        self._run: str | None = None
        self._count = 0
        self._name = self._kind = ""
        self._sizes: list[int] = []

    def file(self, file: ResultFile) -> str:
        self._count += 1
        self._run = file["url"].split("/")[3][:RUN_DIGITS]
        return _described(file.name, file.media_type, [file.size])

    def start(self, name: str, first: InlineFile) -> None:
        self._count += 1
        self._name, self._kind, self._sizes = name, first.media_type, []

    def write(self, part: InlineFile) -> None:
        self._sizes.append(len(part.content))

    def finish(self) -> str:
        return _described(self._name, self._kind, self._sizes)

    def print_hint(self) -> None:
        """Print how to save them. Inline files are not stored: only the same command with -o saves those."""
        if self._count:
            how = "-o DIR" if self._run is None else f"`orchestrator runs result {self._run} -o DIR`"
            _notify(f"{how} saves the {'file' if self._count == 1 else 'files'}.", "dim")


class SavedFiles:
    """Each file is written, whole or not at all: into a folder, or the only file to a path.

    In a folder, a file whose name is taken by another file gets a number.
    """

    def __init__(self, output: str) -> None:
        """`output` is a folder if it exists as one, ends with a slash, or has no suffix and does not exist; or
        `STDOUT`, for the content of the one file.
        """
        self._path = Path(output)
        self._to_stdout = output == STDOUT
        self._for_stdout: Path | None = None
        is_folder = self._path.is_dir() or output.endswith(os.sep)
        self._in_folder = not self._to_stdout and (is_folder or not (self._path.suffix or os.path.lexists(self._path)))
        self._count = 0
        self._known: dict[str, str] = {}
        self._at_end = ExitStack()
        self._scratch: Path | None = None
        self._name = ""
        self._writing: IO[bytes] = io.BytesIO()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a full disk, which has been reported
            self._at_end.close()

    def check(self) -> None:
        """Exit with an error unless a path for one file got exactly one."""
        if self._for_stdout is not None and self._count == 1:
            self._print(self._for_stdout)
        if self._in_folder or self._count == 1:
            return
        if self._count == 0:
            fail(f"The result holds no file: {self._path} is not written.")
        if self._to_stdout:
            fail(f"The result holds {self._count} files, and stdout is for one. Give -o a folder for all of them.")
        fail(f"The result holds {self._count} files, and {self._path} is the first. Give -o a folder for all of them.")

    def file(self, file: ResultFile) -> str:
        if (known := self._known.get(file["url"])) is None:
            known = self._known[file["url"]] = self._fetched(file)
        return known

    def start(self, name: str, first: InlineFile) -> None:  # noqa: ARG002 - described files say its type
        self._count += 1
        self._name = safe_name(name)
        with self._explained():
            self._writing = self._at_end.enter_context(self._unfinished().open("xb"))

    def write(self, part: InlineFile) -> None:
        with self._explained():
            self._writing.write(part.content)

    def finish(self) -> str:
        with self._explained():
            self._writing.close()
            return self._move_to_target(self._unfinished(), self._name)

    def _fetched(self, file: ResultFile) -> str:
        self._count += 1
        name = safe_name(file.name)
        with self._explained():
            if self._in_folder and _is_same(self._path / name, file):
                return str(self._path / name)
            if not self._in_folder and self._count > 1:
                return _described(file.name, file.media_type, [file.size])
            return self._move_to_target(file.save(self._unfinished()), name)

    def _unfinished(self) -> Path:
        """The temporary path of the current file, on the disk of its final path."""
        if self._scratch is None:
            if self._in_folder:
                self._path.mkdir(parents=True, exist_ok=True)
            near = self._path if self._in_folder else self._path.resolve().parent
            beside = None if self._is_device() else near
            self._scratch = Path(
                self._at_end.enter_context(tempfile.TemporaryDirectory(prefix=".unfinished-", dir=beside))
            )
        return self._scratch / str(self._count)

    def _move_to_target(self, unfinished: Path, name: str) -> str:
        """Move a complete file to its final path."""
        if self._in_folder:
            return str(_in_folder(unfinished, self._path, name))
        if self._to_stdout:
            self._for_stdout = self._for_stdout or unfinished
            return name
        if self._count > 1:
            return f"{name} ({format_size(unfinished.stat().st_size)})"
        if self._is_device():
            with unfinished.open("rb") as source, self._path.open("wb") as device:
                shutil.copyfileobj(source, device)
        else:
            if self._path.exists() and not filecmp.cmp(self._path, unfinished, shallow=False):
                _notify(f"{self._path} was another file; it is replaced.")
            unfinished.replace(self._path.resolve())
        return str(self._path)

    def _print(self, file: Path) -> None:
        """Write a file to stdout, as it is."""
        with self._explained(), file.open("rb") as content:
            if _on_terminal() and _is_binary(content):
                fail("The file is binary, and stdout is a terminal. Give -o a name, or send it on: -o - | program")
            sys.stdout.flush()
            shutil.copyfileobj(content, sys.stdout.buffer)
            sys.stdout.buffer.flush()

    def _is_device(self) -> bool:
        """Whether the path is written to, not replaced."""
        return self._to_stdout or (self._path.exists() and not self._path.is_file() and not self._in_folder)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FileNotSaved) as error:
            cause = error.__cause__ if isinstance(error, FileNotSaved) else error
            fail(f"Cannot write to {self._path}: {getattr(cause, 'strerror', None) or error}")


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _is_binary(content: IO[bytes]) -> bool:
    """By its first bytes, as `grep` decides it, or by an escape sequence."""
    start = content.read(8192)
    content.seek(0)
    return b"\0" in start or b"\x1b" in start


def _in_folder(unfinished: Path, folder: Path, name: str) -> Path:
    """Move the file into the folder, with a number if another file has its name."""
    stem, dot, suffix = name.rpartition(".")
    number, target = 1, folder / name
    while True:
        try:
            rename_to_new(unfinished, target)
        except FileExistsError:
            if not (target.is_file() and filecmp.cmp(target, unfinished, shallow=False)):
                number += 1
                target = folder / (f"{stem}-{number}{dot}{suffix}" if stem else f"{name}-{number}")
                continue
        if number > 1:
            _notify(f"{folder / name} is another file; this one is {target.name}.")
        return target


def _is_same(path: Path, file: ResultFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _described(name: str, media_type: str, sizes: list[int]) -> str:
    parts = f" in {len(sizes)} parts" if len(sizes) > 1 else ""
    about = ", ".join(filter(None, (media_type, format_size(sum(sizes)) + parts)))
    return f"{name} ({about})"


def _notify(sentence: str, style: str = "") -> None:
    errors.print(Text(sentence, style), soft_wrap=True)
