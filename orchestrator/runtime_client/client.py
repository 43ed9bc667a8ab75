"""The way into a container: the runtime protocol's client, made from an endpoint value.

Whatever the connection or the plugin does wrong becomes a `ChannelError` here.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Final, Literal

from orchestrator.containers.endpoint import Endpoint, UnixEndpoint
from orchestrator.errors import ChannelError
from orchestrator.runtime_client import sanitize
from orchestrator.runtime_client.gateway_connector import GatewayConnector
from orchestrator.runtime_client.http_connection import HttpConnection
from orchestrator.runtime_client.http_message import request_head, target
from orchestrator.runtime_client.pool import Connections, Connector
from orchestrator.runtime_client.socket_connector import SocketConnector
from orchestrator.runtime_client.status import RuntimeStatus, mapping, parsed

_CONTROL_TIMEOUT: Final = 2.0
"""Seconds for a question on the control socket, which no tool can block."""
_DIAGNOSE_TIMEOUT: Final = 1.5
"""Seconds; the protocol gives the container one."""
_LINE_LIMIT: Final = 64 * 1024 * 1024
_STATUS_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a status object, or of what `diagnose` answers."""
_BREATH: Final = 0.01
"""Seconds between two statuses that are looked at: who sends more of them must not keep the loop busy."""
_FAILURES = (OSError, ValueError)
"""What a connection raises; `TimeoutError` is an `OSError`."""

_STATUS: Final = request_head("GET", "/status", {}, length=0)
_WATCH: Final = request_head("GET", "/watch", {}, length=0)
_DIAGNOSE: Final = request_head("POST", "/diagnose", {}, length=0)


class ToolResponse:
    """The head of a tool's answer, and the way to its body."""

    def __init__(self, connection: HttpConnection, connector: Connector) -> None:
        self._connection = connection
        self._connector = connector
        self.status = connection.answer.status
        fields = connection.answer.fields
        self.content_type = fields.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        kills = fields.get(b"x-oom-kills", b"")
        self.oom_kills = int(kills) if kills.isdigit() and len(kills) < 10 else 0

    async def read(self, limit: int) -> bytes | None:
        """The whole body, None where it is over `limit` bytes. Raises `ChannelError`."""
        try:
            return await _whole(self._connection, limit)
        except _FAILURES as error:
            raise ChannelError(f"the connection broke while the answer came: {error}") from error

    async def hang_up(self) -> None:
        """Take no more of a stream, and return when the tool has ended, which is when its side is closed too."""
        await self._connector.hang_up(self._connection)

    async def lines(self) -> AsyncIterator[bytes]:
        """The body's lines as they come. Raises `ChannelError`."""
        try:
            async for line in _lines(self._connection):
                yield line
        except _FAILURES as error:
            raise ChannelError(f"the connection broke while the answer came: {error}") from error


