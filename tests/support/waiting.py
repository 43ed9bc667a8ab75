"""Waiting for what comes true on its own time."""

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 15) -> None:
    """Return when `condition` holds; fail after `within` seconds. Asked every 20 ms."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not await condition():
        assert loop.time() < deadline, f"it did not come true within {within} s"
        await asyncio.sleep(0.02)
