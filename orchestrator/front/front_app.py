"""The front as an ASGI application: which route is answered from memory, from all hosts, or by one of them."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.access.principal import Principal
from orchestrator.api import problems
from orchestrator.api.body import UploadPace
from orchestrator.api.context import principal_of
from orchestrator.api.event_feed import TooManyReadersError
from orchestrator.api.middleware import guarded
from orchestrator.api.request_headers import SSE, wanted_stream
from orchestrator.api.sse import STREAM_HEADERS, UntilShutdownResponse
from orchestrator.front.cursors import Cursor, CursorError
from orchestrator.front.event_stream import EventStream
from orchestrator.front.fencing import Fencing
from orchestrator.front.front_shutdown import FrontShutdown
from orchestrator.front.host_commands import HostCommands
from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostEntry
from orchestrator.front.hosts_watch import watch_hosts_file
from orchestrator.front.merged_routes import MergedRoutes
from orchestrator.front.moving import Moving
from orchestrator.front.placing import Placing
from orchestrator.front.plugin_forwarding import PluginForwarding
from orchestrator.front.run_forwarding import RunForwarding
from orchestrator.settings import Settings
from orchestrator.tools import refusals

_RUN: Final = re.compile(r"/v1/plugins/([^/]+)/tools/([^/]+)/run")
_COMMAND: Final = re.compile(r"/v1/(?:plugins/(?P<plugin>[^/]+)/move|hosts(?:/(?P<host>[^/]+)/(?P<action>[^/]+))?)")
_PLUGIN: Final = re.compile(r"/v1/plugins/([^/]+)/([^/]+)(?:/.*)?")
_ONE_RUN: Final = re.compile(r"/v1/runs/([^/]+)(?:/.*)?")
_GPU: Final = re.compile(r"/v1/gpus/([^/]+)/release")
_READS: Final = frozenset({"GET", "HEAD"})
_WRITE_TIMEOUT: Final = 30.0  # seconds before a reader of events that takes nothing is disconnected


def create_front(settings: Settings, entries: Collection[HostEntry], *, hosts_file: Path | None = None) -> Starlette:
    """The front over these hosts, for callers with the keys of `settings`. Its lifespan follows the hosts, and
    `hosts_file` where there is one; `state.hosts` has them, and `state.shutdown` ends it.

    Raises `KeyFileError` where the API keys cannot be read, and `HostsFileError` where a host's key or CA cannot.
    """
    hosts = Hosts(entries)
    shutdown = FrontShutdown(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch_hosts_file(hosts_file, hosts)) if hosts_file else None
        async with hosts.running(), Fencing(hosts).running():
            yield
        if watching is not None:
            watching.cancel()
            await asyncio.wait((watching,))

    app = Starlette(lifespan=lifespan)
    app.state.hosts, app.state.shutdown = hosts, shutdown
    front = _Front(app, hosts, settings, shutdown)
    app.middleware_stack = guarded(front, settings)
    return app


class _Front:
    """Answers what the guard has admitted."""

    def __init__(self, app: Starlette, hosts: Hosts, settings: Settings, shutdown: FrontShutdown) -> None:
        self._app = app
        self._hosts = hosts
        self._shutdown = shutdown
        self._max_readers = settings.event_readers
        self._readers = 0
        pace = UploadPace(settings.upload_idle_timeout.total_seconds(), int(settings.upload_min_rate))
        # Whom a proxy before the front names is the front's to judge: a host would believe the front's address.
        dropped = frozenset({settings.proxy_user_header.lower().encode()})
        self._merged = MergedRoutes(hosts)
        self._runs = RunForwarding(hosts, pace, dropped=dropped)
        self._placing = Placing(hosts)
        self._plugins = PluginForwarding(hosts, self._placing, pace, dropped=dropped)
        self._commands = HostCommands(hosts, Moving(hosts, self._placing), pace)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app.router(scope, receive, send)
            return
        started = False

        async def send_noted(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            with self._shutdown.answering():
                await self._answer(scope, receive, send_noted)
        except Exception:
            # As an orchestrator does: the caller is answered, and the server logs it.
            if not started:
                await problems.defect()(scope, receive, send)
            raise

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if method == "POST" and (found := _RUN.fullmatch(path)):
            if self._shutdown.requested.is_set():
                await problems.respond(refusals.stopping(), plugin=found[1], tool=found[2])(scope, receive, send)
            else:
                await self._runs.run(found[1], found[2], scope, receive, send)
        elif method == "POST" and (found := _COMMAND.fullmatch(path)):
            await self._commands.answer(found, scope, receive, send)
        elif method in _READS and (response := self._own(path, scope)) is not None:
            await (await response)(scope, receive, send)
        elif found := _ONE_RUN.fullmatch(path):
            await self._runs.about_run(found[1], scope, receive, send)
        elif found := _PLUGIN.fullmatch(path):
            await self._plugins.plugin(found[1], found[2], scope, receive, send)
        elif method == "POST" and (found := _GPU.fullmatch(path)):
            host = await self._merged.host_of_gpu(found[1], principal_of(HTTPConnection(scope)))
            await self._plugins.host(host, scope, receive, send)
        elif path == "/mcp" and len(self._hosts.names) > 1:
            await _no_mcp()(scope, receive, send)
        else:
            await self._plugins.other(scope, receive, send)

    def _own(self, path: str, scope: Scope) -> Awaitable[Response] | None:
        """The answer that no single host gives; None for every other route."""
        principal = principal_of(HTTPConnection(scope))
        merged, query = self._merged, scope["query_string"]
        fixed: dict[str, Callable[[], Awaitable[Response]]] = {
            "/v1/plugins": lambda: merged.plugin_list(principal),
            "/v1/runs": lambda: merged.runs(query, principal),
            "/v1/gpus": lambda: merged.gpus(principal),
            "/v1/events": lambda: self._events(scope, path, None, principal),
            "/v1/hosts": lambda: _ready(merged.hosts()),
            "/metrics": lambda: merged.metrics(principal),
            "/healthz": merged.liveness,
            "/readyz": lambda: merged.readiness(principal, stopping=self._shutdown.requested.is_set()),
        }
        if path in fixed:
            return fixed[path]()
        found = _PLUGIN.fullmatch(path)
        if found is None or path.count("/") != 4:
            return None
        name, action = found[1], found[2]
        if action == "health":
            return merged.plugin_health(name, principal)
        if action == "placement" and len(self._hosts.names) > 1:
            return self._placing.report(name)
        if action == "events" and len(self._hosts.directory.holding(name)) > 0:
            return self._events(scope, path, name, principal)
        return None

    async def _events(self, scope: Scope, path: str, plugin: str | None, principal: Principal) -> Response:
        headers = HTTPConnection(scope).headers
        if wanted_stream(",".join(headers.getlist("accept"))) != SSE:
            return await self._merged.events(path, scope["query_string"], principal)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        cursor = Cursor()
        for text in (headers.get("last-event-id"), *query.get("after", ())):
            if text is not None:
                try:
                    cursor = Cursor.parse(text, self._hosts.names)
                    break
                except CursorError:
                    continue  # not one of ours
        if self._readers >= self._max_readers:
            return problems.too_many_readers(str(TooManyReadersError(self._max_readers)), plugin)
        shown = self._merged.concealment(principal)
        stream = EventStream(self._hosts, principal, shown=shown, path=path, plugin=plugin, cursor=cursor)
        self._readers += 1
        return UntilShutdownResponse(
            stream.frames(health="health" in query.get("include", ())),
            self._shutdown.requested,
            media_type=SSE,
            headers=STREAM_HEADERS,
            write_timeout=_WRITE_TIMEOUT,
            on_end=self._reader_left,
        )

    def _reader_left(self) -> None:
        self._readers -= 1


async def _ready(response: Response) -> Response:
    return response


def _no_mcp() -> Response:
    sentence = (
        "A front over several hosts has no /mcp. `orchestrator mcp` has all their tools, or call one host's /mcp."
    )
    return problems.problem(404, sentence, error_type="UnknownRoute")
