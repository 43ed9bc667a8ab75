"""The way into a container: the runtime protocol's client, made from an endpoint value.

The only module that knows the channel's HTTP client. Its errors become `ChannelError` here.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import aiohttp
import msgspec

from orchestrator.containers.endpoint import Endpoint, UnixEndpoint
from orchestrator.errors import ChannelError
from orchestrator.sandbox import told
from orchestrator.sandbox.gateway_connector import GatewayConnector
from orchestrator.sandbox.socket_connector import SocketConnector

_CONTROL_TIMEOUT: Final = 2.0
"""Seconds for a question on the control socket, which no tool can block."""
_DIAGNOSE_TIMEOUT: Final = 1.5
"""Seconds; the protocol gives the container one."""
_MEMORY: Final = ("usage_bytes", "peak_bytes", "limit_bytes")
_LINE_LIMIT: Final = 64 * 1024 * 1024
_STATUS_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a status object, or of what `diagnose` answers."""
_BREATH: Final = 0.01
"""Seconds between two statuses that are looked at: who sends more of them must not keep the loop busy."""
_FAILURES = (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, ValueError)

Connector = SocketConnector | GatewayConnector


@dataclass(frozen=True, slots=True)
class RunInContainer:
    """A run that executes now, for `seconds` so far."""

    run_id: str
    tool: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """The protocol's status object, as far as the orchestrator uses it; whatever is not as agreed reads as not told."""

    phase: str
    reason_code: str | None
    reason: str | None
    traceback: str
    checks: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...]
    worker_exit_code: int | None
    worker_signal: str | None
    worker_stuck: bool
    oom_kills: int
    memory: Mapping[str, int | None]
    cpu_seconds: float | None
    ready_seconds: float | None
    """Since its tools can be called."""
    runs_begun: int
    runs: tuple[RunInContainer, ...]
    """Those that execute now, also those whose caller is gone."""

    @classmethod
    def parse(cls, line: bytes) -> "RuntimeStatus":
        """Raises `ValueError` for what is no JSON object."""
        content = _parsed(line)
        if not isinstance(content, dict):
            raise ValueError("a status is a JSON object")  # noqa: TRY004 - the caller knows one error for all that is unreadable
        worker, memory = _mapping(content.get("worker")), _mapping(content.get("memory"))
        return cls(
            phase=told.text(content.get("phase")) or "",
            reason_code=told.text(content.get("reason_code")),
            reason=told.text(content.get("reason")),
            traceback=told.text(content.get("traceback"), told.LONGEST_TRACE) or "",
            checks=told.checks(content.get("checks")),
            tools=told.tools(content.get("tools")),
            worker_exit_code=_integer(worker.get("exit_code")),
            worker_signal=_signal_name(worker.get("signal")),
            worker_stuck=worker.get("stuck") is True,
            oom_kills=_integer(memory.get("oom_kills")) or 0,
            memory={name: _integer(memory.get(name)) for name in _MEMORY},
            cpu_seconds=_number(content.get("cpu_seconds")),
            ready_seconds=_number(content.get("ready_seconds")),
            runs_begun=_integer(content.get("runs_begun")) or 0,
            runs=tuple(run for item in told.mappings(content.get("runs")) if (run := _run(item)) is not None),
        )


class ToolResponse:
    """The head of a tool's answer, and the way to its body."""

    def __init__(self, response: aiohttp.ClientResponse, connector: Connector) -> None:
        self._response = response
        self._connector = connector
        self.status = response.status
        self.content_type = response.content_type
        kills = response.headers.get("X-Oom-Kills", "")
        self.oom_kills = int(kills) if kills.isascii() and kills.isdigit() and len(kills) < 10 else 0

    async def read(self, limit: int) -> bytes | None:
        """The whole body, None where it is over `limit` bytes. Raises `ChannelError`."""
        try:
            return await _whole(self._response, limit)
        except _FAILURES as error:
            raise ChannelError(f"the connection broke while the answer came: {error}") from error

    async def hang_up(self) -> None:
        """Take no more of a stream, and return when the tool has ended, which is when its side is closed too."""
        if (connection := self._response.connection) is not None:
            await self._connector.hang_up(connection)

    async def lines(self) -> AsyncIterator[bytes]:
        """The body's lines as they come. Raises `ChannelError`."""
        try:
            async for line in _lines(self._response):
                yield line
        except _FAILURES as error:
            raise ChannelError(f"the connection broke while the answer came: {error}") from error


