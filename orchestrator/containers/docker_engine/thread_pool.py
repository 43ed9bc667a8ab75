"""Blocking calls off the event loop, with a bound on time and on threads."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.errors import EngineUnreachableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job:
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class BoundedThreadPool:
    """At most `size` threads for one class of calls: calls stuck in a frozen engine hold up only their own kind.

    A caller waits no longer than its bound; the thread may stay stuck for as long as its socket's own time-out, and
    counts against `size` until then. Jobs whose caller has left are never begun. The threads are daemons: a thread pool
    of the standard library would be joined at the interpreter's exit, and a frozen engine would keep the process alive.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    async def run(self, call: Callable[[], T], *, bound: float) -> T:
        """What `call` returns or raises. `EngineUnreachableError` when that takes more than `bound` seconds."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._submit(_Job(call, loop, future))
        # `asyncio.wait` and not a time-out around the await: a TimeoutError of `call` must not be taken for ours.
        try:
            done, _ = await asyncio.wait((future,), timeout=bound)
        except asyncio.CancelledError:
            future.cancel()
            raise
        if not done:
            future.cancel()
            raise EngineUnreachableError(f"the container engine gave no answer within {bound:g} s")
        return future.result()

    def close(self) -> None:
        """Let idle threads go. A stuck one goes when its socket gives up."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _submit(self, job: _Job) -> None:
        with self._lock:
            self._unfinished += 1
            grow = self._threads < min(self._size, self._unfinished)
            self._threads += grow
            name = f"engine-{self._name}-{self._threads}"
        self._jobs.put(job)
        if grow:
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            deliver = None if job.future.cancelled() else _perform(job)
            with self._lock:  # before the caller hears: its next call finds this thread free
                self._unfinished -= 1
            if deliver is not None:
                deliver()
        with self._lock:
            self._threads -= 1


def _perform(job: _Job) -> Callable[[], None]:
    """Make the call; what is returned tells the caller."""
    result: Any = None
    error: BaseException | None = None
    try:
        result = job.call()
    except BaseException as raised:  # noqa: BLE001  whatever it is belongs to the caller, and the thread goes on
        error = raised

    def settle() -> None:
        if job.future.done():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

    def deliver() -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            job.loop.call_soon_threadsafe(settle)

    return deliver
