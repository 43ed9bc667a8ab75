"""What every request passes before the framework: its API key, the maximum of requests at once, the hot routes."""

import re
from datetime import UTC, datetime
from typing import Final

from fastapi import FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.access.gate import Caller, Gate, Refusal
from orchestrator.access.key_store import KeyStore
from orchestrator.access.principal import Principal
from orchestrator.api import problems, route_table
from orchestrator.api.concealment import Concealment
from orchestrator.api.context import api_context
from orchestrator.api.problems import problem, unknown_plugin
from orchestrator.api.route_table import Route

_RANGE: Final = re.compile(rb"bytes\s*=\s*(\d+-\d*|-\d+)(\s*,\s*(\d+-\d*|-\d+))*\s*", re.IGNORECASE)
_MAX_RANGE: Final = 1000  # bytes of the header


class RequestMiddleware:
    """ASGI middleware, before all of the framework's own. `application`: whose requests they are. `max_requests`: at
    once, not including routes that are not counted. `root`: the path below which a proxy shows all routes.
    `user_header`: in which proxies name their users.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        application: FastAPI,
        store: KeyStore,
        gate: Gate,
        max_requests: int,
        root: str = "",
        user_header: str = "",
    ) -> None:
        self._app = app
        self._application = application
        self._root = root
        self._user_header = user_header.lower().encode()
        self._store = store
        self._gate = gate
        self._max_requests = max_requests
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # One middleware for all steps, so that a request's route is looked up once.
        scope["app"] = self._application  # as the framework does before all middleware
        path = scope["path"]
        if self._root:
            if path == self._root:  # the page's own addresses are relative to it
                await RedirectResponse(f"{self._root}/", 308)(scope, receive, send)
                return
            path = path.removeprefix(self._root) if path.startswith(f"{self._root}/") else path
            scope["path"], scope["root_path"] = self._root + path, self._root  # as the framework expects it
        route, values = route_table.find(path)
        # Before the count: callers without a key must not use up the maximum of requests.
        judged = self._judge(route, scope)
        if isinstance(judged, Refusal):
            await _refuse(judged, scope, receive, send)
            return
        name = route_table.named_plugin(path)
        if name is not None and not judged.sees(name):
            await _unknown(name, scope, receive, send)
            return
        scope["principal"] = judged
        if not route.counted:
            await self._answer(route, values, scope, receive, send)
        elif self._requests >= self._max_requests:
            await self._refuse_for_load(scope, receive, send)
        else:
            self._requests += 1
            try:
                await self._answer(route, values, scope, receive, send)
            finally:
                self._requests -= 1

    def _judge(self, route: Route, scope: Scope) -> Principal | Refusal:
        caller, ring, now = self._caller(scope), self._store.ring(), datetime.now(UTC)
        if route.open:
            return self._gate.visitor(caller, ring, now)
        return self._gate.judge(caller, route.needs(scope["method"]), ring, now)

    def _caller(self, scope: Scope) -> Caller:
        headers = dict(scope["headers"])  # of a repeated header the last counts: browsers send each once
        host, origin = headers.get(b"host"), headers.get(b"origin")
        fetch_site, authorization = headers.get(b"sec-fetch-site"), headers.get(b"authorization")
        client = scope.get("client")
        return Caller(
            scope["method"],
            client[0] if client else "",
            None if host is None else host[:300].decode("latin-1"),  # a name has at most 253
            None if origin is None else origin.decode("latin-1"),
            None if fetch_site is None else fetch_site.decode("latin-1"),
            None if authorization is None else authorization.decode("latin-1"),
            self._user(scope) if self._user_header else None,
        )

    def _user(self, scope: Scope) -> str | None:
        # Repeated it is nobody: one of the two may be the caller's own.
        found = [value.decode("latin-1").strip() for name, value in scope["headers"] if name == self._user_header]
        return ", ".join(found) if found else None

    async def _answer(self, route: Route, values: tuple[str, ...], scope: Scope, receive: Receive, send: Send) -> None:
        if route.hot is None or scope["method"] != route.method:
            if any(name == b"range" for name, _ in scope["headers"]):
                scope, send = _without_malformed_range(scope), _ranges_in_envelope(scope, receive, send)
            who: Principal = scope["principal"]
            if not who.sees_every_plugin and _says_why(scope["path"].removeprefix(self._root)):
                send = _concealed(Concealment(who, scope["app"].state.context.registry), send)
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

    async def _refuse_for_load(self, scope: Scope, receive: Receive, send: Send) -> None:
        sentence = f"The maximum of {self._max_requests} requests are being answered. Try again later."
        response = problem(503, sentence, error_type="TooManyRequests")
        response.headers.update({"Retry-After": "1", "Connection": "close"})  # its body is not read
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


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem(refusal.status, refusal.sentence, error_type=refusal.error_type)
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    if scope["method"] not in ("GET", "HEAD"):
        response.headers["Connection"] = "close"  # its body is not read
    await response(scope, receive, send)


async def _unknown(plugin: str, scope: Scope, receive: Receive, send: Send) -> None:
    """The answer for a plugin that the caller does not see: the same as for one that there is not."""
    response = unknown_plugin(plugin)
    if scope["method"] not in ("GET", "HEAD"):
        response.headers["Connection"] = "close"  # its body is not read
    await response(scope, receive, send)
