"""RunFiles: the files of one run on disk, while the run goes on."""

import asyncio
import hashlib
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, TypeVar

from orchestrator.sandbox.call import OutputFile, StorageError

_UNFINISHED: Final = ".part"  # no file of a run begins with a dot

OVERHEAD: Final = 4096
"""Bytes that each file counts for beside its own: empty ones take room too."""

_T = TypeVar("_T")


class RunFiles:
    """A `FileStore`. `reserve` makes room for so many bytes before a file is written, or raises `StorageError`."""

    # A write that was cancelled goes on in its thread. So whatever touches the folder takes the lock, and nothing makes
    # the folder anew once it is removed.

    def __init__(self, folder: str | Path, reserve: Callable[[int], None]) -> None:
        self.finished: dict[str, OutputFile] = {}
        """By name; these can be read."""
        self.reserved = 0
        """Bytes."""
        self.used = False
        """Whether any was ever started."""
        self._folder = folder
        self._reserve = reserve
        self._lock = threading.Lock()
        self._removed = False
        self._file: IO[bytes] | None = None  # that is being written

    @property
    def folder(self) -> Path:
        return Path(self._folder)  # made when it is needed: few runs have files

    async def write(self, name: str, media_type: str, size: int, chunks: AsyncIterator[bytes]) -> OutputFile:
        self._reserve(size + OVERHEAD)
        self.reserved += size + OVERHEAD
        self.used = True
        digest = hashlib.sha256()
        try:
            await self._within(name, self._create)
            async for chunk in chunks:
                await self._within(name, self._append, digest, chunk)
            await self._within(name, self._finish, name)
        except BaseException:
            _in_background(self._abandon)
            raise
        stored = self.finished[name] = OutputFile(name, media_type, size, digest.hexdigest())
        return stored

    def discard(self) -> None:
        """Remove all of them, soon."""
        self.finished.clear()
        _in_background(self._remove)

    async def _within(self, name: str, work: Callable[..., _T], *arguments: object) -> _T:
        """Do it in a thread, under the lock."""

        def locked() -> _T:
            with self._lock:
                if self._removed:
                    raise FileNotFoundError
                return work(*arguments)

        try:
            return await asyncio.to_thread(locked)
        except OSError as error:
            raise StorageError(
                f"The file {name} of the result cannot be stored: {error.strerror or 'its folder is removed'}. See to "
                "the disk of the orchestrator's state folder, then call again."
            ) from error

    def _create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = (self.folder / _UNFINISHED).open("wb", buffering=0)

    def _append(self, digest: "hashlib._Hash", chunk: bytes) -> None:
        digest.update(chunk)
        view = memoryview(chunk)
        while view and self._file is not None:
            view = view[self._file.write(view) :]

    def _finish(self, name: str) -> None:
        self._close()
        (self.folder / _UNFINISHED).rename(self.folder / name)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _abandon(self) -> None:
        with self._lock:
            self._close()
            with suppress(OSError):
                (self.folder / _UNFINISHED).unlink(missing_ok=True)

    def _remove(self) -> None:
        with self._lock:
            self._removed = True
            self._close()
            shutil.rmtree(self.folder, ignore_errors=True)


def _in_background(work: Callable[..., object], *arguments: object) -> None:
    asyncio.get_running_loop().run_in_executor(None, work, *arguments)
