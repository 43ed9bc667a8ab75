"""The time limit of a run. It stands still while the caller is waited for."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from orchestrator.sandbox.call import StreamedBody


class Deadline:
    """Runs from when the whole body has been passed on. Before that it bounds the time in which the plugin takes one
    chunk.
    """

    # So a slow caller never costs the plugin its life, and a hanging plugin is found all the same.

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
        """Stop the clock, and let it go on afterwards from where it stood."""
        now = asyncio.get_running_loop().time
        end = self._timeout.when()
        left = None if end is None else end - now()
        self._pause()
        try:
            yield
        finally:
            if left is not None and not self._timeout.expired():
                self._timeout.reschedule(now() + left)

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
