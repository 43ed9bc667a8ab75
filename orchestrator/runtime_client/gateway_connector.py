"""Connections to an instance's sockets through its gateway (`plugin_runtime.gateway`), by TCP."""

import asyncio
import errno
import os
import socket
from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary

from orchestrator.containers.endpoint import TcpEndpoint
from orchestrator.runtime_client.http_connection import HttpConnection

_LONGEST_HEAD: Final = 4096


class GatewayConnector:
    """To the socket that is called `target`: control or tools."""

    def __init__(self, endpoint: TcpEndpoint, target: str) -> None:
        self._endpoint = endpoint
        self._target = target
        self._tunnels: WeakKeyDictionary[HttpConnection, str] = WeakKeyDictionary()
        """What the gateway calls each connection."""

    async def connect(self) -> HttpConnection:
        """Raises `OSError`."""
        sock, head = await self._ask("GET", f"/{self._target}")
        try:
            _, connection = await asyncio.get_running_loop().create_connection(HttpConnection, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._tunnels[connection] = _field(head, "location")
        return connection

    async def hang_up(self, connection: HttpConnection) -> None:
        """Take no more from the plugin, and return when it has closed its side."""
        if not connection.is_open or (tunnel := self._tunnels.get(connection)) is None:
            return
        with suppress(OSError):  # the gateway is gone, and the connection with it
            sock, _ = await self._ask("DELETE", tunnel)
            sock.close()

    async def _ask(self, method: str, path: str) -> tuple[socket.socket, str]:
        """A connection on which the gateway has agreed to this, and how. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await loop.sock_connect(sock, (self._endpoint.host, self._endpoint.port))
            request = (
                f"{method} {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {self._endpoint.token}\r\n"
                "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            )
            await loop.sock_sendall(sock, request.encode())
            return sock, await _agreement(sock)
        except BaseException:
            sock.close()
            raise


async def _agreement(sock: socket.socket) -> str:
    """The head of the gateway's answer. Raises `OSError` where it is a refusal."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await asyncio.get_running_loop().sock_recv(sock, _LONGEST_HEAD)
        head += data
        if not data or len(head) > _LONGEST_HEAD:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    text = head.decode("latin-1")
    if text.split(" ", 2)[1:2] not in (["101"], ["200"]):
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"its gateway answers {text.partition(chr(13))[0]}")
    return text


def _field(head: str, name: str) -> str:
    lines = (line.partition(":") for line in head.splitlines()[1:])
    return next((value.strip() for key, _, value in lines if key.lower() == name), "")
