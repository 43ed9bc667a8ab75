"""Connections to an instance's own sockets, and to nothing that a link in their folder leads to.

The folder is the plugin's to write in: a link in the place of a socket could lead to another plugin's, or to the
engine's, and the orchestrator, which may reach them, would speak there for the plugin.
"""

import asyncio
import errno
import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from aiohttp.client_proto import ResponseHandler

_END_LOOKS: Final = 0.02
"""Seconds between looks whether a tool that was hung up on has ended."""


class SocketConnector(aiohttp.UnixConnector):
    """A `UnixConnector` that follows no link."""

    async def hang_up(self, connection: aiohttp.connector.Connection) -> None:
        """Take no more from the plugin, and return when it has closed its side.

        The connection is half closed: the tool is stopped at its next line, since that cannot be sent, and its end
        still shows.
        """
        sock = connection.transport.get_extra_info("socket") if connection.transport else None
        if sock is None or sock.fileno() < 0:
            return
        with socket.socket(fileno=os.dup(sock.fileno())) as kept:
            with suppress(OSError):  # not connected: it has ended
                kept.shutdown(socket.SHUT_RD)
            ends = select.poll()
            ends.register(kept, 0)  # says nothing but that the other side is closed
            while not ends.poll(0):  # noqa: ASYNC110 - the loop cannot watch for this alone
                await asyncio.sleep(_END_LOOKS)

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
