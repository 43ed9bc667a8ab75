"""Calls through a channel, and a plugin that counts them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager as Answered
from typing import Any

from orchestrator.runtime_client.client import RuntimeChannel, ToolResponse

Run = Callable[[Coroutine[Any, Any, None]], None]
KIB, MIB = 1024, 1024 * 1024


def call(channel: RuntimeChannel, body: bytes | AsyncIterator[bytes] = b"{}") -> Answered[ToolResponse]:
    return channel.call("read", run_id="run-1", content_type="application/json", query="", body=body)


async def answered(channel: RuntimeChannel) -> bytes | None:
    async with call(channel) as response:
        return await response.read(MIB)


class Plugin:
    """Answers request after request on each connection with what it is given, and counts them."""

    def __init__(self, answer: bytes, *, requests: int = 1_000_000) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[int] = []
        """The number of its connection, for each."""
        self._most = requests

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`raw_instance` has read the first head."""
        self.connections += 1
        number = self.connections
        for left in range(self._most, 0, -1):
            self.requests.append(number)
            await reader.readexactly(2)
            writer.write(self.answer)
            await writer.drain()
            if left > 1:
                await reader.readuntil(b"\r\n\r\n")
