"""What answers an admitted request: the handlers of the hot routes directly, else the framework."""

import re
from typing import Final

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import problems, route_table
from orchestrator.api.concealment import Concealment, concealment
from orchestrator.api.context import api_context, principal_of
from orchestrator.api.middleware import ROUTE
from orchestrator.api.problems import problem

_RANGE: Final = re.compile(rb"bytes\s*=\s*(\d+-\d*|-\d+)(\s*,\s*(\d+-\d*|-\d+))*\s*", re.IGNORECASE)
_MAX_RANGE: Final = 1000  # bytes of the header


class HotRoutes:
    """ASGI middleware, behind `RequestMiddleware`. `root`: the path below which a proxy shows all routes."""

    def __init__(self, app: ASGIApp, *, root: str = "") -> None:
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route, values = scope[ROUTE]
        if route.hot is None or scope["method"] != route.method:
            if any(name == b"range" for name, _ in scope["headers"]):
                scope, send = _without_malformed_range(scope), _ranges_in_envelope(scope, receive, send)
            who = principal_of(Request(scope))
            if not who.sees_every_plugin and _says_why(scope["path"].removeprefix(self._root)):
                send = _concealed(concealment(who, scope["app"].state.context), send)
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await route.hot(request, api_context(request), *values)
        except Exception:
            # As the framework does for its own routes: the caller is answered, and the server logs it.
            await problems.defect()(scope, receive, send)
            raise
        await response(scope, receive, send)


def _without_malformed_range(scope: Scope) -> Scope:
    """The request without a Range that is none of bytes: HTTP has it ignored, and the framework would answer 400."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"range" or _is_range(value)]
    return scope if len(headers) == len(scope["headers"]) else {**scope, "headers": headers}


def _is_range(value: bytes) -> bool:
    if _RANGE.fullmatch(value) is None or len(value) > _MAX_RANGE:
        return False
    spans = (span.strip().partition(b"-") for span in value.partition(b"=")[2].split(b","))
    return all(not first or not last or int(first) <= int(last) for first, _, last in spans)


def _ranges_in_envelope(scope: Scope, receive: Receive, send: Send) -> Send:
    """The framework's own answer to a range that a file does not have is a text, or empty."""
    replaced = False

    async def send_envelope(message: Message) -> None:
        nonlocal replaced
        if message["type"] == "http.response.start" and message["status"] == 416:
            replaced = True
            about = Headers(raw=message["headers"]).get("content-range", "bytes */*")
            sentence = f"The file has no such bytes: it has {about.rpartition('/')[2]} of them."
            response = problem(416, sentence, error_type="RangeNotSatisfiable")
            response.headers["Content-Range"] = about
            await response(scope, receive, send)
        elif not replaced:
            await send(message)

    return send_envelope


def _says_why(path: str) -> bool:
    """Whether answers of this route have sentences about a plugin, and are none of a plugin's own."""
    return route_table.named_plugin(path) is not None and not path.endswith("/tools")


def _concealed(shown: Concealment, send: Send) -> Send:
    """Passes JSON on as the caller may see it: one place for all routes of a plugin, new ones included."""
    start: Message | None = None
    body = b""

    async def send_concealed(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start" and b"application/json" in dict(message["headers"]).get(
            b"content-type", b""
        ):
            start = message
        elif start is None:
            await send(message)
        else:
            body += message.get("body", b"")
            if not message.get("more_body"):
                text = shown.json(body) if body else body  # none for HEAD
                headers = MutableHeaders(raw=list(start["headers"]))
                if body:
                    headers["content-length"] = str(len(text))
                await send({**start, "headers": headers.raw})
                await send({**message, "body": text})

    return send_concealed
