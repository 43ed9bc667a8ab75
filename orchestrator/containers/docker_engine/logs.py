"""The output of a container, as the engine has stored it and as it comes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from orchestrator.containers.docker_engine import answers, bodies, decoding
from orchestrator.containers.docker_engine.calls import EngineCalls
from orchestrator.containers.docker_engine.client import Client, raise_for_status, url
from orchestrator.containers.docker_engine.streams import NoHeaderError, Streams

_ALL: Final = {"tail": "all"}


class Logs:
    """Raises as `ContainerEngine`. `whole`: of an engine whose selection of last lines loses parts of them, Podman's:
    all lines are read, and the last ones selected here. How many an engine stores is bounded for each container.
    """

    def __init__(self, calls: EngineCalls, streams: Streams) -> None:
        self._calls = calls
        self._streams = streams

    async def last(self, container_id: str, tail: int, *, whole: bool) -> list[str]:
        """The last `tail` lines, each preceded by its time."""
        if not whole:
            return await self._stored(container_id, bodies.log_query(tail))
        lines = await self._stored(container_id, bodies.log_query(tail) | _ALL)
        return lines[max(0, len(lines) - tail) :]

    @asynccontextmanager
    async def follow(self, container_id: str, tail: int, *, whole: bool) -> AsyncIterator[AsyncIterator[str]]:
        """As `last`, line by line, then further lines until the container ends."""
        query = bodies.log_query(tail)
        if whole:
            earlier = len(await self._stored(container_id, query | _ALL)) - tail
            yield _after(earlier, decoding.log_lines(self._patient(container_id, query | _ALL)))
            return
        async with self._open(container_id, query) as pieces:
            yield decoding.log_lines(pieces)

    async def _stored(self, container_id: str, query: Mapping[str, str]) -> list[str]:
        def fetch(client: Client) -> bytes:
            response = client.get(url(client, f"/containers/{container_id}/logs"), params=query, timeout=client.timeout)
            raise_for_status(response)
            return bytes(response.content)

        lines = decoding.LogLines()
        complete = lines.feed(await self._calls.query(fetch))
        return [*complete, *lines.rest()]

    async def _patient(self, container_id: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        # Podman 4 sends not even a header before the first line: meanwhile a look shows that it still answers.
        over = False
        while not over:
            over = await self._calls.query(
                lambda client: answers.container(client.inspect_container(container_id)).over
            )
            try:
                async with self._open(container_id, query) as pieces:
                    async for piece in pieces:
                        yield piece
                    return
            except NoHeaderError:
                continue

    def _open(self, container_id: str, query: Mapping[str, str]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        bound = self._calls.bounds.query

        def request(client: Client) -> Any:
            followed = {**query, "follow": "1"}
            # Longer than the wait for a header: its end must not look like an engine that cannot be reached.
            return client.get(
                url(client, f"/containers/{container_id}/logs"), params=followed, stream=True, timeout=2 * bound
            )

        return self._streams.open(request, bound=bound)


async def _after(count: int, lines: AsyncIterator[str]) -> AsyncIterator[str]:
    async for line in lines:
        if count > 0:
            count -= 1
        else:
            yield line
