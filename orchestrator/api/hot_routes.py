"""The routes that are asked again and again, reached without the framework's own steps, which take longer than they do.

The framework knows them too, so that they are described and a request in another form than the usual is answered: the
function is the same.
"""

import re
from collections.abc import Awaitable
from typing import Final

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.api.context import api_context
from orchestrator.api.health_router import list_plugins, plugin_health
from orchestrator.api.run_router import run_tool

_PLUGIN: Final = re.compile(r"/v1/plugins/([^/]+)/(?:health|tools/([^/]+)/run)")


class HotRoutes:
    """ASGI middleware, the innermost: `app` answers all other routes. It stands outside the framework's handling of
    `HTTPException`, so these three routes answer and raise none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _answer(Request(scope, receive, send)) if scope["type"] == "http" else None
        if answer is None:
            await self._app(scope, receive, send)
        else:
            response = await answer
            await response(scope, receive, send)


def _answer(request: Request) -> Awaitable[Response] | None:
    """What one of these routes says, None where it is for another."""
    method, path = request.scope["method"], request.scope["path"]
    if method == "GET" and path == "/v1/plugins":
        return list_plugins(api_context(request))
    found = _PLUGIN.fullmatch(path)
    if found is None:
        return None
    name, tool = found.groups()
    if tool is None:
        return plugin_health(name, api_context(request)) if method == "GET" else None
    return run_tool(name, tool, request, api_context(request)) if method == "POST" else None
