"""Waiting for a condition."""

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 15) -> None:
    """Return when `condition` holds; fail after `within` seconds. Checked every 20 ms."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not await condition():
        assert loop.time() < deadline, f"the condition did not hold within {within} s"
        await asyncio.sleep(0.02)
