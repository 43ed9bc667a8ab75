"""How slowly a caller may send its body."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from orchestrator.sandbox.call import BodyError, Outcome


@dataclass(frozen=True, slots=True)
class UploadPace:
    """At most `idle` seconds pass without a byte, and it is never more than
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
