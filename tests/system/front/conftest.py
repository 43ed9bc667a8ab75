"""Three hosts: `reader` is on two of them, `writer` on one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.fronted_hosts import FrontedHosts


class Gate:
    """What the tool `wait` waits for."""

    def __init__(self) -> None:
        self.open = asyncio.Event()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def three(tmp_path: Path, gate: Gate) -> AsyncIterator[FrontedHosts]:
    """Not yet open."""
    async with FrontedHosts(tmp_path, "a", "b", "c") as hosts:

        async def wait() -> int:
            await gate.open.wait()
            return 1

        for name in ("a", "b"):
            hosts[name].add("reader", tools={"read": lambda: 1, "wait": wait}, concurrency=2)
        hosts["c"].add("writer", tools={"write": lambda: 2, "wait": wait})
        yield hosts
