"""The time a plugin has for a run. It stands still while the plugin waits for the caller's upload."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from orchestrator.errors import OrchestratorError
from orchestrator.sandbox.call import BodyError, Outcome


class CallerGoneError(OrchestratorError):
    """Whoever wanted the answer is there no more, or does not take it."""


class while_wanted:  # noqa: N801 - reads as what it is where it is used
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


@dataclass(frozen=True, slots=True)
class UploadPace:
    """How slowly a caller may send its body: at most `idle` seconds pass without a byte, and it is never more than
    `grace` seconds behind one that sends `min_rate` bytes a second.
    """

    idle: float
    min_rate: float
    grace: float

    def behind(self, before: float, *, waited: float, size: int) -> float:
        """Seconds behind after `waited` seconds brought `size` bytes. No haste of before makes up for it."""
        return max(0.0, before + waited - size / self.min_rate)

    def stalled(self) -> BodyError:
        """Of a caller that sent nothing for `idle` seconds."""
        sentence = f"the caller sent nothing for {self.idle:g} s in the middle of its body"
        return BodyError(Outcome.UPLOAD_STALLED, sentence)

    async def kept(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """`body`. A caller that does not keep this pace is a `BodyError`."""
        chunks = aiter(body)
        now = asyncio.get_running_loop().time
        behind = 0.0
        while True:
            asked = now()
            try:
                async with asyncio.timeout(self.idle):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise self.stalled() from None
            if chunk is None:
                return
            behind = self.behind(behind, waited=now() - asked, size=len(chunk))
            if behind > self.grace:
                raise BodyError(
                    Outcome.UPLOAD_STALLED,
                    f"the caller sends its body too slowly: less than {self.min_rate:g} bytes a second for more than "
                    f"{self.grace:g} s",
                )
            yield chunk


class Deadline:
    """Runs from when the whole body has been passed on. Before that, each chunk that the plugin does not take in time
    ends it too, so that a slow caller never costs the plugin its life and a hanging plugin is found all the same.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(kind, error, trace)

    @property
    def over(self) -> bool:
        return self._timeout.expired()

    def _restart(self) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self.seconds)

    def _pause(self) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(None)

    def extend(self, seconds: float) -> None:
        end = self._timeout.when()
        if end is not None and not self._timeout.expired():
            self._timeout.reschedule(end + seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The clock stands, and goes on afterwards from where it stood."""
        now = asyncio.get_running_loop().time
        end = self._timeout.when()
        left = None if end is None else end - now()
        self._pause()
        try:
            yield
        finally:
            if left is not None and not self._timeout.expired():
                self._timeout.reschedule(now() + left)

    async def over_upload(self, body: AsyncIterator[bytes], pace: UploadPace) -> AsyncIterator[bytes]:
        """`body`, with the clock stopped while the caller is waited for. One that does not keep `pace` is a
        `BodyError`.
        """
        chunks = pace.kept(body)
        while True:
            self._pause()
            try:
                chunk = await anext(chunks, None)
            finally:
                self._restart()
            if chunk is None:
                return
            yield chunk
