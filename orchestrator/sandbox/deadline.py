"""The time a plugin has for a run. It stands still while the plugin waits for the caller's upload."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from orchestrator.sandbox.call import BodyError, Outcome


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

    async def over_upload(self, body: AsyncIterator[bytes], idle: float) -> AsyncIterator[bytes]:
        """`body`, with the clock stopped while the caller is waited for: at most `idle` seconds at a time, else
        `BodyError`.
        """
        chunks = aiter(body)
        while True:
            self._pause()
            try:
                async with asyncio.timeout(idle):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise BodyError(
                    Outcome.UPLOAD_STALLED, f"the caller sent nothing for {idle:g} s in the middle of its body"
                ) from None
            finally:
                self._restart()
            if chunk is None:
                return
            yield chunk
