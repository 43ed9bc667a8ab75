"""Work that goes on only as long as somebody wants what comes of it."""

import asyncio
from types import TracebackType

from orchestrator.errors import OrchestratorError


class CallerGoneError(OrchestratorError):
    """Whoever wanted the answer is there no more, or does not take it."""


class cancel_when:  # noqa: N801 - reads as what it is where it is used
    """As soon as `gone` is done, what is inside is broken off with `CallerGoneError(sentence)`."""

    # A class, as `asyncio.timeout` is one, since each run enters some: a generator takes four times as long.
    __slots__ = ("_broken_off", "_cancelling", "_gone", "_sentence", "_task")

    def __init__(self, gone: asyncio.Future[None] | None, sentence: str) -> None:
        self._gone = gone
        self._sentence = sentence
        self._broken_off = False

    def __enter__(self) -> None:
        if self._gone is None:
            return
        if self._gone.done():
            raise CallerGoneError(self._sentence)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be broken off")
        self._task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()
        self._gone.add_done_callback(self._break_off)

    def _break_off(self, _: asyncio.Future[None]) -> None:
        if self._task is not None:
            self._broken_off = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._gone is None:
            return
        task, self._task = self._task, None
        self._gone.remove_done_callback(self._break_off)
        if (
            self._broken_off
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise CallerGoneError(self._sentence) from None
