"""The time limit of a run, which stands still while the caller is waited for; and the timers of many such limits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Final, Self

from orchestrator.sandbox.call import StreamedBody

_TICK: Final = 0.01  # seconds


class CoarseTimers:
    """Calls after a time, at most 10 ms late. For times that as a rule do not pass; on one event loop."""

    # One timer of the loop for all of them: each run sets some, and each of the loop's own would cost it four times
    # as much.

    def __init__(self) -> None:
        self._due: dict[int, set[Callable[[], None]]] = {}
        """What is to be called at each tick."""
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0
        """The tick that the timer is set for, where there is one."""

    def add(self, seconds: float, callback: Callable[[], None]) -> int:
        """Have it called in so many seconds. Returns the tick, for `remove`."""
        tick = int((monotonic() + (seconds if seconds > 0 else 0.0)) / _TICK) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
            if self._timer is None or tick < self._next:
                self._set_timer(tick)
        due.add(callback)
        return tick

    def remove(self, tick: int, callback: Callable[[], None]) -> None:
        """Do not call it any more, if that is still to come."""
        due = self._due.get(tick)
        if due is not None:
            due.discard(callback)
            if not due:  # the loop's timer stays: the next one is most likely for about the same time
                del self._due[tick]

    def _set_timer(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = tick
        self._timer = asyncio.get_running_loop().call_later(tick * _TICK - monotonic(), self._call_due)

    def _call_due(self) -> None:
        self._timer = None
        now = monotonic()
        for tick in sorted(tick for tick in self._due if tick * _TICK <= now):
            for callback in self._due.pop(tick):
                callback()
        if self._due:
            self._set_timer(min(self._due))


class Deadline:
    """Cancels the code inside it and raises `TimeoutError` when its time is over. It runs from when the whole body has
    been passed on; before that it bounds the time in which the plugin takes one chunk.
    """

    # So a slow caller never costs the plugin its life, and a hanging plugin is found all the same.

    def __init__(self, seconds: float, timers: CoarseTimers | None = None) -> None:
        self.seconds = seconds
        self._timers = timers or CoarseTimers()
        self._expired = False
        self._end: float | None = None
        """By the monotonic clock; None while the clock stands."""
        self._tick = 0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task has a deadline")
        self._task: asyncio.Task[object] = task
        self._cancelling = task.cancelling()
        self._set_end(monotonic() + self.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._set_end(None)
        # A cancellation by somebody else at the same moment stays one.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self._end = None
        self._expired = True
        self._task.cancel()

    def _set_end(self, end: float | None) -> None:
        if self._end is not None:
            self._timers.remove(self._tick, self._expire)
        self._end = end
        if end is not None:
            self._tick = self._timers.add(end - monotonic(), self._expire)

    def _restart(self) -> None:
        if not self._expired:
            self._set_end(monotonic() + self.seconds)

    def _pause(self) -> None:
        self._set_end(None)

    def extend(self, seconds: float) -> None:
        if self._end is not None:
            self._set_end(self._end + seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock, and let it go on afterwards from where it stood."""
        left = None if self._end is None else self._end - monotonic()
        self._pause()
        try:
            yield
        finally:
            if left is not None and not self._expired:
                self._set_end(monotonic() + left)

    async def over_upload(self, body: StreamedBody) -> AsyncIterator[bytes]:
        """The chunks of `body`; the clock stands while the caller is waited for, and starts anew with each chunk."""
        chunks = aiter(body)
        while True:
            self._pause()
            try:
                chunk = await anext(chunks, None)
            finally:
                self._restart()
            if chunk is None:
                return
            yield chunk
