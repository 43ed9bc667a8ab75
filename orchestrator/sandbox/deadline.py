"""The time a plugin has for a run. It stands still while the plugin waits for the caller's upload."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from orchestrator.sandbox.call import BodyError, Outcome


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

    async def over_upload(self, body: AsyncIterator[bytes], pace: UploadPace) -> AsyncIterator[bytes]:
        """`body`, with the clock stopped while the caller is waited for. One that does not keep `pace` is a
        `BodyError`.
        """
        chunks = aiter(body)
        now = asyncio.get_running_loop().time
        behind = 0.0
        while True:
            self._pause()
            asked = now()
            try:
                async with asyncio.timeout(pace.idle):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise BodyError(
                    Outcome.UPLOAD_STALLED, f"the caller sent nothing for {pace.idle:g} s in the middle of its body"
                ) from None
            finally:
                self._restart()
            if chunk is None:
                return
            behind = pace.behind(behind, waited=now() - asked, size=len(chunk))
            if behind > pace.grace:
                raise BodyError(
                    Outcome.UPLOAD_STALLED,
                    f"the caller sends its body too slowly: less than {pace.min_rate:g} bytes a second for more than "
                    f"{pace.grace:g} s",
                )
            yield chunk
