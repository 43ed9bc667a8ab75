"""Results of asynchronous runs, a file each, until their callers come for them.

A file has the result's other members as a line of JSON, then the result's own JSON text.
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
_LONGEST_HEAD: Final = 1024 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptResult:
    """`result` lacks its JSON text: that is what is left to read of `file`, `size` bytes. Close it."""

    plugin: str
    tool: str
    result: RunResult
    file: IO[bytes]
    size: int


class ResultStore:
    """Of at most `max_bytes` together, each for `max_age` seconds; the oldest have to go first."""

    def __init__(self, folder: Path, *, max_age: float, max_bytes: int) -> None:
        self._folder = folder
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """Oldest first: when it ended, by the wall clock, and bytes."""

    def open(self) -> None:
        """Make the folder, and know again what is in it."""
        try:
            self._look()
        except OSError as error:
            _log.error("the folder of results cannot be used: %s", error.strerror)

    def _look(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = []
        for path in self._folder.iterdir():
            if is_run_id(path.name):
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path.name))
            else:
                path.unlink(missing_ok=True)
        self._kept = OrderedDict((name, (ended, size)) for ended, size, name in sorted(found))
        self._clear()

    async def keep(self, run: RunRecord, result: RunResult) -> bool:
        """False where the disk does not take it."""
        try:
            size = await asyncio.to_thread(self._write, run, result)
        except OSError as error:
            _log.error("the result of run %s cannot be kept: %s", run.run_id, error.strerror)
            return False
        self._kept[run.run_id] = (time.time(), size)
        self._clear()
        asyncio.get_running_loop().call_later(self._max_age + 1, self._clear)
        return True

    async def find(self, run_id: str) -> KeptResult | None:
        """None where there is none, or none any more."""
        self._clear()
        return await asyncio.to_thread(self._read, run_id) if run_id in self._kept else None

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

    def _read(self, run_id: str) -> KeptResult | None:
        try:
            file = (self._folder / run_id).open("rb")
        except OSError:
            return None
        try:
            head: dict[str, Any] = msgspec.json.decode(file.readline(_LONGEST_HEAD))
            plugin, tool = head.pop("plugin"), head.pop("tool")
            code = head.pop("reason_code")
            outcome = Outcome(head.pop("outcome"))
            result = RunResult(outcome, reason_code=ReasonCode(code) if code else None, **head)
            return KeptResult(plugin, tool, result, file, os.fstat(file.fileno()).st_size - file.tell())
        except (OSError, ValueError, KeyError, TypeError):
            file.close()
            return None

    def _clear(self) -> None:
        total = sum(size for _, size in self._kept.values())
        oldest = time.time() - self._max_age
        while self._kept:
            run_id, (ended, size) = next(iter(self._kept.items()))
            if ended >= oldest and total <= self._max_bytes:
                return
            del self._kept[run_id]
            total -= size
            try:
                (self._folder / run_id).unlink(missing_ok=True)
            except OSError as error:
                _log.warning("an old result cannot be removed: %s", error.strerror)
