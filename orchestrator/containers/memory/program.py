"""What runs in a container of the memory engine: a coroutine, told of signals, its output kept."""

import asyncio
from collections.abc import Awaitable, Callable

from orchestrator.containers.spec import ContainerSpec


class ProgramHandle:
    """A program's view of its container."""

    def __init__(self, container_id: str, log: Callable[[str], None]) -> None:
        """`log` takes what the program prints, a line at a time."""
        self.container_id = container_id
        self.log = log
        self._terminated = asyncio.Event()

    async def terminated(self) -> None:
        """Wait for SIGTERM. A program that never does ignores the signal, as the first process of a container does."""
        await self._terminated.wait()

    def terminate(self) -> None:
        """The engine's side: send SIGTERM."""
        self._terminated.set()


Program = Callable[[ContainerSpec, ProgramHandle], Awaitable[int]]
"""Returns its exit code. SIGKILL is a cancellation; an exception is printed and counts as exit code 1."""


async def until_terminated(_: ContainerSpec, handle: ProgramHandle) -> int:
    """A program that waits for SIGTERM and leaves with 0."""
    await handle.terminated()
    return 0
