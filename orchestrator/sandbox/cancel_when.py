"""`cancel_when`: cancels the code inside it when a signal is done."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from orchestrator.errors import OrchestratorError


class Signal:
    """Something that happens once, or never."""

    # A future would do, and be asked for the running loop. Each run has some, which mostly do not happen.
    __slots__ = ("_callbacks", "_done")

    def __init__(self) -> None:
        self._done = False
        self._callbacks: tuple[Callable[[], None], ...] = ()

    def done(self) -> bool:
        return self._done

    def set(self) -> None:
        """It has happened: those that wait for it are called in the loop's next turn."""
        if not self._done:
            self._done = True
            for callback in self._callbacks:
                asyncio.get_running_loop().call_soon(callback)

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call it once the signal is set, if that is not yet so."""
        self._callbacks = (*self._callbacks, callback)

    def remove_callback(self, callback: Callable[[], None]) -> None:
        known = self._callbacks
        self._callbacks = () if known == (callback,) else tuple(other for other in known if other != callback)

    async def wait(self) -> None:
        """Wait until it has happened."""
        if not self._done:
            happened = asyncio.Event()
            self.add_callback(happened.set)
            await happened.wait()


class cancel_when:  # noqa: N801 - reads as what it is where it is used
    """As soon as `done` is, cancels what is inside and raises `error(sentence)` in its stead."""

    # A class, as `asyncio.timeout` is one, since each run enters some: a generator takes four times as long.
    __slots__ = ("_cancelled", "_cancelling", "_done", "_error", "_sentence", "_task")

    def __init__(self, done: Signal | None, error: type[OrchestratorError], sentence: str = "") -> None:
        self._done = done
        self._error = error
        self._sentence = sentence
        self._cancelled = False

    def __enter__(self) -> None:
        if self._done is None:
            return
        if self._done.done():
            raise self._error(self._sentence)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be cancelled")
        self._task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()
        self._done.add_callback(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._done is None:
            return
        task, self._task = self._task, None
        self._done.remove_callback(self._cancel)
        # A cancellation by somebody else at the same moment stays one.
        if (
            self._cancelled
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise self._error(self._sentence) from None
