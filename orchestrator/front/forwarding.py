"""Passes a request on to a host and its answer back as both come, no faster than the receiver takes them.

A caller that disconnects breaks the connection to the host off, which there is a caller that disconnects.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.api.body import MAX_SHORT_BODY, UploadPace, read_short_body
from orchestrator.api.context import principal_of
from orchestrator.front import front_answers
from orchestrator.front.forwarded_heads import answer_headers
from orchestrator.front.host_link import HostLink, HostUnreachableError
from orchestrator.runtime_client.http_connection import HttpConnection

_WATCH_DELAY: Final = 0.05  # seconds until a caller is watched; most have been answered by then
_STREAMS: Final = (b"application/x-ndjson", b"text/event-stream")


class CallerDisconnected(Exception):  # noqa: N818 - no error: nobody is left to be answered
    """The caller has disconnected in the middle of its body."""


class Incoming:
    """A request as it came. `target`: path and query below the API's root, as they were written."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.principal = principal_of(HTTPConnection(scope))
        self.root: str = scope.get("root_path", "")
        path: bytes = scope["raw_path"]
        if self.root and path.startswith(self.root.encode() + b"/"):
            path = path.removeprefix(self.root.encode())
        self.query: bytes = scope["query_string"]
        self.target = path + b"?" + self.query if self.query else path
        self.body: bytes | None = None
        """The whole body, where it is short or there is none; else it is streamed, once."""
        self.length: int | None = None
        """Bytes of the body; None where only its end will tell."""
        self.disconnected = False
        self.received = asyncio.Event()
        """Set once all of the body is here."""

    def header(self, name: bytes) -> str | None:
        """The first of this name."""
        return next((value.decode("latin-1") for found, value in self.headers if found == name), None)

    async def open(self, pace: UploadPace) -> None:
        """Look how long the body is; read it where it is short. Raises `BodyError`."""
        length = self.header(b"content-length")
        if length is None:
            if self.header(b"transfer-encoding") is None:
                self.body, self.length = b"", 0
                self.received.set()
        elif length.isdigit():
            self.length = int(length)
            if self.length <= MAX_SHORT_BODY:
                self.body = await read_short_body(self.scope, self.receive, pace) if self.length else b""
                self.received.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `CallerDisconnected`."""
        more = True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                self.disconnected = True
                raise CallerDisconnected
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                yield chunk
        self.received.set()


class Passage:
    """One request at one host: `async with` it, after which `status` and `fields` are those of the answer.

    Entering raises `HostUnreachableError`, whose `sent` says whether the host may have begun.
    """

    def __init__(
        self,
        incoming: Incoming,
        link: HostLink,
        *,
        more: Iterable[tuple[bytes, bytes]] = (),
        dropped: frozenset[bytes] = frozenset(),
    ) -> None:
        """`more`: headers of the front's own; `dropped`: names of the caller's that are not passed on."""
        self.link = link
        self._incoming = incoming
        self._more = more
        self._dropped = dropped
        self._body: bytes | None = None
        self._watch: asyncio.TimerHandle | asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        incoming, link = self._incoming, self.link
        self._connection = connection = await link.acquire()
        try:
            self._start_watch()
            head = link.head(
                incoming.method,
                incoming.target,
                incoming.headers,
                incoming.principal,
                self._more,
                length=incoming.length,
                dropped=self._dropped,
            )
            body = incoming.body if incoming.body is not None else incoming.chunks()
            response = await connection.request(head, body, chunked=incoming.length is None)
        except (OSError, ValueError) as error:
            await self._end()
            raise HostUnreachableError(link.name, link.broken(error), sent=True) from error
        except BaseException:
            await self._end()
            raise
        self.status, self.fields = response.status, response.fields
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def read(self) -> bytes:
        """The whole body of an answer that is known to be short. Raises `HostUnreachableError`."""
        chunks = []
        try:
            while chunk := await self._connection.read_chunk():
                chunks.append(chunk)
        except (OSError, ValueError) as error:
            raise HostUnreachableError(self.link.name, self.link.broken(error), sent=True) from error
        return b"".join(chunks)

    def unread(self, body: bytes) -> None:
        """Have `relay` send what `read` has returned."""
        self._body = body

    async def relay(self, send: Send, *, broken: Callable[[], Response] | None = None) -> None:
        """Give the answer to the caller, as it comes. `broken`: what is said at the end of a run's stream that breaks
        off; any other answer breaks off for the caller too.
        """
        incoming, connection = self._incoming, self._connection
        base = self.link.entry.base_path
        headers = answer_headers(self.fields, self.link.name, base_path=base, root=incoming.root)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if incoming.method == "HEAD" or self._body is not None:
            await send({"type": "http.response.body", "body": self._body or b"", "more_body": False})
            return
        chunk = b""
        try:
            while True:
                last, chunk = chunk, await connection.read_chunk()
                response = connection.response
                more = not (response.complete and not response.buffered)
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
                if not more:
                    return
        except (OSError, ValueError):
            if incoming.disconnected or broken is None or not self._between_events(chunk or last):
                return  # the server closes the connection, since the answer has no end
            end = front_answers.ended_line(broken(), self.fields[b"content-type"].decode("latin-1"))
            await send({"type": "http.response.body", "body": end, "more_body": False})

    def _between_events(self, last: bytes) -> bool:
        """Whether it is a run's stream, and the bytes so far end with a whole event."""
        return self.fields.get(b"content-type", b"").startswith(_STREAMS) and last.endswith(b"\n")

    # The caller

    def _start_watch(self) -> None:
        # One whose body is still to be read is noticed by that.
        self._watch = asyncio.get_running_loop().call_later(_WATCH_DELAY, self._begin_watch)

    def _begin_watch(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(_watch(self._incoming, self._connection))

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self.link.release(self._connection)


async def _watch(incoming: Incoming, connection: HttpConnection) -> None:
    """Break the connection off when the caller disconnects."""
    await incoming.received.wait()  # `chunks` receives until then
    while (await incoming.receive())["type"] != "http.disconnect":
        pass
    incoming.disconnected = True
    connection.abort()
