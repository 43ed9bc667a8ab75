"""The time a plugin has for a run. It stands still while the plugin waits for the caller's upload."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from orchestrator.sandbox.upload_pace import UploadPace


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
