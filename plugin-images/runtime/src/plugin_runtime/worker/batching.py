"""Batched tools: calls wait in the threads of their connections, batches of them execute in the author's threads."""

from __future__ import annotations

import math
import time
import traceback
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

from plugin_runtime.authoring import InvalidInput
from plugin_runtime.http.connection import Disconnected
from plugin_runtime.run_context import TRACE_HEADERS, Cancellation, set_trace
from plugin_runtime.shared.processes import write_log
from plugin_runtime.tools.batches import BatchQueue, Item
from plugin_runtime.tools.refusals import Refusal, Refused
from plugin_runtime.tools.results import encode_result
from plugin_runtime.worker.answers import result_body
from plugin_runtime.worker.calls import CANCELLED, send_result
from plugin_runtime.worker.execution import ToolExecution, refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from plugin_runtime.tools.awaiting import Outcome
    from plugin_runtime.tools.toolset import Tool
    from plugin_runtime.worker.calls import Call
    from plugin_runtime.worker.runs import RunTable
    from plugin_runtime.worker.threads import AuthorThreads

    Answer = bytes | Refusal | Disconnected

BROKEN_OFF = Refused("defect", "the batch broke off; the container's log has the traceback").refusal
TOO_BUSY = Refused(
    "too_busy", "the run was not started: its batch would have ended over its time limit, behind those before it"
).refusal


def _timed(refusal: Refusal, milliseconds: float) -> Refusal:
    """With the batch's own duration: its caller has waited for the batch before, too."""
    return refusal._replace(execution_time_ms=milliseconds)


class _Member(Item):
    """One call. `batch`: None while it waits for one."""

    __slots__ = ("batch", "call", "inbox", "uploads")

    def __init__(self, call: Call, value: Any, others: dict[str, Any], uploads: ExitStack) -> None:
        super().__init__(value, others, arrived=time.monotonic(), seconds=_time_limit(call))
        self.call = call
        self.uploads = uploads
        self.batch: _Batch | None = None
        # Unlike a condition it can be used by a signal handler. None: look again.
        self.inbox: SimpleQueue[Answer | None] = SimpleQueue()

    def wake(self) -> None:
        """Have its thread look again. For any thread, and signal handlers."""
        self.inbox.put(None)

    @property
    def cancelled(self) -> bool:
        return self.call.run.cancellation.requested

    @property
    def gone(self) -> bool:
        """Nobody waits for the answer, nor will."""
        return not self.call.run.retain and self.call.connection.is_closed()


