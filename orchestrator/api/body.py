"""RequestBody: a caller's body, within bounds on size and pace: read whole where it is short, streamed, or spooled to a
file for a run that its caller does not wait for.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from starlette.types import Message, Receive, Scope

from orchestrator.formatting import format_size
from orchestrator.registry import PluginRecord
from orchestrator.sandbox.call import BodyError, Outcome
from orchestrator.tools.call_store import SpooledBody

MAX_SHORT_BODY: Final = 256 * 1024
"""Bytes up to which a body is read whole before the call, which is quicker than streaming it."""
_BODY_ROOM: Final = 1024 * 1024
"""Bytes that a body may have beside the uploads: field names, boundaries, other arguments."""
WHOLE_BODY: Final = "orchestrator.whole_body"
"""The extension of an ASGI scope that has the whole body as bytes, where that came together with the request's head."""
SPOOL_AFTER: Final = 10.0
"""Seconds that a body waits to be read, before it is stored. Proxies wait for 30 s and more."""


@dataclass(frozen=True, slots=True)
class UploadPace:
    """The slowest that a caller may send: at most `idle` seconds pass without a byte, and it is never more than `grace`
    seconds behind one that sends `min_rate` bytes a second.
    """

    idle: float
    min_rate: float
    grace: float = 30.0

    def behind(self, before: float, *, waited: float, size: int) -> float:
        """Seconds behind, after `waited` seconds brought `size` bytes. Haste in advance makes up for nothing."""
        return max(0.0, before + waited - size / self.min_rate)

    def stalled(self) -> BodyError:
        sentence = f"the caller sent nothing for {self.idle:g} s in the middle of its body"
        return BodyError(Outcome.UPLOAD_STALLED, sentence)

    def too_slow(self) -> BodyError:
        return BodyError(
            Outcome.UPLOAD_STALLED,
            f"the caller sends its body too slowly: less than {self.min_rate:g} bytes a second for more than "
            f"{self.grace:g} s",
        )


async def read_short_body(scope: Scope, receive: Receive, pace: UploadPace) -> bytes:
    """The whole of a body of at most `MAX_SHORT_BODY` bytes. Raises `BodyError`."""
    # Most are there already, others come in one message, and pass without a `RequestBody`.
    if (whole := scope.get("extensions", {}).get(WHOLE_BODY)) is not None:
        assert isinstance(whole, bytes)  # noqa: S101 - the server's side of the connection sets it
        return whole
    try:
        async with asyncio.timeout(pace.idle):
            message = await receive()
    except TimeoutError:
        raise pace.stalled() from None
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        return body
    rest = RequestBody(receive, limit=MAX_SHORT_BODY, pace=pace)
    return b"".join([rest.take(message), *[chunk async for chunk in rest]])


