"""FrontShutdown: a front's end. Requests under way are answered within the drain; hosts go on without it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.settings import Settings


class FrontShutdown:
    """Set `requested` first: streams without an end end, and runs are refused."""

    def __init__(self, settings: Settings) -> None:
        self.requested = asyncio.Event()
        self._drain = settings.drain.total_seconds()
        self._answering = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While a request is being answered."""
        self._answering += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if not self._answering:
                self._quiet.set()

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self._quiet.set()

    async def complete(self) -> None:
        """Returns when nothing is being answered, or the drain is over."""
        self.requested.set()
        try:
            async with asyncio.timeout(self._drain):
                await self._quiet.wait()
        except TimeoutError:
            return