class _Batch:
    """Members that execute together. `wanted`: those that are neither answered nor cancelled."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self.members = members
        self.wanted = set(members)
        self.cancellation = Cancellation()
        self.ended = False
        self.uploads: list[ExitStack] = []
        """Of members that have left before the end: the tool may be reading them."""


class Batches:
    """The calls of one tool. At most `at_once` batches execute at a time; `count` is called with the waits of each."""

    def __init__(
        self, tool: Tool, threads: AuthorThreads, runs: RunTable, count: Callable[[list[float]], None], *, at_once: int
    ) -> None:
        assert tool.batch is not None  # noqa: S101 - others are not called by this
        self._tool = tool
        self._items = next(iter(tool.parameters))
        self._threads = threads
        self._runs = runs
        self._count = count
        self._at_once = at_once
        self._lock = Lock()  # never taken by a signal handler
        self._queue: BatchQueue[_Member] = BatchQueue(tool.batch)
        self._submitted = 0  # jobs that have not ended
        self._executing = 0  # of them those that have taken a batch

    def answer(self, call: Call, arguments: dict[str, Any], uploads: ExitStack) -> Refusal | None:
        """Wait for the call's batch and answer. None where the answer was sent. `uploads` is closed once the tool needs
        the files of the call no longer: here, by its owner or later. Raises Disconnected.
        """
        value = arguments.pop(self._items)
        member = _Member(call, value, {**self._tool.defaults, **arguments}, uploads)
        cancellation = call.run.cancellation
        cancellation.on_request = member.wake
        try:
            with self._lock:
                self._queue.add(member)
            answer = self._wait(member)
        finally:
            cancellation.on_request = None
        if isinstance(answer, Disconnected):
            raise answer
        if isinstance(answer, Refusal):
            return call.refused(answer)
        send_result(call, answer)
        return None

    # In the threads of connections

    def _wait(self, member: _Member) -> Answer:
        while True:
            with self._lock:
                now = time.monotonic()
                leaves = self._leaves(member, now)
                if leaves is not None:
                    return leaves
                wakes_at = self._wakes_at(member, now)
            if member.batch is None:
                self._start_due()
            try:
                answer = member.inbox.get(timeout=None if wakes_at == math.inf else max(0.0, wakes_at - now))
            except Empty:
                continue
            if answer is not None:
                return answer

    def _leaves(self, member: _Member, now: float) -> Answer | None:
        """Its answer where it does not wait for the end of a batch, or no longer."""
        batch = member.batch
        if batch is None:
            refusal = CANCELLED if member.cancelled else TOO_BUSY if now >= self._refused_at(member) else None
            return refusal if refusal is not None and self._queue.remove(member) else None
        if member.cancelled and member in batch.wanted:
            if len(batch.wanted) > 1 and not batch.ended:
                # Answered at once: to wait for the others would look like a tool that does not end.
                batch.wanted.discard(member)
                batch.uploads.append(member.uploads.pop_all())
                return CANCELLED
            batch.cancellation.request()
        return None

    def _wakes_at(self, member: _Member, now: float) -> float:
        if member.batch is not None:
            return math.inf
        starts_at = self._queue.starts_at(member)
        return starts_at if starts_at > now else self._refused_at(member)

    def _refused_at(self, member: _Member) -> float:
        return self._queue.refused_at(member, busy=self._executing >= self._at_once)

    def _start_due(self) -> None:
        """Have the next batch taken where one is due. In any thread."""
        with self._lock:
            if self._submitted >= self._at_once or self._queue.due_at() > time.monotonic():
                return
            self._submitted += 1
        self._threads.submit(_BatchJob(self))

    # In the author's threads

    def run_next(self) -> None:
        """Execute the batch that is due now: since it was submitted, it may have grown."""
        batch: _Batch | None = None
        try:
            batch = self._take()
            if batch is not None:
                self._execute(batch)
        except Exception:  # noqa: BLE001 - the author's thread must live on
            write_log(f"a defect of the runtime in a batch of {self._tool.name}\n{traceback.format_exc()}")
        finally:
            self._end(batch)
            self._start_due()

    def _take(self) -> _Batch | None:
        with self._lock:
            while members := self._queue.take(now := time.monotonic()):
                batch = _Batch([member for member in members if not self._dismiss(member)])
                if batch.members:
                    for member in batch.members:
                        member.batch = batch
                    self._executing += 1
                    self._count([now - member.arrived for member in batch.members])
                    return batch
        return None

    @staticmethod
    def _dismiss(member: _Member) -> bool:
        """Answer one that need not be executed any more."""
        if member.cancelled:
            member.inbox.put(CANCELLED)
        elif member.gone:
            member.inbox.put(Disconnected())
        else:
            return False
        return True

    def _execute(self, batch: _Batch) -> None:
        members, tool, execution = batch.members, self._tool, ToolExecution()
        set_trace(_common_trace(members))
        start = time.monotonic()
        runs = [member.call.run for member in members]
        with self._runs.executing(tool.name, *runs, cancellation=batch.cancellation):
            items = [member.value for member in members]
            outcome = execution.run(tool.call, {self._items: items, **members[0].others})
        answers = self._answers(batch, outcome, execution.milliseconds)
        with self._lock:
            longer = self._queue.executed(time.monotonic() - start)
            waiting = self._queue.items() if longer else ()
        for member, answer in zip(members, answers, strict=True):
            member.inbox.put(answer)
        for other in waiting:
            other.wake()  # it may have to start earlier than it knew

    def _answers(self, batch: _Batch, outcome: Outcome, milliseconds: float) -> list[Answer]:
        members, tool = batch.members, self._tool
        error = outcome.error
        if error is None and batch.cancellation.observed:
            return [CANCELLED] * len(members)
        if error is not None:
            names = ", ".join(member.call.run.run_id for member in members)
            refusal = members[0].call.refusal_of(tool, error, cancellation=batch.cancellation, runs=names)
            return [_timed(refusal, milliseconds)] * len(members)
        results = outcome.value
        if not isinstance(results, list | tuple) or len(results) != len(members):
            got = f"{len(results)} results" if isinstance(results, list | tuple) else f"a {type(results).__name__}"
            text = f"a batched tool returns a list with a result for each item: got {got} for {len(members)} items"
            return [_timed(Refused("invalid_output", text).refusal, milliseconds)] * len(members)
        return [self._answer(*pair, milliseconds) for pair in zip(members, results, strict=True)]

    @staticmethod
    def _answer(member: _Member, result: Any, milliseconds: float) -> Answer:
        # Here, since it runs the author's code: properties, `tolist` and the like.
        if isinstance(result, InvalidInput):
            return _timed(refusal_of(result), milliseconds)
        files = member.call.run.files
        try:
            encoded = encode_result(result, member.call.max_result, files)
        except Refused as refused:
            return _timed(refused.refusal, milliseconds)
        return result_body(encoded, milliseconds, files)

    def _end(self, batch: _Batch | None) -> None:
        uploads: list[ExitStack] = []
        with self._lock:
            self._submitted -= 1
            if batch is not None:
                self._executing -= 1
                batch.ended = True
                uploads, batch.uploads = batch.uploads, []
        for stack in uploads:
            stack.close()
        for member in batch.members if batch is not None else ():
            member.inbox.put(BROKEN_OFF)  # nobody reads it who has an answer


class _BatchJob:
    """For the author's threads: the next batch."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._done = False

    def run(self) -> None:
        """At most once, also where a signal handler of the plugin raises at its edge."""
        if not self._done:
            try:
                self._batches.run_next()
            finally:
                self._done = True


def _time_limit(call: Call) -> float:
    """Seconds that the run has from now on; infinity where its caller does not say."""
    try:
        seconds = float(call.head.headers.get("x-time-limit", "inf"))
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf


def _common_trace(members: Sequence[_Member]) -> dict[str, str]:
    """The trace that all calls are part of; empty where they are of several, since it would be wrong for some."""
    first, *others = ({name: member.call.head.headers.get(name, "") for name in TRACE_HEADERS} for member in members)
    return {name: text for name, text in first.items() if text} if all(other == first for other in others) else {}
