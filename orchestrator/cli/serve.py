"""`serve`: runs the orchestrator in the foreground."""

import math
import resource
import signal
import socket
from typing import Annotated, Final, NoReturn

import typer
import uvicorn
from fastapi import FastAPI

from orchestrator.access.hosts import is_loopback
from orchestrator.access.key_store import KeyFileError, configured_keys
from orchestrator.api.http_protocol import BoundedProtocol
from orchestrator.api.sse import shutdown_event
from orchestrator.app import create_app
from orchestrator.cli.settings import read_settings
from orchestrator.deployment import StateFolderError, claim
from orchestrator.registry import PluginRecord
from orchestrator.settings import Settings
from orchestrator.telemetry import logs

_TRANSFER_SECONDS: Final = 30
"""Limit for the rest of a request beside its run: the remaining body, and the response on a slow connection."""


def serve(
    *, stop_plugins: Annotated[bool, typer.Option(help="On SIGTERM also stop the plugins' containers.")] = False
) -> None:
    """Run the orchestrator in the foreground until SIGTERM."""
    settings = read_settings()
    logs.configure(settings.log_level, settings.log_format)
    try:
        claim(settings).lock.release()  # a second orchestrator ends here with one line, before the server starts
    except StateFolderError as error:
        _exit(str(error))
    _require_keys(settings)
    sockets = _bind_sockets(settings)
    _raise_descriptor_limit(settings.max_connections)
    app = create_app(settings, stop_plugins=stop_plugins)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=BoundedProtocol.limited_to(settings.max_connections),
        ws="none",
        server_header=False,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped: without a handler the exit code would not be 0.
        signal.signal(number, lambda *_: None)
    _Server(config, app).run(sockets)


def _require_keys(settings: Settings) -> None:
    """Exit if it would listen beyond loopback without API keys."""
    try:
        ring = configured_keys(settings).load()
    except KeyFileError as error:
        _exit(str(error))
    if not ring and not is_loopback(settings.host):
        _exit(
            f"ORCHESTRATOR_HOST is {settings.host!r}, which other machines can reach, but there is no API key: any "
            "caller could run and stop every plugin. Add a key with `orchestrator keys add NAME --role operator` (or "
            "set ORCHESTRATOR_OPERATOR_KEY_FILE), or listen on 127.0.0.1 only."
        )


def _exit(sentence: str) -> NoReturn:
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
        _exit(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}. Set ORCHESTRATOR_PORT (or "
            "ORCHESTRATOR_HOST) to a free one."
        )
    return sockets


class _Server(uvicorn.Server):
    """Stops once the runs in flight are answered, without waiting for readers of logs and events."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        shutdown_event(self._app).set()
        records = self._app.state.context.registry.list()
        # After this no run is still within its time limit: connections that are open then have readers that stalled.
        self.config.timeout_graceful_shutdown = math.ceil(
            _TRANSFER_SECONDS + max((_max_run_seconds(record) for record in records), default=0)
        )
        await super().shutdown(sockets)


def _max_run_seconds(record: PluginRecord) -> float:
    """Seconds that the plugin's start, its runs and those queued behind them can take within its limits."""
    starts = record.ready_tick is None and not record.ended
    if not (starts or record.in_flight or record.queued):
        return 0
    if record.limits is None:
        return 0
    rounds = 1 + math.ceil(record.queued / max(1, record.limits.concurrency))
    start = record.limits.startup_timeout if starts else 0
    return start + rounds * record.limits.timeout
