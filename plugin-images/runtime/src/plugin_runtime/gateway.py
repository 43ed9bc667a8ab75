"""`python -m plugin_runtime.gateway`: carries an instance's Unix sockets over TCP.

It runs in a container of its own beside the plugin's, which has no network; the two share nothing but the sockets'
folder. A caller names a socket and gives the instance's token; from then on its connection is that socket's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

from plugin_runtime.http.head import MAX_HEAD, BadHead, parse_request_head

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 7000
TOKEN_FILE = "/run/gateway/token"  # noqa: S105 - a path
FOLDER = "/run/plugin"
SOCKETS = {"/control": "control.sock", "/tools": "tools.sock"}
GREETING_SECONDS = 5.0
APPEAR_SECONDS = 1.0
"""How long a caller waits for a socket that does not exist yet."""
LINGER_SECONDS = 2.0
POLL_SECONDS = 0.01
RECEIVE_BYTES = 256 * 1024
CLOSING_REQUEST = b"GET /runs/- HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\r\n"
"""For a plugin that had sent its whole answer before the hang-up, and so waits for the next request."""
SWITCHED = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nLocation: %s\r\n\r\n"


class Tunnel:
    """One caller's connection to one socket of the plugin. The bytes that pass through are not inspected."""

    def __init__(self, caller: socket.socket, plugin: socket.socket) -> None:
        self._caller = caller
        self._plugin = plugin
        self._down: asyncio.Future[None] | None = None
        self._hung_up = False

    async def carry(self) -> None:
        """Carry both ways, until either side ends."""
        up = asyncio.ensure_future(pump(self._caller, self._plugin))
        self._down = asyncio.ensure_future(pump(self._plugin, self._caller))
        try:
            await asyncio.wait({up, self._down}, return_when=asyncio.FIRST_COMPLETED)
            if self._hung_up:
                await asyncio.wait({up})  # the caller closes once it has been notified of the end
            elif not up.done():
                # The last answer must arrive though its caller still sends: what is unread at the close would reset it.
                with contextlib.suppress(OSError):
                    self._caller.shutdown(socket.SHUT_WR)
                await asyncio.wait({up}, timeout=LINGER_SECONDS)
                if up.done() and up.exception() is not None:
                    with contextlib.suppress(OSError, TimeoutError):
                        await asyncio.wait_for(drain(self._caller), LINGER_SECONDS)
        finally:
            for way in (up, self._down):
                way.cancel()
            await asyncio.gather(up, self._down, return_exceptions=True)

    async def hang_up(self) -> None:
        """Read no more from the plugin, and return once it has closed its side."""
        # What half closing does on a Unix socket: the plugin's next write fails, so that it closes.
        self._hung_up = True
        if self._down is not None:
            self._down.cancel()
        with contextlib.suppress(OSError):  # not connected: it has closed already
            self._plugin.shutdown(socket.SHUT_RD)
            self._plugin.send(CLOSING_REQUEST)
        ends = select.poll()
        ends.register(self._plugin, 0)  # reports only that the other side is closed
        while self._plugin.fileno() >= 0 and not ends.poll(0):  # noqa: ASYNC110 - the loop cannot watch for this alone
            await asyncio.sleep(POLL_SECONDS)


class Gateway:
    """Accepts callers of one instance, and knows its open tunnels."""

    def __init__(self, token: bytes, folder: str) -> None:
        self._token = token
        self._folder = folder
        self._tunnels: dict[str, Tunnel] = {}
        self._numbers = itertools.count(1)

    async def serve(self, listener: socket.socket) -> None:
        """Accept callers for ever."""
        loop = asyncio.get_running_loop()
        callers: set[asyncio.Task[None]] = set()
        while True:
            try:
                caller, _ = await loop.sock_accept(listener)
            except OSError:  # out of file descriptors, which may pass
                await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._serve(caller))
            callers.add(task)
            task.add_done_callback(callers.discard)

    async def _serve(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError, BadHead, TimeoutError):
            caller.setblocking(False)  # noqa: FBT003 - its own signature
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The plugin never sees this request, and so not the token.
            head = parse_request_head(await asyncio.wait_for(read_greeting(caller), GREETING_SECONDS))
            if not self._admits(head.headers):
                await answer(caller, "401 Unauthorized", "WWW-Authenticate: Bearer\r\n")
            elif head.method == "GET" and head.path in SOCKETS:
                await self._tunnel(caller, f"{self._folder}/{SOCKETS[head.path]}")
            elif head.method == "DELETE" and (tunnel := self._tunnels.get(head.path)) is not None:
                await tunnel.hang_up()
                await answer(caller, "200 OK")
            else:
                await answer(caller, "404 Not Found")

    def _admits(self, headers: Mapping[str, str]) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode("utf-8"), self._token)

    async def _tunnel(self, caller: socket.socket, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plugin:
            plugin.setblocking(False)  # noqa: FBT003 - its own signature
            try:
                await asyncio.wait_for(connect(plugin, path), APPEAR_SECONDS)
            except (OSError, TimeoutError):
                await answer(caller, "503 Service Unavailable")
                return
            name = f"/tunnels/{next(self._numbers)}"
            tunnel = self._tunnels[name] = Tunnel(caller, plugin)
            try:
                await asyncio.get_running_loop().sock_sendall(caller, (SWITCHED % name).encode())
                await tunnel.carry()
            finally:
                del self._tunnels[name]


async def read_greeting(caller: socket.socket) -> bytes:
    """Read the head of the caller's request, without its empty line. Raises BadHead, OSError."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await asyncio.get_running_loop().sock_recv(caller, MAX_HEAD)
        head += data
        if not data or len(head) > MAX_HEAD:
            raise BadHead("no request")
    return head[:-4]


async def connect(plugin: socket.socket, path: str) -> None:
    """Connect, once the socket exists. Raises OSError if nobody listens on it."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return await asyncio.get_running_loop().sock_connect(plugin, path)
        await asyncio.sleep(POLL_SECONDS)


async def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the end of `source`. Raises OSError where either side broke."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, RECEIVE_BYTES):
        await loop.sock_sendall(sink, data)


async def drain(source: socket.socket) -> None:
    """Read and drop until the end of `source`."""
    while await asyncio.get_running_loop().sock_recv(source, RECEIVE_BYTES):
        pass


async def answer(caller: socket.socket, status: str, more: str = "") -> None:
    """Send a whole answer, after which the connection is closed."""
    head = f"HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(caller, head.encode())


def main() -> int:
    """The exit status: 2 if there is no token."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # PID 1 has no default
    try:
        with open(TOKEN_FILE, "rb") as file:  # noqa: PTH123 - pathlib costs a megabyte
            token = file.read().strip()
    except OSError as problem:
        token = b""
        print(f"plugin_runtime.gateway: {problem}", file=sys.stderr)  # noqa: T201
    if len(token) < 32:
        return 2
    listener = socket.create_server(("", PORT), backlog=128)
    listener.setblocking(False)  # noqa: FBT003 - its own signature
    asyncio.run(Gateway(token, FOLDER).serve(listener))
    return 0


if __name__ == "__main__":
    sys.exit(main())
