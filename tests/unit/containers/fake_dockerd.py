"""Stand-ins for dockerd on a Unix socket: one with answers set by a test, and one that never answers."""

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from orchestrator.containers.docker_engine import Bounds

VERSION = {"ApiVersion": "1.41", "Version": "fake"}
TEST_BOUNDS = Bounds(query=0.3, change=0.3, end=0.3, build=0.5, pull=0.3, silence=0.4)


class FakeDockerd:
    """Answers `(method, path without version)` with what `answers` holds: JSON, `(status, message)`, or a handler."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {"DOCKER_HOST": f"unix://{path}"}
        self.answers: dict[tuple[str, str], Any] = {}
        self.version = dict(VERSION)
        self.ping_headers: dict[str, str] = {}
        self.requested: list[str] = []
        self.address = ""
        self._runner: web.AppRunner | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """On its socket, and with `tls` also over TCP, at `address`."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        self.path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, self.path).start()
        if tls is not None:
            site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            self.address = f"tcp://127.0.0.1:{self._runner.addresses[-1][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            for connection in self._runner.server.connections:
                connection.force_close()
            await self._runner.cleanup()
            self._runner = None
            self.path.unlink(missing_ok=True)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.requested.append(path)
        if path == "/_ping":
            return web.Response(
                text="OK", headers={"Api-Version": str(self.version.get("ApiVersion"))} | self.ping_headers
            )
        if path == "/version":
            return web.json_response(self.version)
        bare = "/" + path.split("/", 2)[2]
        answer = self.answers.get((request.method, bare))
        if callable(answer):
            return await answer(request)
        if isinstance(answer, tuple):
            return web.json_response({"message": answer[1]}, status=answer[0])
        return web.json_response(answer)


def streamed(*pieces: bytes, then: Callable[[], Any] | None = None) -> Callable[[web.Request], Any]:
    """A chunked answer of these pieces; `then` is awaited before it ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if then is not None:
            await then()
        return response

    return answer


@asynccontextmanager
async def frozen_dockerd(path: Path) -> AsyncIterator[dict[str, str]]:
    """The kernel accepts connections and nobody reads them, as with a daemon under SIGSTOP."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(512)
        yield {"DOCKER_HOST": f"unix://{path}"}


def engine_threads() -> list[str]:
    """Names of this process's engine threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]
