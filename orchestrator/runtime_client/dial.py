"""Connectors: how a connection to a container's control or tool socket is opened, directly or through its gateway."""

import asyncio
import errno
import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal
from weakref import WeakKeyDictionary

from orchestrator.containers.endpoint import Endpoint, TcpEndpoint, UnixEndpoint
from orchestrator.runtime_client.http_connection import HttpConnection
from orchestrator.runtime_client.pool import Connector

_CLOSE_POLL_SECONDS: Final = 0.02  # interval of checks whether the plugin has closed its side after a hang-up
# For a plugin that had sent its whole answer before the hang-up, and so waits for the next request.
_CLOSING_REQUEST: Final = b"GET /runs/- HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\r\n"
_MAX_GATEWAY_HEAD: Final = 4096  # bytes of a gateway's answer


def connector(endpoint: Endpoint, name: Literal["control", "tools"]) -> Connector:
    if isinstance(endpoint, UnixEndpoint):
        return SocketConnector(endpoint.control if name == "control" else endpoint.tools)
    return GatewayConnector(endpoint, name)


class SocketConnector:
    """Connects to a Unix socket; follows no symbolic link."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    async def connect(self) -> HttpConnection:
        """Raises `OSError`."""
        with pinned(self._path) as path:
            _, connection = await asyncio.get_running_loop().create_unix_connection(HttpConnection, path)
        return connection

    async def hang_up(self, connection: HttpConnection) -> None:
        """Half-close the connection, and return when the plugin has closed its side."""
        if not connection.is_open:
            return
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            # Only reading is shut down: the tool stops at its next line, which cannot be sent, and its end still shows.
            with suppress(OSError):  # not connected: it has ended
                duplicate.shutdown(socket.SHUT_RD)
                duplicate.send(_CLOSING_REQUEST, socket.MSG_DONTWAIT)
            closed = select.poll()
            closed.register(duplicate, 0)  # reports nothing but that the other side is closed
            while not closed.poll(0):  # noqa: ASYNC110 - the loop cannot watch for this alone
                await asyncio.sleep(_CLOSE_POLL_SECONDS)


@contextmanager
def pinned(path: str) -> Iterator[str]:
    """A name of the very socket that is at `path` now, whatever replaces it meanwhile. Raises `OSError` where it is no
    socket.
    """
    # The plugin may write in the folder. A link in the socket's stead could lead to another plugin's socket, or to the
    # engine's, and the orchestrator, which may reach those, would speak there for the plugin.
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class GatewayConnector:
    """Connects by TCP through an instance's gateway (`plugin_runtime.gateway`) to the socket named `target`."""

    def __init__(self, endpoint: TcpEndpoint, target: str) -> None:
        self._endpoint = endpoint
        self._target = target
        # The gateway's path for each connection.
        self._tunnels: WeakKeyDictionary[HttpConnection, str] = WeakKeyDictionary()

    async def connect(self) -> HttpConnection:
        """Raises `OSError`."""
        sock, head = await self._request("GET", f"/{self._target}")
        try:
            _, connection = await asyncio.get_running_loop().create_connection(HttpConnection, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._tunnels[connection] = _field(head, "location")
        return connection

    async def hang_up(self, connection: HttpConnection) -> None:
        """Have the gateway half-close the connection, and return when the plugin has closed its side."""
        if not connection.is_open or (tunnel := self._tunnels.get(connection)) is None:
            return
        with suppress(OSError):  # the gateway has ended, and the connection with it
            sock, _ = await self._request("DELETE", tunnel)
            sock.close()

    async def _request(self, method: str, path: str) -> tuple[socket.socket, str]:
        """The connection on which the gateway accepts the request, and the head of its answer. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await loop.sock_connect(sock, (self._endpoint.host, self._endpoint.port))
            request = (
                f"{method} {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {self._endpoint.token}\r\n"
                "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            )
            await loop.sock_sendall(sock, request.encode())
            return sock, await _accepted_head(sock)
        except BaseException:
            sock.close()
            raise


async def _accepted_head(sock: socket.socket) -> str:
    """Raises `OSError` where the gateway refuses."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await asyncio.get_running_loop().sock_recv(sock, _MAX_GATEWAY_HEAD)
        head += data
        if not data or len(head) > _MAX_GATEWAY_HEAD:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    text = head.decode("latin-1")
    if text.split(" ", 2)[1:2] not in (["101"], ["200"]):
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"its gateway answers {text.partition(chr(13))[0]}")
    return text


def _field(head: str, name: str) -> str:
    lines = (line.partition(":") for line in head.splitlines()[1:])
    return next((value.strip() for key, _, value in lines if key.lower() == name), "")
