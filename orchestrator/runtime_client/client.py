"""RuntimeChannel: the requests that the runtime in one container answers.

Whatever the connection or the plugin does wrong becomes a `ChannelError` here.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from orchestrator.containers.endpoint import Endpoint
from orchestrator.errors import ChannelError
from orchestrator.runtime_client import sanitize
from orchestrator.runtime_client.dial import connector
from orchestrator.runtime_client.http_connection import HttpConnection
from orchestrator.runtime_client.http_message import request_head, target
from orchestrator.runtime_client.pool import ConnectionPool, Connector
from orchestrator.runtime_client.status import RuntimeStatus, decode_json, mapping

_CONTROL_TIMEOUT: Final = 2.0  # seconds for a request to the control socket, which no tool can block
_DIAGNOSE_TIMEOUT: Final = 1.5  # seconds; the protocol gives the container one
_MAX_LINE: Final = 64 * 1024 * 1024  # bytes of a line of a streaming tool
_MAX_STATUS: Final = 4 * 1024 * 1024  # bytes of a status object, or of what `diagnose` answers
# Seconds between two statuses that are parsed: a plugin that sends more of them must not keep the loop busy.
_MIN_STATUS_INTERVAL: Final = 0.01
_FAILURES = (OSError, ValueError)  # what a connection raises; `TimeoutError` is an `OSError`

_STATUS: Final = request_head("GET", "/status", {}, length=0)
_WATCH: Final = request_head("GET", "/watch", {}, length=0)
_DIAGNOSE: Final = request_head("POST", "/diagnose", {}, length=0)


@lru_cache(maxsize=32)
def _media_type(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


class ToolResponse:
    """The head of a response, and access to its body."""

    def __init__(self, connection: HttpConnection, connector: Connector) -> None:
        self._connection = connection
        self._connector = connector
        self.status = connection.response.status
        fields = connection.response.fields
        self.content_type = _media_type(fields.get(b"content-type", b""))
        kills = fields.get(b"x-oom-kills", b"")
        # Bounded: it comes from a plugin, and may be of any length.
        self.oom_kills = int(kills) if kills.isdigit() and len(kills) < 10 else 0

    async def read(self, limit: int) -> bytes | None:
        """The whole body, None where it is over `limit` bytes. Raises `ChannelError`."""
        if (body := self._connection.whole_body()) is not None:  # as a rule it comes with its head
            return body if len(body) <= limit else None
        try:
            return await _read_body(self._connection, limit)
        except _FAILURES as error:
            raise ChannelError(f"the connection broke while the answer came: {error}") from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, in chunks of at most a megabyte. Raises `ChannelError`."""
        try:
            while chunk := await self._connection.read_chunk():
                yield chunk
        except _FAILURES as error:
            raise ChannelError(f"the connection broke while a file came: {error}") from error

    async def hang_up(self) -> None:
        """Stop receiving a stream, and return when the tool has ended: its side of the connection is closed then."""
        await self._connector.hang_up(self._connection)

    async def lines(self) -> AsyncIterator[list[bytes]]:
        """The body's lines as they come, those that came together at once. Raises `ChannelError`."""
        try:
            async for lines in _read_lines(self._connection):
                yield lines
        except _FAILURES as error:
            raise ChannelError(f"the connection broke while the answer came: {error}") from error


