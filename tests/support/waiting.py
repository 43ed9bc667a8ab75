"""Waiting for a condition."""

import asyncio
import os
from collections.abc import Awaitable, Callable

PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
"""By how much tests wait longer than written, on a machine that is many times slower than those they were written on.
It moves only limits after which a test gives up, none that it is about."""


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 15) -> None:
    """Return when `condition` holds; fail after `within` seconds, times `PATIENCE`. Checked every 20 ms."""
    loop = asyncio.get_running_loop()
    within *= PATIENCE
    deadline = loop.time() + within
    while not await condition():
        assert loop.time() < deadline, f"the condition did not hold within {within} s"
        await asyncio.sleep(0.02)