class RuntimeChannel:
    """Connections to one container. Use it on one event loop; close it in the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._control = _session(_connector(endpoint, "control", limit=4))
        self._tools_connector = _connector(endpoint, "tools", limit=0)
        self._tools = _session(self._tools_connector)

    async def close(self) -> None:
        await self._control.close()
        await self._tools.close()

    async def watch(self) -> AsyncIterator[RuntimeStatus]:
        """Status objects as they come, until the container is gone. Raises `ChannelError` where it cannot be asked at
        all.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONTROL_TIMEOUT)
        try:
            async with self._control.get("http://plugin/watch", timeout=timeout) as response:
                if response.status != 200:
                    raise ChannelError(f"the control socket answered {response.status} to /watch")
                async for line in _lines(response, _STATUS_LIMIT, newest=True):
                    yield RuntimeStatus.parse(line)
                    await asyncio.sleep(_BREATH)
        except _FAILURES as error:
            raise ChannelError(f"the control connection broke: {error}") from error

    async def status(self, timeout: float = _CONTROL_TIMEOUT) -> RuntimeStatus:
        """Raises `ChannelError`, also when no answer comes within `timeout` seconds."""
        try:
            async with self._control.get(
                "http://plugin/status", timeout=aiohttp.ClientTimeout(total=timeout)
            ) as response:
                return RuntimeStatus.parse(await _short(response))
        except (*_FAILURES, TimeoutError) as error:
            raise ChannelError(f"the control socket does not answer: {error}") from error

    async def diagnose(self) -> str:
        """The stacks of the worker's threads at this moment; empty where they cannot be had. Never raises."""
        try:
            async with self._control.post(
                "http://plugin/diagnose", timeout=aiohttp.ClientTimeout(total=_DIAGNOSE_TIMEOUT)
            ) as response:
                return told.text(_mapping(_parsed(await _short(response))).get("stacks"), told.LONGEST_TRACE) or ""
        except (*_FAILURES, TimeoutError, ChannelError):
            return ""

    @asynccontextmanager
    async def call(
        self,
        tool: str,
        *,
        run_id: str,
        content_type: str,
        query: str,
        body: bytes | AsyncIterator[bytes],
        trace: Mapping[str, str] = MappingProxyType({}),
        keep: bool = False,
    ) -> AsyncIterator[ToolResponse]:
        """Call a tool and have the head of its answer. `trace` are headers of the W3C trace context; with `keep` the
        run goes on when the connection breaks. Raises `ChannelError` where no answer comes; sets no bound in time.
        """
        headers = {"X-Run-Id": run_id, "Content-Type": content_type, **trace}
        if keep:
            headers["X-Run-Keep"] = "1"
        url = f"http://plugin/tools/{tool}" + (f"?{query}" if query else "")
        async with self._answered("POST", url, data=body, headers=headers) as response:
            yield response

    @asynccontextmanager
    async def answer_of(self, run_id: str) -> AsyncIterator[ToolResponse]:
        """The answer of a run that has begun already, when it has ended; 404 and 410 where there is none. Raises
        `ChannelError`.
        """
        async with self._answered("GET", f"http://plugin/runs/{run_id}") as response:
            yield response

    async def cancel(self, run_id: str) -> bool:
        """Ask a run to end; False where the container knows of none. Raises `ChannelError`."""
        return await self._ask("POST", f"http://plugin/runs/{run_id}/cancel")

    async def forget(self, run_id: str) -> bool:
        """Have a kept answer thrown away; False where there is none. Raises `ChannelError`."""
        return await self._ask("DELETE", f"http://plugin/runs/{run_id}")

    async def _ask(self, method: str, url: str) -> bool:
        try:
            async with self._tools.request(
                method, url, timeout=aiohttp.ClientTimeout(total=_CONTROL_TIMEOUT)
            ) as response:
                await response.read()
                return response.status < 300
        except (*_FAILURES, TimeoutError) as error:
            raise ChannelError(f"the tool socket does not answer: {error}") from error

    @asynccontextmanager
    async def _answered(self, method: str, url: str, **request: Any) -> AsyncIterator[ToolResponse]:
        try:
            response = await self._tools.request(method, url, allow_redirects=False, **request)
        except _FAILURES as error:
            raise ChannelError(f"no answer came: {error}") from error
        try:
            yield ToolResponse(response, self._tools_connector)
        finally:
            # An answer that was not read to its end closes the connection, which tells a generator to stop.
            response.release() if response.content.at_eof() else response.close()


def _connector(endpoint: Endpoint, target: Literal["control", "tools"], *, limit: int) -> Connector:
    if isinstance(endpoint, UnixEndpoint):
        return SocketConnector(path=str(endpoint.control if target == "control" else endpoint.tools), limit=limit)
    return GatewayConnector(endpoint, target, limit=limit)


def _session(connector: Connector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )


async def _whole(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body, None where it is over `limit` bytes."""
    if (response.content_length or 0) > limit:
        return None
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


async def _short(response: aiohttp.ClientResponse) -> bytes:
    """The whole body of what must be short. Raises `ValueError` where it is not."""
    body = await _whole(response, _STATUS_LIMIT)
    if body is None:
        raise ValueError(f"an answer of over {_STATUS_LIMIT} bytes")
    return body


async def _lines(
    response: aiohttp.ClientResponse, limit: int = _LINE_LIMIT, *, newest: bool = False
) -> AsyncIterator[bytes]:
    """Lines of any length up to the limit; aiohttp's own reader stops at 128 KiB. `newest`: of lines that came together
    the last alone.
    """
    rest = bytearray()
    async for chunk in response.content.iter_any():
        rest += chunk
        if b"\n" not in chunk:
            if len(rest) > limit:
                raise ValueError(f"a line of over {limit} bytes")
            continue
        *lines, tail = bytes(rest).split(b"\n")
        rest = bytearray(tail)
        for line in [line for line in lines if line][-1 if newest else 0 :]:
            yield line


def _parsed(text: bytes) -> Any:
    """Raises `ValueError` for no JSON; unlike `json`, also for NaN and half a surrogate pair, which could not be
    passed on.
    """
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _run(item: Mapping[str, Any]) -> RunInContainer | None:
    run_id, tool = told.text(item.get("run_id")), told.text(item.get("tool"))
    return None if run_id is None or tool is None else RunInContainer(run_id, tool, _number(item.get("seconds")) or 0.0)


def _signal_name(value: Any) -> str | None:
    try:
        return signal.Signals(value).name if _integer(value) is not None else None
    except ValueError:
        return f"SIG{value}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
