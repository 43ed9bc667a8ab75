"""ResultStore: results of asynchronous runs, and of those that gave files, on disk with these files until they expire.

Each is a file: a line of JSON with the members of the result, then the tool's own JSON text. The run's files are in a
folder beside it, which counts for nothing without it: it is written last and removed first.
"""

import asyncio
import logging
import os
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from msgspec.structs import asdict, replace

from orchestrator.formatting import format_size
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry.history import RunRecord
from orchestrator.sandbox.call import Outcome, OutputFile, RunResult, StorageError, is_run_id
from orchestrator.tools.run_files import OVERHEAD, RunFiles

_UNFINISHED: Final = ".part"
_FILES: Final = ".files"
_MAX_HEAD: Final = 8 * 1024 * 1024  # bytes of the first line, which lists the files

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """`result` lacks its JSON text: the rest of `file`, `size` bytes. Close the file."""

    plugin: str
    tool: str
    result: RunResult
    file: IO[bytes]
    size: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a run, open. Close it."""

    about: OutputFile
    file: IO[bytes]


class ResultStore:
    """Stores results for `max_age` seconds each, and at most `max_bytes` of them and their files; the oldest are
    removed first.
    """

    def __init__(self, folder: Path, *, max_age: float, max_bytes: int) -> None:
        self._folder = folder
        self._max_age = max_age
        self._max_bytes = max_bytes
        # By run id, oldest first: wall-clock time of its end, bytes.
        self._stored: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._live: dict[str, RunFiles] = {}  # of runs that have not ended

    def open(self) -> None:
        """Create the folder, or read what it holds."""
        try:
            self._scan()
        except OSError as error:
            _log.error("the folder of results cannot be used: %s", error.strerror)

    def _scan(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = []
        paths = {path.name: path for path in self._folder.iterdir()}
        for name, path in paths.items():
            if is_run_id(name):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size + _size_of(paths.get(name + _FILES)), name))
            elif not (name.endswith(_FILES) and name.removesuffix(_FILES) in paths):
                _remove(path)
        self._stored = OrderedDict((name, (ended, size)) for ended, size, name in sorted(found))
        self._expire()

    async def store(self, run: RunRecord, result: RunResult) -> bool:
        """False where it could not be written."""
        try:
            size = await asyncio.to_thread(self._write, run, result)
        except OSError as error:
            _log.error("the result of run %s cannot be stored: %s", run.run_id, error.strerror)
            return False
        files = self._live.pop(run.run_id, None) if result.files else None
        self._stored[run.run_id] = (time.time(), size + (files.reserved if files else 0))
        self._stored.move_to_end(run.run_id)
        self._expire()
        asyncio.get_running_loop().call_later(self._max_age + 1, self._expire)
        return True

    async def find(self, run_id: str) -> StoredResult | None:
        """None where there is none, also since it has expired."""
        self._expire()
        return await asyncio.to_thread(self._read, run_id) if run_id in self._stored else None

    def files_of(self, run_id: str) -> RunFiles:
        """Where a run that goes on stores its files. `store` keeps them with its result; `end_run` removes others."""
        files = self._live[run_id] = RunFiles(f"{self._folder}/{run_id}{_FILES}", self._reserve)
        return files

    def end_run(self, run_id: str) -> None:
        """Remove the files of a run whose result was not stored."""
        files = self._live.pop(run_id, None)
        if files is not None and files.used:
            files.discard()

    async def find_file(self, run_id: str, name: str) -> StoredFile | None:
        """Also of a run that goes on. None where there is none, also since it has expired."""
        self._expire()
        live = self._live.get(run_id)
        if live is None and run_id not in self._stored:
            return None
        return await asyncio.to_thread(self._open_file, run_id, name, None if live is None else live.finished.get(name))

    def _reserve(self, size: int) -> None:
        """Make room for a file of a run that goes on. Raises `StorageError`."""
        reserved = size + sum(files.reserved for files in self._live.values())
        if reserved > self._max_bytes:
            raise StorageError(
                f"The files of the runs that go on need {format_size(reserved)}, and all results together may have "
                f"{format_size(self._max_bytes)}. Call again when fewer run, or raise ORCHESTRATOR_RESULTS_MAX_BYTES."
            )
        self._expire(size)

    def _open_file(self, run_id: str, name: str, about: OutputFile | None) -> StoredFile | None:
        if about is None:
            stored = self._read(run_id)
            if stored is None:
                return None
            stored.file.close()
            about = next((file for file in stored.result.files if file.name == name), None)
            if about is None:
                return None
        try:
            # By the name that was stored, not the caller's.
            file = (self._folder / (run_id + _FILES) / about.name).open("rb")
        except OSError:
            return None
        if os.fstat(file.fileno()).st_size != about.size:  # the host lost power
            file.close()
            return None
        return StoredFile(about, file)

    def _write(self, run: RunRecord, result: RunResult) -> int:
        head = {"plugin": run.plugin, "tool": run.tool, **asdict(replace(result, result=None))}
        unfinished = self._folder / (run.run_id + _UNFINISHED)
        try:
            with unfinished.open("wb") as file:
                file.write(msgspec.json.encode(head) + b"\n")
                file.write(result.result or b"null")
            unfinished.rename(self._folder / run.run_id)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        return (self._folder / run.run_id).stat().st_size

    def _read(self, run_id: str) -> StoredResult | None:
        try:
            file = (self._folder / run_id).open("rb")
        except OSError:
            return None
        try:
            head: dict[str, Any] = msgspec.json.decode(file.readline(_MAX_HEAD))
            plugin, tool = head.pop("plugin"), head.pop("tool")
            code = head.pop("reason_code")
            outcome = Outcome(head.pop("outcome"))
            files = tuple(OutputFile(**file) for file in head.pop("files", ()))
            result = RunResult(outcome, reason_code=ReasonCode(code) if code else None, files=files, **head)
            return StoredResult(plugin, tool, result, file, os.fstat(file.fileno()).st_size - file.tell())
        except (OSError, ValueError, KeyError, TypeError):
            file.close()
            return None

    def _expire(self, room: int = 0) -> None:
        """Remove what is too old, or too much with `room` more bytes."""
        total = room + sum(size for _, size in self._stored.values())
        total += sum(files.reserved for files in self._live.values())
        oldest = time.time() - self._max_age
        while self._stored:
            run_id, (ended, size) = next(iter(self._stored.items()))
            if ended >= oldest and total <= self._max_bytes:
                return
            del self._stored[run_id]
            total -= size
            try:
                (self._folder / run_id).unlink(missing_ok=True)
            except OSError as error:
                _log.warning("an old result cannot be removed: %s", error.strerror)
            else:
                self._remove_files(run_id)

    def _remove_files(self, run_id: str) -> None:
        folder = self._folder / (run_id + _FILES)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # at the start
            _remove(folder)
        else:
            loop.run_in_executor(None, _remove, folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size_of(folder: Path | None) -> int:
    """Bytes of the files in it."""
    return sum(path.stat().st_size + OVERHEAD for path in folder.iterdir()) if folder is not None else 0
