"""The first thing that a request meets: whether its caller may call at all."""

from datetime import UTC, datetime
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.access.decision import Caller, Gate, Refusal
from orchestrator.access.key_store import KeyStore
from orchestrator.api.problems import problem

_HEADERS: Final = frozenset({b"host", b"origin", b"sec-fetch-site", b"authorization"})


class AccessGuard:
    """ASGI middleware. It reads the head alone, and answers itself what may not go on."""

    def __init__(self, app: ASGIApp, *, store: KeyStore, gate: Gate) -> None:
        self._app = app
        self._store = store
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._gate.judge(_caller(scope), self._store.ring(), datetime.now(UTC))
            if refusal is not None:
                await _answer(refusal, scope, receive, send)
                return
        await self._app(scope, receive, send)


def _caller(scope: Scope) -> Caller:
    host = origin = fetch_site = authorization = None
    for name, value in scope["headers"]:
        if name in _HEADERS:  # of a header that came twice, the last: browsers send each once
            text = value.decode("latin-1")
            match name:
                case b"host":
                    host = text[:300]  # a name has at most 253
                case b"origin":
                    origin = text
                case b"sec-fetch-site":
                    fetch_site = text
                case b"authorization":
                    authorization = text
    client = scope.get("client")
    return Caller(scope["method"], scope["path"], client[0] if client else "", host, origin, fetch_site, authorization)


async def _answer(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem(refusal.status, refusal.sentence, error_type=refusal.error_type)
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    if scope["method"] not in ("GET", "HEAD"):
        response.headers["Connection"] = "close"  # its body is not read
    await response(scope, receive, send)
