"""What Docker's streams carry, from pieces of bytes as they come."""

from collections.abc import AsyncIterator

from orchestrator.containers.docker_engine import answers
from orchestrator.containers.docker_engine.log_frames import LogLines
from orchestrator.containers.spec import EngineEvent


async def log_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Of a container's log."""
    lines = LogLines()
    async for piece in pieces:
        for line in lines.feed(piece):
            yield line
    for line in lines.rest():
        yield line


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[EngineEvent]:
    """Those that can be understood."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if (event := answers.event(line)) is not None:
                yield event
