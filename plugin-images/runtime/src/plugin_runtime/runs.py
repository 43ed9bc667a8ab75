"""The runs that the worker knows: those in flight, and the answers that are kept of those that have ended."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plugin_runtime import cancellation
from plugin_runtime.cancellation import Cancellation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugin_runtime.kept_answers import KeptAnswer
    from plugin_runtime.run_board import RunBoard

MOST_KEPT = 256
"""Answers; of more, the oldest is forgotten."""


class Run:
    """One call on its way. `keep`: its answer stays until it is deleted."""

    __slots__ = ("answer", "cancellation", "ended", "keep", "run_id")

    def __init__(self, run_id: str, *, keep: bool) -> None:
        self.run_id = run_id
        self.keep = keep
        self.cancellation = Cancellation()
        self.answer: KeptAnswer | None = None
        self.ended = False


class RunBook:
    """Used by every connection's thread."""

    def __init__(self, board: RunBoard) -> None:
        self._board = board
        self._runs: dict[str, Run] = {}
        self._kept: dict[str, Run] = {}
        self._end = threading.Condition()

    def open(self, run_id: str, *, keep: bool) -> Run:
        """A call has come. Of two with one id the later is known by it."""
        run = self._runs[run_id] = Run(run_id, keep=keep)
        return run

    @contextmanager
    def executing(self, run: Run, tool: str) -> Iterator[None]:
        """Its tool's code runs meanwhile, in this thread or on its behalf."""
        slot = self._board.begin(run.run_id, tool)
        cancellation.executing.add(run.cancellation)
        token = cancellation.current.set(run.cancellation)
        try:
            yield
        finally:
            cancellation.current.reset(token)
            cancellation.executing.discard(run.cancellation)
            self._board.end(slot)

    def close(self, run: Run, answer: KeptAnswer | None = None) -> None:
        """It has ended, `answer` is what is kept of it. A second time does nothing. Do it before the caller is
        answered: a run that its caller knows to have ended is in flight no more.
        """
        if run.ended:
            return
        with self._end:
            if self._runs.get(run.run_id) is run:
                del self._runs[run.run_id]
            if run.keep and answer is not None:
                run.answer = answer
                self._kept[run.run_id] = run
                while len(self._kept) > MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
            run.ended = True
            self._end.notify_all()

    def find(self, run_id: str) -> Run | None:
        """In flight, or ended and kept."""
        with self._end:
            return self._runs.get(run_id) or self._kept.get(run_id)

    def wait(self, run: Run) -> None:
        """Until it has ended."""
        with self._end:
            self._end.wait_for(lambda: run.ended)

    def forget(self, run: Run) -> None:
        """Keep nothing of it."""
        with self._end:
            run.keep, run.answer = False, None
            self._kept.pop(run.run_id, None)
