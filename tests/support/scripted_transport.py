"""A transport that gives the answers of a test's script, one per request, and records the requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class ScriptedTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """An answer is a response, a list of chunks of a stream whose last may be an exception, or an exception. The last
    one is repeated for ever.
    """

    def __init__(self, *answers: httpx.Response | list[bytes | Exception] | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        return self._answer(request, b"".join(request.stream))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        await asyncio.sleep(0)
        return self._answer(request, b"".join([chunk async for chunk in request.stream]))

    def _answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(body)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, list):
            return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=_Chunks(answer))
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


class _Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, chunks: list[bytes | Exception]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def envelope(status: int = 200, *, retry_after: int | None = None, **fields: Any) -> httpx.Response:
    """A run's answer."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    content = {"ok": status == 200, "result": None, "error": None, "error_type": None, "reason_code": None, **fields}
    return httpx.Response(status, json=content, headers=headers)
