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
from pathlib import Path
from typing import Final

from orchestrator.runtime_client.http_connection import HttpConnection

_END_LOOKS: Final = 0.02
"""Seconds between looks whether a tool that was hung up on has ended."""


class SocketConnector:
    """Follows no link."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    async def connect(self) -> HttpConnection:
        """Raises `OSError`."""
        with pinned(self._path) as path:
            _, connection = await asyncio.get_running_loop().create_unix_connection(HttpConnection, path)
        return connection

    async def hang_up(self, connection: HttpConnection) -> None:
        """Take no more from the plugin, and return when it has closed its side.

        The connection is half closed: the tool is stopped at its next line, since that cannot be sent, and its end
        still shows.
        """
        if not connection.is_open:
            return
        with socket.socket(fileno=os.dup(connection.fileno())) as kept:
            with suppress(OSError):  # not connected: it has ended
                kept.shutdown(socket.SHUT_RD)
            ends = select.poll()
            ends.register(kept, 0)  # says nothing but that the other side is closed
            while not ends.poll(0):  # noqa: ASYNC110 - the loop cannot watch for this alone
                await asyncio.sleep(_END_LOOKS)


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