class RuntimeChannel:
    """Connections to one container. Use it on one event loop; close it in the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._control = Connections(_connector(endpoint, "control"), patience=_CONTROL_TIMEOUT)
        self._tools = Connections(_connector(endpoint, "tools"), patience=None)

    async def close(self) -> None:
        await self._control.close()
        await self._tools.close()

    async def watch(self) -> AsyncIterator[RuntimeStatus]:
        """Status objects as they come, until the container is gone. Raises `ChannelError` where it cannot be asked at
        all.
        """
        try:
            async with self._control.exchange(_WATCH, idempotent=True) as connection:
                if connection.answer.status != 200:
                    raise ChannelError(f"the control socket answered {connection.answer.status} to /watch")
                status, clock, earlier = None, asyncio.get_running_loop().time, -_BREATH
                async for line in _lines(connection, _STATUS_LIMIT, newest=True):
                    status = RuntimeStatus.parse(line, status)
                    yield status
                    if clock() - earlier < _BREATH:
                        await asyncio.sleep(_BREATH)
                    earlier = clock()
        except _FAILURES as error:
            raise ChannelError(f"the control connection broke: {error}") from error

    async def status(self, timeout: float = _CONTROL_TIMEOUT) -> RuntimeStatus:
        """Raises `ChannelError`, also when no answer comes within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._control.exchange(_STATUS, idempotent=True) as connection:
                return RuntimeStatus.parse(await _short(connection))
        except _FAILURES as error:
            raise ChannelError(f"the control socket does not answer: {error}") from error

    async def diagnose(self) -> str:
        """The stacks of the worker's threads at this moment; empty where they cannot be had. Never raises."""
        try:
            async with asyncio.timeout(_DIAGNOSE_TIMEOUT), self._control.exchange(_DIAGNOSE) as connection:
                return (
                    sanitize.text(mapping(parsed(await _short(connection))).get("stacks"), sanitize.LONGEST_TRACE) or ""
                )
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
        keep: bool = False,
    ) -> AbstractAsyncContextManager[ToolResponse]:
        """Call a tool and have the head of its answer. `trace` are headers of the W3C trace context; with `keep` the
        run goes on when the connection breaks. Raises `ChannelError` where no answer comes; sets no bound in time.
        """
        fields = {"X-Run-Id": run_id, "Content-Type": content_type}
        if trace:
            fields.update(trace)
        if keep:
            fields["X-Run-Keep"] = "1"
        return self._answered("POST", target("tools", tool, query=query), fields, body)

    def answer_of(self, run_id: str) -> AbstractAsyncContextManager[ToolResponse]:
        """The answer of a run that has begun already, when it has ended; 404 and 410 where there is none. Raises
        `ChannelError`.
        """
        return self._answered("GET", target("runs", run_id))

    async def cancel(self, run_id: str) -> bool:
        """Ask a run to end; False where the container knows of none. Raises `ChannelError`."""
        return await self._ask("POST", target("runs", run_id, "cancel"))

    async def forget(self, run_id: str) -> bool:
        """Have a kept answer thrown away; False where there is none. Raises `ChannelError`."""
        return await self._ask("DELETE", target("runs", run_id))

    async def _ask(self, method: str, path: str) -> bool:
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT), self._answered(method, path) as response:
                await response.read(_STATUS_LIMIT)
                return response.status < 300
        except TimeoutError as error:
            raise ChannelError(f"the tool socket does not answer within {_CONTROL_TIMEOUT:g} s") from error

    def _answered(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] = MappingProxyType({}),
        body: bytes | AsyncIterator[bytes] = b"",
    ) -> "_Answered":
        return _Answered(self._tools, method, path, fields, body)


class _Answered:
    """A request to the tool socket within its `async with`. A class of its own, since a generator in its place would
    be a tenth of what a small call costs.
    """

    __slots__ = ("_connection", "_connections", "_request")

    def __init__(
        self,
        connections: Connections,
        method: str,
        path: str,
        fields: Mapping[str, str],
        body: bytes | AsyncIterator[bytes],
    ) -> None:
        self._connections = connections
        self._request = (method, path, fields, body)

    async def __aenter__(self) -> ToolResponse:
        method, path, fields, body = self._request
        try:
            head = request_head(method, path, fields, length=len(body) if isinstance(body, bytes) else None)
            self._connection = await self._connections.ask(head, body, idempotent=method != "POST")
        except _FAILURES as error:
            raise ChannelError(f"no answer came: {error}") from error
        return ToolResponse(self._connection, self._connections.connector)

    async def __aexit__(self, *_: object) -> None:
        await self._connections.give_back(self._connection)


def _connector(endpoint: Endpoint, name: Literal["control", "tools"]) -> Connector:
    if isinstance(endpoint, UnixEndpoint):
        return SocketConnector(endpoint.control if name == "control" else endpoint.tools)
    return GatewayConnector(endpoint, name)


async def _whole(connection: HttpConnection, limit: int) -> bytes | None:
    """The body, None where it is over `limit` bytes."""
    if (connection.answer.length or 0) > limit:
        return None
    body = await connection.part()
    if len(body) <= limit and connection.answer.complete and not connection.answer.held:
        return body
    parts, size = [body], len(body)
    while body and size <= limit:
        body = await connection.part()
        parts.append(body)
        size += len(body)
    return b"".join(parts) if size <= limit else None


async def _short(connection: HttpConnection) -> bytes:
    """The whole body of what must be short. Raises `ValueError` where it is not."""
    body = await _whole(connection, _STATUS_LIMIT)
    if body is None:
        raise ValueError(f"an answer of over {_STATUS_LIMIT} bytes")
    return body


async def _lines(connection: HttpConnection, limit: int = _LINE_LIMIT, *, newest: bool = False) -> AsyncIterator[bytes]:
    """Lines of any length up to the limit. `newest`: of lines that came together the last alone."""
    rest = bytearray()
    while part := await connection.part():
        rest += part
        if b"\n" not in part:
            if len(rest) > limit:
                raise ValueError(f"a line of over {limit} bytes")
            continue
        *lines, tail = bytes(rest).split(b"\n")
        rest = bytearray(tail)
        for line in [line for line in lines if line][-1 if newest else 0 :]:
            yield line
