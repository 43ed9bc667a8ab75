"""A tool socket that answers with whatever bytes a test gives it: a runtime that follows no protocol."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.sandbox.verdict import Verdict

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawInstance:
    """What the sandbox sees of an instance. `ended`: the verdict on it; without one nobody ever comes to say."""

    def __init__(self, channel: RuntimeChannel, ended: Verdict | None) -> None:
        self.channel = channel
        self._ended = ended

    oom_kills = 0
    memory_limit = 1024**3
    output_limit = 1024**2

    async def verdict(self) -> Verdict:
        if self._ended is None:
            raise TimeoutError
        return self._ended


@asynccontextmanager
async def raw_instance(
    answer: bytes | Answer, *, ended: Verdict | None = None, heads: Callable[[bytes], None] = lambda _: None
) -> AsyncIterator[RawInstance]:
    """An instance whose tool socket reads a request's head, then writes `answer` and hangs up, or does as it says.
    `heads` is given each head before.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                heads(await reader.readuntil(b"\r\n\r\n"))
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    folder = Path(tempfile.mkdtemp(prefix="raw-"))
    endpoint = UnixEndpoint(folder)
    handlers: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    server = await asyncio.start_unix_server(accept, endpoint.tools)
    channel = RuntimeChannel(endpoint)
    try:
        yield RawInstance(channel, ended)
    finally:
        await channel.close()
        server.close()
        await server.wait_closed()
        for handler in tuple(handlers):
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        shutil.rmtree(folder, ignore_errors=True)


def http(body: bytes, *, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def http_stream(*lines: bytes, end: bool = True) -> bytes:
    """An answer in chunks, a line each; without `end` it breaks off."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(line) + 1, line + b"\n") for line in lines)
    return head + chunks + (b"0\r\n\r\n" if end else b"")
