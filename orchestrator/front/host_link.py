"""HostLink: the connections to one host's orchestrator, and the requests that a front itself makes there."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from orchestrator.access import delegation
from orchestrator.access.principal import ANYONE, Principal
from orchestrator.errors import OrchestratorError
from orchestrator.front.forwarded_heads import request_head
from orchestrator.front.hosts_file import HostEntry, HostsFileError
from orchestrator.runtime_client.http_connection import HttpConnection
from orchestrator.runtime_client.pool import ConnectionPool

CONNECT_SECONDS: Final = 2.0
_MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of an answer that the front reads whole."""
_KEEP_ALIVE: Final = {
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 4,
    socket.TCP_USER_TIMEOUT: 25_000,
}
"""A connection breaks when the host's machine has been silent for about 25 s, whatever is awaited."""


class HostUnreachableError(OrchestratorError):
    """A host did not answer; its text is a sentence that names the host.

    `sent`: whether anything was sent, so that the host may have done what it was to do.
    """

    def __init__(self, host: str, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.host = host
        self.sent = sent


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """A whole answer. `headers` by lower-case name."""

    host: str
    status: int
    headers: dict[bytes, bytes] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Raises `HostUnreachableError` for what is no JSON: something else than an orchestrator answers there."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError):
            sentence = f"What answers as the host {self.host} is no orchestrator: its answer is no JSON."
            raise HostUnreachableError(self.host, sentence, sent=True) from None


class HostLink:
    """Use it on one event loop; close it in the end. Raises `HostsFileError` where its key or CA cannot be read."""

    def __init__(self, entry: HostEntry) -> None:
        self.name = entry.name
        self.use(entry, entry.key())
        self._base = entry.base_path.encode()
        self._pool = ConnectionPool(_TcpConnector(entry), connect_timeout=CONNECT_SECONDS)

    def reaches(self, entry: HostEntry) -> bool:
        """Whether its connections are those that this entry wants."""
        return (self.entry.address, self.entry.ca_file) == (entry.address, entry.ca_file)

    def use(self, entry: HostEntry, key: str | None) -> None:
        """Have this entry, which it `reaches`, and send this key, from the next request on."""
        self.entry = entry
        host = ((b"host", entry.parts.netloc.encode()),)
        self._own: tuple[tuple[bytes, bytes], ...] = (
            host if key is None else (*host, (b"authorization", b"Bearer " + key.encode()))
        )

    async def close(self) -> None:
        await self._pool.close()

    async def acquire(self) -> HttpConnection:
        """A connection, to be released. Raises `HostUnreachableError`, with nothing sent."""
        try:
            return await self._pool.acquire()
        except (OSError, ValueError) as error:
            raise HostUnreachableError(self.name, self._silent(error), sent=False) from error

    async def release(self, connection: HttpConnection) -> None:
        await self._pool.release(connection)

    def head(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        caller: Principal,
        more: Iterable[tuple[bytes, bytes]] = (),
        *,
        length: int | None,
        dropped: frozenset[bytes] = frozenset(),
    ) -> bytes:
        """The head of a request on behalf of `caller`. `target`: path and query below the API's root."""
        own = (*self._own, (delegation.HEADER.encode(), delegation.encode(caller)), *more)
        return request_head(method, self._base + target, headers, own, length=length, dropped=dropped)

    async def get(
        self,
        target: str,
        *,
        within: float,
        caller: Principal = ANYONE,
        headers: Iterable[tuple[bytes, bytes]] = (),
        method: str = "GET",
        body: bytes = b"",
    ) -> HostAnswer:
        """A whole answer within so many seconds. Raises `HostUnreachableError`."""
        try:
            async with asyncio.timeout(within):
                connection = await self.acquire()
                try:
                    head = self.head(method, target.encode(), headers, caller, length=len(body))
                    response = await connection.request(head, body)
                    return HostAnswer(self.name, response.status, response.fields, await self._whole(connection))
                finally:
                    await self.release(connection)
        except TimeoutError:
            sentence = f"The host {self.name} did not answer within {within:g} s."
            raise HostUnreachableError(self.name, sentence, sent=True) from None
        except (OSError, ValueError) as error:
            raise HostUnreachableError(self.name, self.broken(error), sent=True) from error

    async def stream(
        self, target: str, headers: Iterable[tuple[bytes, bytes]], caller: Principal = ANYONE
    ) -> "HostStream":
        """An answer that has no end; the caller closes it. Sets no time limit. Raises `HostUnreachableError`."""
        connection = await self.acquire()
        try:
            response = await connection.request(self.head("GET", target.encode(), headers, caller, length=0), b"")
        except (OSError, ValueError) as error:
            await self.release(connection)
            raise HostUnreachableError(self.name, self.broken(error), sent=True) from error
        except BaseException:
            await self.release(connection)
            raise
        return HostStream(self, connection, response.status)

    def broken(self, error: Exception) -> str:
        """The sentence for a connection that ended before the answer's end."""
        return f"The connection to the host {self.name} broke: {_words(error)}."

    def _silent(self, error: Exception) -> str:
        return f"The host {self.name} cannot be reached: {_words(error)}."

    async def _whole(self, connection: HttpConnection) -> bytes:
        chunks, size = [], 0
        while chunk := await connection.read_chunk():
            chunks.append(chunk)
            size += len(chunk)
            if size > _MAX_ANSWER:
                raise ValueError(f"an answer of over {_MAX_ANSWER} bytes")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class HostStream:
    """The body of an answer as it comes."""

    def __init__(self, link: HostLink, connection: HttpConnection, status: int) -> None:
        self.status = status
        self._link = link
        self._connection = connection

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises `HostUnreachableError` where the connection breaks."""
        try:
            while chunk := await self._connection.read_chunk():
                yield chunk
        except (OSError, ValueError) as error:
            raise HostUnreachableError(self._link.name, self._link.broken(error), sent=True) from error

    def abort(self) -> None:
        """Break the connection off: `chunks` raises."""
        self._connection.abort()

    async def close(self) -> None:
        await self._link.release(self._connection)


class _TcpConnector:
    """A `Connector` of a host's address."""

    def __init__(self, entry: HostEntry) -> None:
        parts = entry.parts
        assert parts.hostname is not None  # noqa: S101 - the entry has been checked
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _tls(entry) if parts.scheme == "https" else None

    async def connect(self) -> HttpConnection:
        """Raises `OSError`."""
        transport, connection = await asyncio.get_running_loop().create_connection(
            HttpConnection, self._host, self._port, ssl=self._tls
        )
        # A cut takes no leave: without these a run's answer would be awaited for ever.
        found = transport.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE.items():
            found.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection

    async def hang_up(self, connection: HttpConnection) -> None:
        connection.abort()


def _tls(entry: HostEntry) -> ssl.SSLContext:
    """Raises `HostsFileError`."""
    try:
        return ssl.create_default_context(cafile=None if entry.ca_file is None else str(entry.ca_file))
    except (OSError, ssl.SSLError) as error:
        sentence = f"The certificates of the host {entry.name}, {entry.ca_file}, cannot be used: {_words(error)}."
        raise HostsFileError(sentence) from None


def _words(error: Exception) -> str:
    """Why, without what the system adds for programs."""
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return (text or type(error).__name__).rstrip(".").replace("the plugin", "it")
