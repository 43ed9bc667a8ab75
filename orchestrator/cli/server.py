"""`serve`: the orchestrator in the foreground."""

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
from orchestrator.cli.configured import read_settings
from orchestrator.deployment import StateFolderError, claim
from orchestrator.registry import PluginRecord
from orchestrator.settings import Settings
from orchestrator.telemetry import logs

_ANSWER_SECONDS: Final = 30
"""For all of a request beside the run itself: what is left of its body, and its answer on a slow line."""


def serve(
    *, stop_plugins: Annotated[bool, typer.Option(help="On SIGTERM take the plugins' containers down too.")] = False
) -> None:
    """Run the orchestrator in the foreground until SIGTERM."""
    settings = read_settings()
    logs.configure(settings.log_level, settings.log_format)
    try:
        claim(settings).lock.release()  # so that a second orchestrator is told in one line, before the server starts
    except StateFolderError as error:
        _leave(str(error))
    _demand_keys(settings)
    sockets = _bound(settings)
    _allow_descriptors(settings.max_connections)
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
        signal.signal(number, lambda *_: None)  # uvicorn raises it again once all is done; a clean stop is exit code 0
    _Server(config, app).run(sockets)


def _demand_keys(settings: Settings) -> None:
    """Leaves the program where it would listen beyond loopback and ask nobody for a key."""
    try:
        ring = configured_keys(settings).load()
    except KeyFileError as error:
        _leave(str(error))
    if not ring and not is_loopback(settings.host):
        _leave(
            f"ORCHESTRATOR_HOST is {settings.host!r}, which others can reach, and there is no API key: whoever calls "
            "could run and stop every plugin. Add a key first with `orchestrator keys add NAME --role operator` (or "
            "set ORCHESTRATOR_OPERATOR_KEY_FILE), or listen on 127.0.0.1 only."
        )


def _leave(sentence: str) -> NoReturn:
    from orchestrator.cli.client import fail  # noqa: PLC0415  # rich and the HTTP client, which serving does without

    fail(sentence)


def _allow_descriptors(connections: int) -> None:
    """As many open files as the connections may need, each with one to its plugin; the usual 1024 are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))


def _bound(settings: Settings) -> list[socket.socket]:
    """The sockets that will be listened on; leaves the program with a sentence where they cannot be had, before
    anything has begun.
    """
    sockets = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sockets.append(bound := socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(address)
    except OSError as error:
        for opened in sockets:
            opened.close()
        _leave(
            f"Cannot listen on {settings.host} port {settings.port} ({error.strerror}); set ORCHESTRATOR_PORT (or "
            "ORCHESTRATOR_HOST) to one that is free."
        )
    return sockets


class _Server(uvicorn.Server):
    """Stops when the runs in flight have their answers, and waits for no reader that merely follows a log."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        shutdown_event(self._app).set()
        records = self._app.state.context.registry.list()
        # Beyond this no run can still be within its limit: what holds a connection open is then a reader that reads no
        # more.
        self.config.timeout_graceful_shutdown = math.ceil(
            _ANSWER_SECONDS + max((_runs_end_within(record) for record in records), default=0)
        )
        await super().shutdown(sockets)


def _runs_end_within(record: PluginRecord) -> float:
    """Seconds that the plugin's runs, and then those that wait for them or for its start, can take by its limits."""
    starts = record.ready_tick is None and not record.ended
    if not (starts or record.in_flight or record.queued):
        return 0
    if record.limits is None:
        return 0
    rounds = 1 + math.ceil(record.queued / max(1, record.limits.concurrency))
    start = record.limits.startup_timeout if starts else 0
    return start + rounds * record.limits.timeout
