"""Reads, off the event loop and beside the writer: each with a read-only connection of its own, so that none ever
sees a file that is not the one at the path.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from orchestrator.registry.history import file
from orchestrator.registry.history.problems import not_read

_THREADS: Final = 2
_PATIENCE: Final = 5.0
"""Seconds that a read may take."""
_LATELY: Final = 5.0
"""Seconds that a failed read is spoken of: nobody asks again just to see whether it works."""
_INSTRUCTIONS: Final = 100_000
"""SQLite's instructions between looks at the clock; some milliseconds."""

_T = TypeVar("_T")
Query = Callable[[sqlite3.Connection], _T]

_log = logging.getLogger(__name__)


class Reader:
    """Never raises anything but cancellation: what cannot be read is the default, and `problem` says why."""

    def __init__(self, path: Path) -> None:
        self._problem: str | None = None
        self._problem_until = 0.0
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="history-reader")

    @property
    def problem(self) -> str | None:
        """Why a question got no answer lately."""
        return self._problem if time.monotonic() < self._problem_until else None

    async def ask(self, query: Query[_T], default: _T) -> _T:
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, query)
        except Exception as error:  # noqa: BLE001 - a question about the past breaks nothing
            self._fail(error)
            return default
        self._problem = None
        return answer

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, query: Query[_T]) -> _T:
        deadline = time.monotonic() + _PATIENCE
        with closing(file.open_readable(self._path)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS)
            return query(connection)

    def _fail(self, error: Exception) -> None:
        problem = not_read(error)
        if problem != self.problem:
            _log.error("%s", problem)
        self._problem, self._problem_until = problem, time.monotonic() + _LATELY
