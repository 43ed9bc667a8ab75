"""What every request passes first, of an orchestrator and of a front: its API key, the maximum of requests at once."""

from datetime import UTC, datetime
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.access import delegation
from orchestrator.access.gate import Caller, Gate, Refusal
from orchestrator.access.hosts import HostRule, is_loopback
from orchestrator.access.key_store import KeyStore, configured_keys
from orchestrator.access.principal import Principal
from orchestrator.api import route_table
from orchestrator.api.context import FROM_FRONT
from orchestrator.api.problems import problem, unknown_plugin
from orchestrator.api.request_headers import CORS_REQUEST_HEADERS, CORS_RESPONSE_HEADERS
from orchestrator.api.route_table import Route
from orchestrator.settings import Settings

ROUTE: Final = "orchestrator.route"
"""The key of an ASGI scope that has the request's `Route`, and the values of its path's braces."""
_ON_BEHALF: Final = delegation.HEADER.encode()
_MAY_NOT_DELEGATE: Final = Refusal(
    403,
    f"The header {delegation.HEADER} names another caller, and this API key may not call on behalf of others: that "
    "needs a key of the role operator for all plugins.",
    "RoleTooSmall",
)


def guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """`app` behind the access rules of the settings. Raises `KeyFileError` where the API keys cannot be read."""
    store = configured_keys(settings)
    # Now, so that a file of keys that cannot be read ends the start.
    store.load()
    gate = Gate(
        HostRule(settings.allowed_hosts, settings.allowed_origins),
        exposed=not is_loopback(settings.host),
        proxies=settings.trusted_proxies,
    )
    # Fewer requests than connections, so that there is always room for those of monitoring.
    max_requests = settings.max_connections * 3 // 4
    guard = RequestMiddleware(
        app,
        store=store,
        gate=gate,
        max_requests=max_requests,
        root=settings.root_path,
        user_header=settings.proxy_user_header if settings.trusted_proxies else "",
    )
    if not settings.allowed_origins:
        return guard
    # Before the keys: a browser asks without one whether its page may send one.
    return CORSMiddleware(
        guard,
        allow_origins=settings.allowed_origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_RESPONSE_HEADERS,
    )


class RequestMiddleware:
    """ASGI middleware, before all of the framework's own. `max_requests`: at once, not including routes that are not
    counted. `root`: the path below which a proxy shows all routes. `user_header`: in which proxies name their users.
    """

    def __init__(
        self, app: ASGIApp, *, store: KeyStore, gate: Gate, max_requests: int, root: str = "", user_header: str = ""
    ) -> None:
        self._app = app
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
        scope["principal"], scope[ROUTE] = judged, (route, values)
        if not route.counted:
            await self._app(scope, receive, send)
        elif self._requests >= self._max_requests:
            await self._refuse_for_load(scope, receive, send)
        else:
            self._requests += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._requests -= 1

    def _judge(self, route: Route, scope: Scope) -> Principal | Refusal:
        caller, ring, now = self._caller(scope), self._store.ring(), datetime.now(UTC)
        if route.open:
            judged: Principal | Refusal = self._gate.visitor(caller, ring, now)
        else:
            judged = self._gate.judge(caller, route.needs(scope["method"]), ring, now)
        if caller.on_behalf is None or isinstance(judged, Refusal):
            return judged
        if not delegation.may_delegate(judged):
            # Not passed over: the caller would have the rights of the front's key in place of its own.
            return judged if route.open else _MAY_NOT_DELEGATE
        scope[FROM_FRONT] = True
        return _delegated(caller.on_behalf, route, scope["method"])

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
            headers.get(_ON_BEHALF),
        )

    def _user(self, scope: Scope) -> str | None:
        # Repeated it is nobody: one of the two may be the caller's own.
        found = [value.decode("latin-1").strip() for name, value in scope["headers"] if name == self._user_header]
        return ", ".join(found) if found else None

    async def _refuse_for_load(self, scope: Scope, receive: Receive, send: Send) -> None:
        sentence = f"The maximum of {self._max_requests} requests are being answered. Try again later."
        response = problem(503, sentence, error_type="TooManyRequests")
        response.headers.update({"Retry-After": "1", "Connection": "close"})  # its body is not read
        await response(scope, receive, send)


def _delegated(text: bytes, route: Route, method: str) -> Principal | Refusal:
    """On whose behalf a front calls."""
    caller = delegation.parse(text)
    if caller is None:
        return Refusal(400, f"The header {delegation.HEADER} names no caller.", "InvalidRequest")
    if route.open or caller.may(route.needs(method)):
        return caller
    return Refusal(403, "The caller on whose behalf this is requested has no right to it.", "RoleTooSmall")


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
