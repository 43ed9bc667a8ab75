"""A network between a front and a host that a test cuts: in both directions or in one, silently or with a break."""

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final, Self

TO_HOST: Final = "to the host"
FROM_HOST: Final = "from the host"
BOTH_WAYS: Final = (TO_HOST, FROM_HOST)
_PIECE: Final = 65536


class CutLink:
    """Relays TCP connections to a port of this machine. What is sent during a cut arrives afterwards, as with TCP."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = {direction: asyncio.Event() for direction in BOTH_WAYS}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.relayed = 0
        """Bytes to the host."""

    async def __aenter__(self) -> Self:
        self.restore()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.break_off()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self, directions: Collection[str] = BOTH_WAYS) -> None:
        """Let nothing pass, without a word to either side."""
        for direction in directions:
            self._open[direction].clear()

    def restore(self) -> None:
        for direction in self._open.values():
            direction.set()

    def break_off(self) -> None:
        """End all connections; new ones work."""
        for writer in self._writers:
            writer.transport.abort()

    def refuse(self) -> None:
        """End all connections, and accept none any more."""
        self._server.close()
        self.break_off()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._open[TO_HOST].wait()
                await self._connected(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_host, to_host = await asyncio.open_connection("127.0.0.1", self._port)
        pair = {writer, to_host}
        self._writers |= pair
        tasks = [
            asyncio.create_task(self._relay(reader, to_host, TO_HOST)),
            asyncio.create_task(self._relay(from_host, writer, FROM_HOST)),
        ]
        try:
            await asyncio.wait(tasks)
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                await self._open[direction].wait()
                if direction == TO_HOST:
                    self.relayed += len(piece)
                writer.write(piece)
                await writer.drain()
            await self._open[direction].wait()
            writer.write_eof()
