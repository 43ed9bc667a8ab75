"""The runs that the worker knows: those in flight, and those that have ended and whose answers are retained."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from plugin_runtime import run_context
from plugin_runtime.run_context import Cancellation

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin_runtime.authoring import Progress
    from plugin_runtime.shared.run_table import SharedRunTable
    from plugin_runtime.tools.output_files import OutputFiles
    from plugin_runtime.worker.answers import RetainedAnswer

MAX_RETAINED = 256
"""Answers; beyond these the oldest is dropped."""


class Run:
    """One call in flight. `retain`: its answer and its files stay until they are deleted."""

    __slots__ = ("answer", "cancellation", "ended", "files", "retain", "run_id", "slot")

    def __init__(self, run_id: str, files: OutputFiles, *, retain: bool) -> None:
        self.run_id = run_id
        self.files = files
        self.retain = retain
        self.cancellation = Cancellation()
        self.answer: RetainedAnswer | None = None
        self.ended = False
        self.slot: int | None = None
        """In the shared table, while its tool executes."""


class _Executing:
    """See `RunTable.executing`."""

    # A class, since each call enters one: a generator takes three times as long.
    __slots__ = ("_cancellation", "_runs", "_shared", "_token", "_tool")

    def __init__(self, shared: SharedRunTable, tool: str, runs: tuple[Run, ...], cancellation: Cancellation) -> None:
        self._shared = shared
        self._tool = tool
        self._runs = runs
        self._cancellation = cancellation

    def __enter__(self) -> None:
        for run in self._runs:
            run.slot = self._shared.add(run.run_id, self._tool)
        run_context.executing.add(self._cancellation)
        self._token = run_context.current.set(self._cancellation)

    def __exit__(self, *_: object) -> None:
        run_context.current.reset(self._token)
        run_context.executing.discard(self._cancellation)
        for run in self._runs:
            slot, run.slot = run.slot, None
            self._shared.remove(slot)


class RunTable:
    """Used by every connection's thread."""

    def __init__(self, shared: SharedRunTable) -> None:
        self._shared = shared
        self._runs: dict[str, Run] = {}
        self._retained: dict[str, Run] = {}
        # Ended, not retained, with files that can be fetched as long as the caller attends to the answer.
        self._fetchable: dict[str, Run] = {}
        self._lock = threading.RLock()  # entered without a call in Python, which the condition is not
        self._run_ended = threading.Condition(self._lock)
        self._waiting = 0
        """Threads that wait for the condition."""
        # Connections with a request that is not answered yet: a run ends before its answer is sent.
        self._answering: set[object] = set()
        self._awaits_answers = False

    def add(self, run_id: str, files: OutputFiles, *, retain: bool) -> Run:
        """A call that has arrived. If two have one id, it then names the later one."""
        run = self._runs[run_id] = Run(run_id, files, retain=retain)
        return run

    def executing(self, tool: str, *runs: Run, cancellation: Cancellation) -> _Executing:
        """A context in which the tool's code executes for these runs, in this thread or on its behalf."""
        return _Executing(self._shared, tool, runs, cancellation)

    def note_progress(self, run: Run, progress: Progress) -> None:
        """Show it in the status object."""
        self._shared.note_progress(run.slot, progress.fraction, progress.message)

    def finish(self, run: Run, answer: RetainedAnswer | None = None) -> None:
        """End it, and retain `answer` if it is to be retained. A second call does nothing."""
        if run.ended:
            return
        with self._lock:
            if self._runs.get(run.run_id) is run:
                del self._runs[run.run_id]
            if run.retain and answer is not None:
                run.answer = answer
                self._retained[run.run_id] = run
                while len(self._retained) > MAX_RETAINED:
                    del self._retained[next(iter(self._retained))]
            elif run.files:
                self._fetchable[run.run_id] = run
            run.ended = True
            if self._waiting:
                self._run_ended.notify_all()

    def find(self, run_id: str) -> Run | None:
        """In flight, or ended with its answer retained, or with files to fetch."""
        with self._run_ended:
            return self._runs.get(run_id) or self._retained.get(run_id) or self._fetchable.get(run_id)

    def wait(self, run: Run) -> None:
        """Wait until it has ended."""
        self._wait_for(lambda: run.ended)

    def cancel_all(self) -> None:
        """Request the end of all runs in flight. For a signal handler: it takes no lock."""
        for run in tuple(self._runs.values()):
            run.cancellation.request()

    def request_came(self, connection: object) -> None:
        """A request was read from `connection`, for or about a run."""
        self._answering.add(connection)

    def request_answered(self, connection: object) -> None:
        """Its answer was sent, or cannot be."""
        self._answering.discard(connection)
        if self._awaits_answers:
            with self._run_ended:
                self._run_ended.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no run is in flight and all are answered, for so many seconds; whether that is so."""
        self._awaits_answers = True
        return self._wait_for(lambda: not self._runs and not self._answering, seconds)

    def _wait_for(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        with self._lock:
            self._waiting += 1
            try:
                return self._run_ended.wait_for(condition, seconds)
            finally:
                self._waiting -= 1

    def discard(self, run: Run) -> None:
        """Drop its answer, also one that is still to come, and the files of an ended one."""
        with self._run_ended:
            run.retain, run.answer = False, None
            self._retained.pop(run.run_id, None)
        self.release(run)

    def release(self, run: Run) -> None:
        """The caller is done with the answer: drop files that are not retained."""
        with self._run_ended:
            if self._fetchable.get(run.run_id) is run:
                del self._fetchable[run.run_id]
