"""ApiContext: the services that the routes use, and the dependency by which a route receives them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from fastapi import Depends
from starlette.requests import HTTPConnection

from orchestrator.access.principal import Principal
from orchestrator.api.body import UploadPace
from orchestrator.api.event_feed import EventFeed
from orchestrator.health.listing import HealthListing
from orchestrator.registry import PluginRegistry
from orchestrator.registry.history import HistoryStore
from orchestrator.sandbox.deadline import CoarseTimers
from orchestrator.supervisor.drain_mark import DrainMark
from orchestrator.supervisor.fleet import Fleet
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tools.shutdown import Shutdown
from orchestrator.tools.tool_runner import ToolRunner
from orchestrator.webhooks.service import WebhookService

FROM_FRONT: Final = "orchestrator.from_front"
"""The key of an ASGI scope that is true where a front sent the request, on behalf of the `Principal` there."""


@dataclass(frozen=True, slots=True)
class ApiContext:
    """`pace`: the slowest upload allowed; `spool`: the folder for bodies of asynchronous runs."""

    registry: PluginRegistry
    fleet: Fleet
    tool_runner: ToolRunner
    pace: UploadPace
    spool: Path
    feed: EventFeed
    metrics: Metrics
    history: HistoryStore
    shutdown: Shutdown
    drain_mark: DrainMark
    webhooks: WebhookService
    listing: HealthListing = field(default_factory=HealthListing)
    timers: CoarseTimers = field(default_factory=CoarseTimers)


def api_context(connection: HTTPConnection) -> ApiContext:
    """The context of the application that serves a request."""
    context = connection.app.state.context
    assert isinstance(context, ApiContext)  # noqa: S101 - the composition root sets it
    return context


async def _context(connection: HTTPConnection) -> ApiContext:
    # A coroutine, though it awaits nothing: FastAPI would run a plain function in a thread, for each request.
    return api_context(connection)


Context = Annotated[ApiContext, Depends(_context)]


def principal_of(connection: HTTPConnection) -> Principal:
    """Who sent a request."""
    principal = connection.scope["principal"]
    assert isinstance(principal, Principal)  # noqa: S101 - the middleware sets it
    return principal


async def _principal(connection: HTTPConnection) -> Principal:
    return principal_of(connection)


Who = Annotated[Principal, Depends(_principal)]