class RequestBody:
    """A `StreamedBody`: the body of a request in chunks as they come, over at most `limit` bytes. To be read once."""

    def __init__(self, receive: Receive, *, limit: int, pace: UploadPace) -> None:
        self.passed_on = 0
        self.complete = False
        self.failure: BodyError | None = None
        self._receive = receive
        self._limit = limit
        self._pace = pace
        self._behind = 0.0  # seconds
        self._more = True

    @property
    def received(self) -> bool:
        """Whether all of it is here."""
        return not self._more

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._next_chunk()
        except BodyError as error:
            self.failure = error
            raise
        except Exception as error:
            # Whatever else the server's side of the connection raises is no fault of the plugin's either.
            self.failure = _disconnected()
            raise self.failure from error
        if not chunk:
            self.complete = True
            raise StopAsyncIteration
        self.passed_on += len(chunk)
        return chunk

    def take(self, message: Message) -> bytes:
        """What a message brings of the body; empty at its end, or by chance. Raises `BodyError`."""
        if message["type"] != "http.request":
            raise _disconnected()
        chunk: bytes = message.get("body", b"")
        self._more = message.get("more_body", False)
        return chunk

    async def spool(self, folder: Path) -> bytes | SpooledBody:
        """Read the whole body, to be sent when its run starts: to memory where it is short, else to a file in `folder`.
        Raises `BodyError`.
        """
        start = bytearray()
        file: SpooledBody | None = None
        try:
            async for chunk in self:
                if file is None and len(start) + len(chunk) <= MAX_SHORT_BODY:
                    start += chunk
                else:
                    if file is None:
                        file = await asyncio.to_thread(SpooledBody.create, folder, bytes(start))
                    await asyncio.to_thread(file.write, chunk)
        except OSError as error:
            raise BodyError(Outcome.TOO_LARGE, f"the body cannot be stored: {error.strerror}") from error
        return bytes(start) if file is None else file.rewound()

    async def _next_chunk(self) -> bytes:
        """Empty at the end."""
        now = asyncio.get_running_loop().time
        since = now()
        chunk = b""
        try:
            async with asyncio.timeout(self._pace.idle):
                while self._more and not chunk:
                    chunk = self.take(await self._receive())
        except TimeoutError:
            raise self._pace.stalled() from None
        if chunk:
            if self.passed_on + len(chunk) > self._limit:
                raise too_large(self._limit)
            self._behind = self._pace.behind(self._behind, waited=now() - since, size=len(chunk))
            if self._behind > self._pace.grace:
                raise self._pace.too_slow()
        return chunk


class QueuedBody:
    """A `StreamedBody` of a run that may have to wait: what nobody reads for `SPOOL_AFTER` is stored in the meantime,
    as that of an asynchronous run is. A proxy gives up a caller whose body it cannot pass on for a minute.
    """

    def __init__(self, body: RequestBody, folder: Path) -> None:
        """`folder`: for the stored body."""
        self.passed_on = 0
        self.complete = False
        self.failure: BodyError | None = None
        self._body = body
        self._folder = folder
        self.on_stored: Callable[[], None] = lambda: None
        """Called once the caller need no longer be read from: all of it is stored, or the caller has disconnected."""
        self._storing: asyncio.Task[bytes | SpooledBody] | None = None
        self._timer = asyncio.get_running_loop().call_later(SPOOL_AFTER, self._store)

    @property
    def received(self) -> bool:
        """Whether all of it is here."""
        return self._body.received

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._timer.cancel()
        try:
            source = self._body if self._storing is None else await asyncio.shield(self._storing)
            if isinstance(source, bytes):
                self.passed_on = len(source)
                yield source
            else:
                async for chunk in source:
                    self.passed_on += len(chunk)
                    yield chunk
        except BodyError as error:
            self.failure = error
            raise
        self.complete = True

    def close(self) -> None:
        """Store nothing more."""
        self._timer.cancel()
        if self._storing is not None:
            self._storing.cancel()

    def _store(self) -> None:
        self._storing = asyncio.get_running_loop().create_task(self._body.spool(self._folder), name="queued body")
        self._storing.add_done_callback(self._stored)

    def _stored(self, task: asyncio.Task[bytes | SpooledBody]) -> None:
        if task.cancelled():
            return
        error = task.exception()  # is raised where the body is read
        if error is None or (isinstance(error, BodyError) and error.outcome is Outcome.CALLER_DISCONNECTED):
            self.on_stored()


def body_limit(record: PluginRecord) -> int:
    """Bytes that the body of a run of this plugin may have."""
    return (record.limits.scratch if record.limits else 0) + _BODY_ROOM


def too_large(limit: int) -> BodyError:
    sentence = f"The body is over the plugin's limit of {format_size(limit)} (`limits.scratch` in its manifest)."
    return BodyError(Outcome.TOO_LARGE, sentence)


def _disconnected() -> BodyError:
    return BodyError(Outcome.CALLER_DISCONNECTED, "the caller disconnected in the middle of its body")
