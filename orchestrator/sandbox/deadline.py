"""The time a plugin has for a run. It stands still while the plugin waits for the caller's upload."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from orchestrator.errors import OrchestratorError
from orchestrator.sandbox.call import BodyError, Outcome


class CallerGoneError(OrchestratorError):
    """Whoever wanted the answer is there no more, or does not take it."""


@asynccontextmanager
async def while_wanted(gone: asyncio.Future[None] | None, sentence: str) -> AsyncIterator[None]:
    """As soon as `gone` is done, what is inside is broken off with `CallerGoneError(sentence)`."""
    if gone is None:
        yield
        return
    if gone.done():
        raise CallerGoneError(sentence)
    inside = True

    def break_off(_: asyncio.Future[None]) -> None:
        if inside:
            bound.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as bound:
            gone.add_done_callback(break_off)
            try:
                yield
            finally:
                inside = False
                gone.remove_done_callback(break_off)
    except TimeoutError:
        if not bound.expired():
            raise
        raise CallerGoneError(sentence) from None


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
                raise BodyError(
                    Outcome.UPLOAD_STALLED, f"the caller sent nothing for {self.idle:g} s in the middle of its body"
                ) from None
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
