"""The routes that are treated differently from all others ahead of FastAPI's routers.

Every other path needs an API key, counts towards the maximum of requests at once, and is answered by the routers alone.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from fastapi import Request, Response

from orchestrator.access.principal import Right
from orchestrator.api.context import ApiContext, principal_of
from orchestrator.api.health_router import list_plugins, plugin_health
from orchestrator.api.run_router import run_tool

_READS: Final = frozenset({"GET", "HEAD"})
_PLUGINS: Final = "/v1/plugins/"

HotHandler = Callable[..., Awaitable[Response]]
"""Called with the request, the context, and the values of the braces in the path."""


@dataclass(frozen=True, slots=True)
class Route:
    """`path`: `{…}` stands for one segment, a final `*` for the rest.

    `hot` answers `method` directly. It must not raise `HTTPException`, which only the framework handles. The routers
    have the route too: they describe it, and answer other methods.

    `right`: what a request that changes something needs, `reading` what another does. A plugin that the path names
    has to be one that the caller sees.

    `open`: answered without an API key. `counted`: refused while the maximum of requests are being answered. Both hold
    for every method.
    """

    path: str
    method: str | None = None
    # The framework's own steps take longer than these handlers.
    hot: HotHandler | None = None
    right: Right = Right.OPERATE
    reading: Right = Right.READ
    open: bool = False
    counted: bool = True

    def needs(self, method: str) -> Right:
        """What a request with this method needs."""
        return self.reading if method in _READS else self.right


def _list(request: Request, context: ApiContext) -> Awaitable[Response]:
    return list_plugins(context, principal_of(request))


def _health(request: Request, context: ApiContext, name: str) -> Awaitable[Response]:
    return plugin_health(name, context, principal_of(request))


def _run(request: Request, context: ApiContext, name: str, tool: str) -> Awaitable[Response]:
    return run_tool(name, tool, request, context, principal_of(request))


ROUTES: Final = (
    Route("/v1/plugins/{name}/tools/{tool}/run", "POST", hot=_run, right=Right.RUN),
    Route("/v1/runs/{run_id}", right=Right.RUN),  # DELETE, of a run that the caller sees
    Route("/mcp", right=Right.READ),  # every method of MCP is a POST, listing too; its own handler asks for the rest
    # Which servers get messages, and about what, concerns operators alone.
    Route("/v1/webhooks", reading=Right.OPERATE),
    Route("/v1/webhooks/*", reading=Right.OPERATE),
    # Monitoring must be answered under any load, and waits for nothing itself.
    Route("/v1/plugins", "GET", hot=_list, counted=False),
    Route("/v1/plugins/{name}/health", "GET", hot=_health, counted=False),
    # Probes have no key. They show nothing of this host but the names of plugins that are starting.
    Route("/healthz", open=True, counted=False),
    Route("/readyz", open=True, counted=False),
    # The same for everyone: the page and the API's description, without data.
    Route("/", open=True),
    Route("/assets/*", open=True),
    Route("/docs", open=True),
    Route("/docs-assets/*", open=True),
    Route("/openapi.json", open=True),
)
_DEFAULT: Final = Route("*")
_EXACT: Final = {route.path: route for route in ROUTES if not set("{*") & set(route.path)}
_PREFIXES: Final = tuple((route.path[:-1], route) for route in ROUTES if route.path.endswith("*"))
_TEMPLATES: Final = tuple(
    (re.compile(re.sub(r"\{\w+\}", "([^/]+)", route.path)), route) for route in ROUTES if "{" in route.path
)


@lru_cache(maxsize=256)  # callers repeat themselves
def find(path: str) -> tuple[Route, tuple[str, ...]]:
    """The route of `path` and the values of its braces."""
    exact = _EXACT.get(path)
    if exact is not None:
        return exact, ()
    for pattern, route in _TEMPLATES:
        found = pattern.fullmatch(path)
        if found is not None:
            return route, found.groups()
    for prefix, route in _PREFIXES:
        if path.startswith(prefix):
            return route, ()
    return _DEFAULT, ()


@lru_cache(maxsize=256)
def named_plugin(path: str) -> str | None:
    """The plugin that a path names."""
    return path[len(_PLUGINS) :].partition("/")[0] if path.startswith(_PLUGINS) else None
