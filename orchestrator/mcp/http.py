"""HttpServer: MCP over HTTP (Streamable HTTP), within bounds on what a client can make the server hold."""

import asyncio
from typing import Final

import msgspec
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from orchestrator.api.body import RequestBody, UploadPace
from orchestrator.api.context import ApiContext, principal_of
from orchestrator.api.request_headers import run_headers, trace_context
from orchestrator.formatting import format_size
from orchestrator.mcp.backend import Exchange
from orchestrator.mcp.local import LocalBackend
from orchestrator.mcp.server import EXCHANGE, ToolServer
from orchestrator.sandbox.call import STATUS, BodyError, Outcome

MAX_BODY: Final = 16 * 1024 * 1024
"""Bytes of a request: it is held in memory, several times while it is decoded. Larger uploads go over the HTTP API."""
_MAX_HELD: Final = 128 * 1024 * 1024  # bytes of all requests that are being answered
_SESSION_IDLE: Final = 30 * 60.0
"""Seconds without a request or a stream, after which a session ends. Its client begins another."""
_INVALID_REQUEST: Final = -32600


class HttpServer:
    """An ASGI application for one path, while its `serve` runs. `max_sessions`: of older clients, at a time."""

    def __init__(self, context: ApiContext, *, max_sessions: int) -> None:
        self._pace: UploadPace = context.pace
        self._stopping = context.shutdown.requested
        self._held = 0
        self._server = ToolServer(LocalBackend(context), max_watchers=max_sessions)
        self._manager = StreamableHTTPSessionManager(
            self._server,
            max_request_body_size=MAX_BODY,
            max_sessions=max_sessions,
            session_idle_timeout=_SESSION_IDLE,
        )  # hosts, pages and keys are judged before a request comes here

    async def serve(self, ready: asyncio.Event, closed: asyncio.Event) -> None:
        """Serve until `closed` is set. What is under way when the orchestrator begins to stop may end."""
        async with self._manager.run():
            ready.set()
            stopping = asyncio.create_task(self._stopping.wait())
            closing = asyncio.create_task(closed.wait())
            try:
                await asyncio.wait((stopping, closing), return_when=asyncio.FIRST_COMPLETED)
                self._server.close_streams()
                await closing
            finally:
                stopping.cancel()
                closing.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        caller = principal_of(request)
        exchange = Exchange(
            caller, str(request.base_url).rstrip("/"), trace_context(run_headers(scope["headers"])), asyncio.Event()
        )
        scope = {**scope, EXCHANGE: exchange}
        if caller.name is not None:  # a session is for the key that began it
            scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=caller.name, scopes=[]))
        held = 0
        try:
            if request.method == "POST":
                try:
                    body = await self._body(request, receive)
                except BodyError as error:
                    await _refuse(error, scope, receive, send)
                    return
                held = len(body)
                receive = _replayed(body, receive)
            await (self._stream if request.method == "GET" else self._manager.handle_request)(scope, receive, send)
        finally:
            self._held -= held
            exchange.closed.set()

    async def _body(self, request: Request, receive: Receive) -> bytes:
        """The whole body. Raises `BodyError`."""
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            raise _too_large()
        chunks: list[bytes] = []
        try:
            async for chunk in RequestBody(receive, limit=MAX_BODY, pace=self._pace):
                chunks.append(chunk)
                self._hold(len(chunk))
        except BaseException as error:
            self._held -= sum(map(len, chunks))
            if isinstance(error, BodyError) and error.outcome is Outcome.TOO_LARGE:
                raise _too_large() from error
            raise
        return b"".join(chunks)

    def _hold(self, size: int) -> None:
        """Raises `BodyError` where too much is held."""
        self._held += size
        if self._held > _MAX_HELD:
            sentence = f"Requests of {format_size(_MAX_HELD)} together are being answered. Try again later."
            raise BodyError(Outcome.UNAVAILABLE, sentence)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the server tells an older client unasked: without an end, until the orchestrator stops."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        stream = asyncio.create_task(self._manager.handle_request(scope, receive, noting))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((stream, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            ended = stream.done()
            stream.cancel()
            await asyncio.wait((stream,))
        if ended:
            stream.result()
        elif begun:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await _refuse(BodyError(Outcome.UNAVAILABLE, "The orchestrator is stopping."), scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`body` as one message, then what comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


def _too_large() -> BodyError:
    return BodyError(
        Outcome.TOO_LARGE,
        f"The request is over the {format_size(MAX_BODY)} that /mcp takes. Send larger files over the HTTP API.",
    )


async def _refuse(error: BodyError, scope: Scope, receive: Receive, send: Send) -> None:
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": _INVALID_REQUEST, "message": str(error)}}
    # The rest of its body is not read.
    headers = {"Connection": "close", **({"Retry-After": "1"} if error.outcome is Outcome.UNAVAILABLE else {})}
    answer = Response(msgspec.json.encode(body), STATUS[error.outcome], headers, "application/json")
    await answer(scope, receive, send)
