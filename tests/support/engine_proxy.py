"""A proxy between the orchestrator and its engine: a Unix socket that forwards everything that a test does not change.

with EngineProxy(folder / "p", dockerd.socket) as proxy:
    proxy.refuse = lambda request: REFUSED if request.path.endswith("/kill") else None
    proxy.on_request = lambda request: ...
    proxy.mutate = lambda line: [line, b"nonsense"]
    proxy.delay = lambda request: 2.0 if request.path.endswith("/stop") else 0.0
    proxy.rewrite_create = lambda body: ...
"""

import asyncio
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

VERSION = re.compile(r"^/v\d+\.\d+")
PIECE = 65536

REFUSED = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n"
    b'{"message": "no luck."}\n'
)
GARBAGE = b"\x00\xff\x16\x03 not a word of HTTP \r\n\r\n" * 8
SILENCE = b""
"""The connection stays open without a response."""


@dataclass(frozen=True)
class EngineRequest:
    """A request to the engine; `path` without the version and the query."""

    method: str
    path: str


class EngineProxy:
    """Its callbacks may be set at any time; they are called in the proxy's own thread."""

    def __init__(self, path: Path, engine: Path) -> None:
        self.path = path
        self.refuse: Callable[[EngineRequest], bytes | None] = lambda _: None
        """The response to send instead of the engine's, or None."""
        self.on_request: Callable[[EngineRequest], None] = lambda _: None
        """Called before a request is forwarded."""
        self.on_response: Callable[[EngineRequest], None] = lambda _: None
        """Called when the engine has responded, before the response is forwarded."""
        self.mutate: Callable[[bytes], list[bytes]] = lambda line: [line]
        """The lines to send instead of a line of the event stream."""
        self.delay: Callable[[EngineRequest], float] = lambda _: 0.0
        """Seconds by which the engine's response comes late."""
        self.rewrite_create: Callable[[dict[str, Any]], list[str]] | None = None
        """Changes the body of a request that creates a container; returns warnings to add to the response."""
        self.requests: list[EngineRequest] = []
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine proxy")
        self._streams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_HOST": f"unix://{self.path}"}

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen()).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self.path.unlink(missing_ok=True)

    def cut_events(self) -> None:
        """Abort every open event stream."""
        self._run(self._cut()).result(10)

    def feed(self, *lines: bytes) -> None:
        """Send these lines on every open event stream."""
        self._run(self._feed(lines)).result(60)

    @property
    def event_streams(self) -> int:
        """The number of open ones."""
        return len(self._streams)

    def _run(self, work: "asyncio.coroutines.CoroutineLike[None]") -> "Future[None]":  # type: ignore[name-defined]
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=1 << 20)

    async def _close(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for writer in tuple(self._streams):
            writer.transport.abort()

    async def _feed(self, lines: tuple[bytes, ...]) -> None:
        for writer in tuple(self._streams):
            for line in lines:
                _send_line(writer, line)
                await writer.drain()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection: the engine closes it after the response."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *fields = head.split(b"\r\n")
            method, target, _ = first.decode().split(" ")
            request = EngineRequest(method, VERSION.sub("", target.partition("?")[0]))
            self.requests.append(request)
            self.on_request(request)
            refusal = self.refuse(request)
            if refusal is not None:
                writer.write(refusal)
                await writer.drain()
                await reader.read() if refusal == SILENCE else None
                return
            from_engine, to_engine = await asyncio.open_unix_connection(self._engine, limit=1 << 24)
            try:
                forwarded = [field for field in fields if not field.lower().startswith(b"connection:")]
                if request.path == "/containers/create" and self.rewrite_create is not None:
                    await self._create((reader, writer), (from_engine, to_engine), first, forwarded)
                    return
                to_engine.write(b"\r\n".join([first, b"Connection: close", *forwarded]))
                await self._exchange(request, (reader, writer), (from_engine, to_engine))
            finally:
                to_engine.close()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            self._streams.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _exchange(
        self,
        request: EngineRequest,
        caller: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        engine: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        sending = asyncio.ensure_future(_forward(caller[0], engine[1]))
        try:
            head = await engine[0].readuntil(b"\r\n\r\n")
            self.on_response(request)
            await asyncio.sleep(self.delay(request))
            caller[1].write(head)
            if request.path == "/events":
                await self._forward_events(engine[0], caller[1])
            else:
                await _forward(engine[0], caller[1])
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _create(
        self,
        caller: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        engine: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        first: bytes,
        fields: list[bytes],
    ) -> None:
        """Forward the creation of a container with another body, and the response with more warnings."""
        assert self.rewrite_create is not None
        body = json.loads(await caller[0].readexactly(_content_length(fields)))
        warnings = self.rewrite_create(body)
        sent = json.dumps(body).encode()
        kept = [field for field in fields if field and not field.lower().startswith(b"content-length:")]
        head = [first, b"Connection: close", b"Content-Length: %d" % len(sent), *kept, b"", b""]
        engine[1].write(b"\r\n".join(head) + sent)
        status, *answered = (await engine[0].readuntil(b"\r\n\r\n")).split(b"\r\n")
        answer = json.loads(await engine[0].readexactly(_content_length(answered)))
        if "Id" in answer:
            answer["Warnings"] = [*(answer.get("Warnings") or ()), *warnings]
        text = json.dumps(answer).encode()
        answer_head = [status, b"Content-Type: application/json", b"Content-Length: %d" % len(text), b"", b""]
        caller[1].write(b"\r\n".join(answer_head) + text)
        await caller[1].drain()

    async def _forward_events(self, engine: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The engine writes one event per chunk."""
        await writer.drain()
        self._streams.add(writer)
        while size := int(await engine.readline(), 16):
            chunk = await engine.readexactly(size + 2)
            for line in self.mutate(chunk[:-2].rstrip(b"\n")):
                _send_line(writer, line)
            await writer.drain()


def _content_length(fields: list[bytes]) -> int:
    return next(int(field[15:]) for field in fields if field.lower().startswith(b"content-length:"))


def _send_line(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))


async def _forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(PIECE):
        target.write(piece)
        await target.drain()