class RuntimeChannel:
    """Connections to one container. Use it on one event loop; close it in the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._control = ConnectionPool(connector(endpoint, "control"), connect_timeout=_CONTROL_TIMEOUT)
        # No bound: a call has a deadline of its own.
        self._tools = ConnectionPool(connector(endpoint, "tools"), connect_timeout=None)

    async def close(self) -> None:
        await self._control.close()
        await self._tools.close()

    async def watch(self) -> AsyncIterator[RuntimeStatus]:
        """Status objects as they come, until the container ends. Raises `ChannelError` where it cannot be reached."""
        try:
            async with self._control.exchange(_WATCH, idempotent=True) as connection:
                if connection.response.status != 200:
                    raise ChannelError(f"the control socket answered {connection.response.status} to /watch")
                status, clock, earlier = None, asyncio.get_running_loop().time, -_MIN_STATUS_INTERVAL
                async for lines in _read_lines(connection, _MAX_STATUS):
                    status = RuntimeStatus.parse(lines[-1], status)
                    yield status
                    if clock() - earlier < _MIN_STATUS_INTERVAL:
                        await asyncio.sleep(_MIN_STATUS_INTERVAL)
                    earlier = clock()
        except _FAILURES as error:
            raise ChannelError(f"the control connection broke: {error}") from error

    async def status(self, timeout: float = _CONTROL_TIMEOUT) -> RuntimeStatus:
        """Raises `ChannelError`, also when no answer comes within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._control.exchange(_STATUS, idempotent=True) as connection:
                return RuntimeStatus.parse(await _read_status(connection))
        except _FAILURES as error:
            raise ChannelError(f"the control socket does not answer: {error}") from error

    async def diagnose(self) -> str:
        """The stacks of the worker's threads at this moment; empty where they are not to be had. Never raises."""
        try:
            async with asyncio.timeout(_DIAGNOSE_TIMEOUT), self._control.exchange(_DIAGNOSE) as connection:
                answer = mapping(decode_json(await _read_status(connection)))
                return sanitize.text(answer.get("stacks"), sanitize.MAX_TRACEBACK) or ""
        except _FAILURES:
            return ""

    def call(
        self,
        tool: str,
        *,
        run_id: str,
        content_type: str,
        query: str,
        body: bytes | AsyncIterator[bytes],
        trace: Mapping[str, str] = MappingProxyType({}),
        body_headers: Mapping[str, str] = MappingProxyType({}),
        keep: bool = False,
        time_limit: float | None = None,
    ) -> AbstractAsyncContextManager[ToolResponse]:
        """Call a tool and wait for the head of its response. `trace` are headers of the W3C trace context,
        `body_headers` describe the body beside its type; with `keep` the run goes on when the connection breaks;
        `time_limit` tells the runtime how many seconds the run has, and sets none here. Raises `ChannelError` where no
        answer comes.
        """
        fields = {"X-Run-Id": run_id, "Content-Type": content_type}
        if trace:
            fields.update(trace)
        if body_headers:
            fields.update(body_headers)
        if keep:
            fields["X-Run-Keep"] = "1"
        if time_limit is not None:
            fields["X-Time-Limit"] = f"{time_limit:g}"
        return self._exchange("POST", target("tools", tool, query=query), fields, body)

    def answer_of(self, run_id: str) -> AbstractAsyncContextManager[ToolResponse]:
        """The answer of a run that has been started before, once it has ended; 404 or 410 where there is none. Raises
        `ChannelError`.
        """
        return self._exchange("GET", target("runs", run_id))

    def file_of(self, run_id: str, name: str) -> AbstractAsyncContextManager[ToolResponse]:
        """A file that the answer of a run announced; 404 where there is none. Raises `ChannelError`."""
        return self._exchange("GET", target("runs", run_id, "files", name))

    async def cancel(self, run_id: str) -> bool:
        """Request a run's end; False where the container knows no such run. Raises `ChannelError`."""
        return await self._succeeds("POST", target("runs", run_id, "cancel"))

    async def forget(self, run_id: str) -> bool:
        """Delete a retained answer; False where there is none. Raises `ChannelError`."""
        return await self._succeeds("DELETE", target("runs", run_id))

    async def _succeeds(self, method: str, path: str) -> bool:
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT), self._exchange(method, path) as response:
                await response.read(_MAX_STATUS)
                return response.status < 300
        except TimeoutError as error:
            raise ChannelError(f"the tool socket does not answer within {_CONTROL_TIMEOUT:g} s") from error

    def _exchange(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] = MappingProxyType({}),
        body: bytes | AsyncIterator[bytes] = b"",
    ) -> "_Exchange":
        return _Exchange(self._tools, method, path, fields, body)


class _Exchange:
    """A request to the tool socket, and its response within the `async with`."""

    # A class, since a generator in its stead would be a tenth of what a small call costs.
    __slots__ = ("_connection", "_pool", "_request")

    def __init__(
        self,
        pool: ConnectionPool,
        method: str,
        path: str,
        fields: Mapping[str, str],
        body: bytes | AsyncIterator[bytes],
    ) -> None:
        self._pool = pool
        self._request = (method, path, fields, body)

    async def __aenter__(self) -> ToolResponse:
        method, path, fields, body = self._request
        try:
            head = request_head(method, path, fields, length=len(body) if isinstance(body, bytes) else None)
            self._connection = await self._pool.request(head, body, idempotent=method != "POST")
        except _FAILURES as error:
            raise ChannelError(f"no answer came: {error}") from error
        return ToolResponse(self._connection, self._pool.connector)

    async def __aexit__(self, *_: object) -> None:
        await self._pool.release(self._connection)


async def _read_body(connection: HttpConnection, limit: int) -> bytes | None:
    """None where it is over `limit` bytes."""
    if (connection.response.length or 0) > limit:
        return None
    chunks, size, body = [], 0, b"-"
    while body and size <= limit:
        body = await connection.read_chunk()
        chunks.append(body)
        size += len(body)
    return b"".join(chunks) if size <= limit else None


async def _read_status(connection: HttpConnection) -> bytes:
    """Raises `ValueError` for a body that is too long."""
    body = await _read_body(connection, _MAX_STATUS)
    if body is None:
        raise ValueError(f"an answer of over {_MAX_STATUS} bytes")
    return body


async def _read_lines(connection: HttpConnection, limit: int = _MAX_LINE) -> AsyncIterator[list[bytes]]:
    """Lines of at most `limit` bytes: those that came together at once, never none."""
    rest = bytearray()
    while chunk := await connection.read_chunk():
        if b"\n" not in chunk:
            rest += chunk
            if len(rest) > limit:
                raise ValueError(f"a line of over {limit} bytes")
            continue
        *lines, tail = (bytes(rest + chunk) if rest else chunk).split(b"\n")
        rest = bytearray(tail)
        if lines := [line for line in lines if line]:
            yield lines
