"""McpEndpoint: the route /mcp. Loads the rest of this package, and the package `mcp`, at its first request."""

import asyncio
import gc
from importlib import import_module
from types import ModuleType
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.api.context import ApiContext

PATH: Final = "/mcp"
_HTTP: Final = "orchestrator.mcp.http"


class McpEndpoint:
    """An ASGI application. `open` it before its first request, and `close` it in the end."""

    def __init__(self, *, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._context: ApiContext | None = None
        self._loading: asyncio.Task[ASGIApp] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    def open(self, context: ApiContext) -> None:
        self._context = context

    async def close(self) -> None:
        self._closed.set()
        if self._loading is not None:
            await asyncio.wait((self._loading,))
        if self._serving is not None:
            await asyncio.wait((self._serving,))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name="loading MCP")
        server = await asyncio.shield(self._loading)
        await server(scope, receive, send)

    async def _load(self) -> ASGIApp:
        # In a thread: it takes a second or more, in which health is answered.
        module = await asyncio.to_thread(_imported)
        server = module.HttpServer(self._context, max_sessions=self._max_sessions)
        ready = asyncio.Event()
        self._serving = asyncio.create_task(server.serve(ready, self._closed), name="MCP")
        await ready.wait()
        app: ASGIApp = server
        return app


def _imported() -> ModuleType:
    gc.disable()  # imported modules stay for good: a collection among them holds up every thread, and finds nothing
    try:
        return import_module(_HTTP)
    finally:
        gc.enable()
