"""ResultStore: results of asynchronous runs on disk, until they expire.

Each is a file: a line of JSON with the members of the result, then the tool's own JSON text.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from orchestrator.lifecycle import ReasonCode
from orchestrator.registry.history import RunRecord
from orchestrator.sandbox.call import Outcome, RunResult, is_run_id

_UNFINISHED: Final = ".part"
_MAX_HEAD: Final = 1024 * 1024  # bytes of the first line

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """`result` lacks its JSON text: the rest of `file`, `size` bytes. Close the file."""

    plugin: str
    tool: str
    result: RunResult
    file: IO[bytes]
    size: int


class ResultStore:
    """Stores results for `max_age` seconds each, and at most `max_bytes` of them; the oldest are removed first."""

    def __init__(self, folder: Path, *, max_age: float, max_bytes: int) -> None:
        self._folder = folder
        self._max_age = max_age
        self._max_bytes = max_bytes
        # By run id, oldest first: wall-clock time of its end, bytes.
        self._stored: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def open(self) -> None:
        """Create the folder, or read what it holds."""
        try:
            self._scan()
        except OSError as error:
            _log.error("the folder of results cannot be used: %s", error.strerror)

    def _scan(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = []
        for path in self._folder.iterdir():
            if is_run_id(path.name):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path.name))
            else:
                path.unlink(missing_ok=True)
        self._stored = OrderedDict((name, (ended, size)) for ended, size, name in sorted(found))
        self._expire()

    async def store(self, run: RunRecord, result: RunResult) -> bool:
        """False where it could not be written."""
        try:
            size = await asyncio.to_thread(self._write, run, result)
        except OSError as error:
            _log.error("the result of run %s cannot be stored: %s", run.run_id, error.strerror)
            return False
        self._stored[run.run_id] = (time.time(), size)
        self._expire()
        asyncio.get_running_loop().call_later(self._max_age + 1, self._expire)
        return True

    async def find(self, run_id: str) -> StoredResult | None:
        """None where there is none, also since it has expired."""
        self._expire()
        return await asyncio.to_thread(self._read, run_id) if run_id in self._stored else None

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
            result = RunResult(outcome, reason_code=ReasonCode(code) if code else None, **head)
            return StoredResult(plugin, tool, result, file, os.fstat(file.fileno()).st_size - file.tell())
        except (OSError, ValueError, KeyError, TypeError):
            file.close()
            return None

    def _expire(self) -> None:
        total = sum(size for _, size in self._stored.values())
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
