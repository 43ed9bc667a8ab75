"""Connections to an instance's own sockets, and to nothing that a link in their folder leads to.

The folder is the plugin's to write in: a link in the place of a socket could lead to another plugin's, or to the
engine's, and the orchestrator, which may reach them, would speak there for the plugin.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from aiohttp.client_proto import ResponseHandler


class SocketConnector(aiohttp.UnixConnector):
    """A `UnixConnector` that follows no link."""

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],  # noqa: ARG002 - the signature is aiohttp's
        timeout: aiohttp.ClientTimeout,
    ) -> ResponseHandler:
        try:
            with pinned(self.path) as path:
                async with asyncio.timeout(timeout.sock_connect):
                    _, protocol = await self._loop.create_unix_connection(self._response_handler, path)
        except OSError as error:
            raise UnixClientConnectorError(self.path, req.connection_key, error) from error
        return protocol

    def _response_handler(self) -> ResponseHandler:
        return self._factory()


@contextmanager
def pinned(path: str) -> Iterator[str]:
    """A name of the very socket that is at `path` now, whatever comes there meanwhile. Raises `OSError` for what is no
    socket.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
