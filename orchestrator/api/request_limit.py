"""How many requests are answered at once. The health routes are always among them."""

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.api.problems import problem

_ALWAYS: Final = re.compile(r"/v1/plugins(?:/[^/]+/health)?|/healthz|/readyz")


class RequestLimit:
    """ASGI middleware. `most`: requests at once, those of the health routes not counted: they wait for nothing."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _ALWAYS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        if self._now >= self._most:
            sentence = f"{self._most} requests are being answered; no more may. Try again later."
            response = problem(503, sentence, error_type="TooManyRequests")
            response.headers.update({"Retry-After": "1", "Connection": "close"})
            await response(scope, receive, send)
            return
        self._now += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._now -= 1
