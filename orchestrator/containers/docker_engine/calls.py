"""Blocking calls to the engine, off the event loop: bounded in time, and in threads per class of calls."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from orchestrator.containers.docker_engine.client import Client, ClientPool
from orchestrator.errors import EngineUnreachableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds within which the engine must have answered, per class of calls."""

    query: float = 10
    change: float = 60  # create, start and remove: a busy disk is slow
    end: float = 25  # kill, and stop on top of its grace: after SIGKILL the daemon itself waits up to 10 s for the exit
    pull: float = 1800
    build: float = 3600
    silence: float = 900  # between two lines of a build's output


DEFAULT_BOUNDS: Final = Bounds()


class EngineCalls:
    """Runs functions of an SDK client. Raises what `client.engine_errors` raises, and `EngineUnreachableError` after
    the class's bound.
    """

    def __init__(self, clients: ClientPool, bounds: Bounds) -> None:
        self.bounds = bounds
        self._clients = clients
        # Separate pools, so that a kill never waits behind stops in their grace, nor a query behind starts.
        self._query_threads = BoundedThreadPool("query", 4)
        self._change_threads = BoundedThreadPool("change", 16)
        self._stop_threads = BoundedThreadPool("stop", 32)
        self._kill_threads = BoundedThreadPool("kill", 8)
        self._pull_threads = BoundedThreadPool("pull", 4)

    async def query(self, function: Callable[[Client], T]) -> T:
        return await self._run(self._query_threads, function, self.bounds.query)

    async def change(self, function: Callable[[Client], T]) -> T:
        """Create or start."""
        return await self._run(self._change_threads, function, self.bounds.change)

    async def stop(self, function: Callable[[Client], T], *, grace: float) -> T:
        return await self._run(self._stop_threads, function, self.bounds.end + grace)

    async def kill(self, function: Callable[[Client], T]) -> T:
        return await self._run(self._kill_threads, function, self.bounds.end)

    async def remove(self, function: Callable[[Client], T]) -> T:
        """Remove or tag."""
        # With the threads of `kill`: it does not wait behind starts.
        return await self._run(self._kill_threads, function, self.bounds.change)

    async def pull(self, function: Callable[[Client], T]) -> T:
        return await self._run(self._pull_threads, function, self.bounds.pull)

    def close(self) -> None:
        for threads in (
            self._query_threads,
            self._change_threads,
            self._stop_threads,
            self._kill_threads,
            self._pull_threads,
        ):
            threads.close()

    async def _run(self, threads: "BoundedThreadPool", function: Callable[[Client], T], bound: float) -> T:
        return await threads.run(lambda: self._clients.call(function, bound=bound), bound=bound)


@dataclass(frozen=True, slots=True)
class _Job:
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class BoundedThreadPool:
    """At most `size` threads for one class of calls: calls stuck in a frozen engine block only their own class.

    A caller waits no longer than its bound; the thread may stay stuck until its socket times out, and counts against
    `size` until then. Jobs whose caller was cancelled or timed out are never started.
    """

    # The threads are daemons: the standard library joins a pool's threads at the interpreter's exit, so that a frozen
    # engine would keep the process alive.

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    async def run(self, call: Callable[[], T], *, bound: float) -> T:
        """Return or raise what `call` does. Raises `EngineUnreachableError` after `bound` seconds."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._submit(_Job(call, loop, future))
        # `asyncio.wait` and not a time-out around the await: a TimeoutError of `call` must not be mistaken for ours.
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
        """End idle threads. A stuck one ends when its socket times out."""
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
            with self._lock:  # before the delivery: the caller's next call finds this thread free
                self._unfinished -= 1
            if deliver is not None:
                deliver()
        with self._lock:
            self._threads -= 1


def _perform(job: _Job) -> Callable[[], None]:
    """Make the call; the returned function delivers its result."""
    result: Any = None
    error: BaseException | None = None
    try:
        result = job.call()
    except BaseException as raised:  # noqa: BLE001  any exception is the caller's, and the thread continues
        error = raised

    def settle() -> None:
        if job.future.done():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

    def deliver() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            job.loop.call_soon_threadsafe(settle)

    return deliver
