"""What `serve` and `front` have in common: keys and certificate before the start, the port, signals, and the order in
which a server ends.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NoReturn, Protocol

import uvicorn
from starlette.types import ASGIApp

from orchestrator.access.hosts import is_loopback
from orchestrator.access.key_store import KeyFileError, configured_keys
from orchestrator.api.http_protocol import BoundedProtocol
from orchestrator.api.tls import Certificate, CertificateError
from orchestrator.cli.huge_pages import collapse_heap
from orchestrator.settings import Settings
from orchestrator.tools.shutdown import EXIT_SECONDS, TRANSFER_SECONDS

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_FLUSH_SECONDS: Final = 1.0
"""Limit for responses that are answered and not yet with their callers."""
_LAST_SECONDS: Final = 0.1
"""The same, for requests that came just before the port was closed."""
_SETTLED_SECONDS: Final = 10.0
_log = logging.getLogger(__name__)


class Stopping(Protocol):
    """The end of an application, which its server waits for while it still answers."""

    async def complete(self) -> None:
        """Returns when nothing is left to wait for."""

    def hurry(self) -> None:
        """Wait for nothing any more."""


class Server:
    """One application behind its port. Exits with a sentence where the settings, or the port, do not allow it."""

    def __init__(self, settings: Settings, signals: "StopSignals", *, longest_stop: float) -> None:
        """`longest_stop`: seconds from the first SIGTERM until the process has exited, whatever happens."""
        self._settings = settings
        self._signals = signals
        self._longest_stop = longest_stop
        _require_keys(settings)
        self._certificate = _certificate(settings)
        self._sockets = _bind_sockets(settings)
        _raise_descriptor_limit(settings.max_connections)

    def run(self, app: ASGIApp, shutdown: Callable[[], Stopping]) -> None:
        """Serve until SIGTERM, then exit. `shutdown`: asked for once the application has started."""
        certificate = self._certificate
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            http=BoundedProtocol.limited_to(self._settings.max_connections),
            ws="none",
            server_header=False,
            ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
        )
        server = _UvicornServer(
            config, shutdown, self._signals, longest_stop=self._longest_stop, certificate=certificate
        )
        server.run(self._sockets)


def _require_keys(settings: Settings) -> None:
    """Exit if it would listen beyond loopback without API keys."""
    try:
        ring = configured_keys(settings).load()
    except KeyFileError as error:
        exit_with(str(error))
    if not ring and not is_loopback(settings.host):
        exit_with(
            f"ORCHESTRATOR_HOST is {settings.host!r}, which other machines can reach, but there is no API key: any "
            "caller could run and stop every plugin. Add a key with `orchestrator keys add NAME --role operator` (or "
            "set ORCHESTRATOR_OPERATOR_KEY_FILE), or listen on 127.0.0.1 only."
        )


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is None:
        if settings.tls_key is not None:
            exit_with("ORCHESTRATOR_TLS_KEY is set, and ORCHESTRATOR_TLS_CERT is not: set both, or none.")
        return None
    try:
        return Certificate(settings.tls_cert, settings.tls_key)
    except CertificateError as error:
        exit_with(str(error))


def exit_with(sentence: str) -> NoReturn:
    from orchestrator.cli.console import fail  # noqa: PLC0415  # imports rich, which serving does without

    fail(sentence)


def _raise_descriptor_limit(connections: int) -> None:
    """Raise the limit of open files to what this many connections need."""
    # Each connection may need a second one, to its plugin; the usual limit is 1024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))


def _bind_sockets(settings: Settings) -> list[socket.socket]:
    """Bind the listening sockets; exits with a sentence if one is not free."""
    # Before anything else starts: uvicorn would report it only after the application has started.
    sockets = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sockets.append(listener := socket.socket(family, kind, protocol))
            # Connections of an earlier process may still be in TIME_WAIT.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Otherwise it would also take the IPv4 address, which has a socket of its own.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
    except OSError as error:
        for opened in sockets:
            opened.close()
        exit_with(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}. Set ORCHESTRATOR_PORT (or "
            "ORCHESTRATOR_HOST) to a free one."
        )
    return sockets


class StopSignals:
    """SIGTERM and SIGINT, from its creation on: `first` and `second` are set as they come."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in _SIGNALS:
            signal.signal(number, lambda *_: self._received())
        # The entry point of the own image blocks it, so that none is lost to a process 1 without handlers.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def watch(self) -> None:
        """From now on the running loop is woken by a signal, whichever thread the kernel interrupts."""
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


class _UvicornServer(uvicorn.Server):
    """Stops in this order: runs and instances, then everything else, then the port and with it the process."""

    def __init__(
        self,
        config: uvicorn.Config,
        shutdown: Callable[[], Stopping],
        signals: StopSignals,
        *,
        longest_stop: float,
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._stopping = shutdown
        self._signals = signals
        self._longest_stop = longest_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own would close the port first.
        self._signals.watch()
        yield

    async def main_loop(self) -> None:
        serving = asyncio.create_task(super().main_loop())
        watching = asyncio.create_task(self._certificate.watch()) if self._certificate else None
        settling = asyncio.create_task(_settle())
        scheme = "https" if self._certificate else "http"
        addresses = [listener.getsockname()[:2] for server in self.servers for listener in server.sockets]
        _log.info("serving on %s", ", ".join(f"{scheme}://{_written(*address)}" for address in addresses))
        _notify("READY=1")
        await self._signals.first.wait()
        _notify("STOPPING=1")
        _exit_within(self._longest_stop)
        shutdown = self._stopping()
        hurrying = asyncio.create_task(self._hurry(shutdown))
        await shutdown.complete()
        # Those that are being answered now: health is asked again and again.
        if answering := set(self.server_state.tasks):
            await asyncio.wait(answering, timeout=TRANSFER_SECONDS)
        hurrying.cancel()
        settling.cancel()
        if watching is not None:
            watching.cancel()
        self.should_exit = True
        await serving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close everything else while the port is open, then the port by the exit of the process."""
        # uvicorn's own closes the port first: health would be refused for as long as the rest takes. So would it while
        # the interpreter ends, which takes a loaded machine a second and has nothing left to do.
        await self.lifespan.shutdown()
        await self._close_connections(_FLUSH_SECONDS)
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        await self._close_connections(_LAST_SECONDS)
        logging.shutdown()
        os._exit(0)

    async def _close_connections(self, within: float) -> None:
        """Close the connections that are open now, each after its response."""
        end = asyncio.get_running_loop().time() + within
        connections = set(self.server_state.connections)
        for connection in connections:
            connection.shutdown()
        while connections & self.server_state.connections and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.002)

    async def _hurry(self, shutdown: Stopping) -> None:
        await self._signals.second.wait()
        _exit_within(EXIT_SECONDS)
        shutdown.hurry()


async def _settle() -> None:
    """What makes calls cheaper, once the start is over: it would delay the first answers."""
    await asyncio.sleep(_SETTLED_SECONDS)
    moved = await asyncio.to_thread(collapse_heap)
    _log.debug("%d huge pages hold the heap", moved)


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _exit_within(seconds: float) -> None:
    """Exit after so many seconds, whatever hangs: a thread in a frozen engine, a disk. The journal has the history."""

    def exit_now() -> None:
        _log.critical("not stopped within %g s; exiting as it is", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, exit_now)
    timer.daemon = True
    timer.start()


def _notify(state: str) -> None:
    """Tell systemd (`Type=notify`), where it started this process."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(f"\0{path[1:]}" if path.startswith("@") else path)
            sender.send(state.encode())
