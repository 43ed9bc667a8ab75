"""GET /v1/events and GET /v1/plugins/{name}/events: every state change, as a list or as a stream."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field

from orchestrator.api.context import ApiContext, Context
from orchestrator.api.event_feed import TooManyReadersError, event_fields
from orchestrator.api.problems import problem, unknown_plugin
from orchestrator.api.request_headers import SSE, wanted_stream
from orchestrator.api.sse import STREAM_HEADERS, UntilShutdownResponse
from orchestrator.registry import LifecycleEvent

router = APIRouter(tags=["events"])

_PAGE: Final = 500  # events read at once for a reader that resumes
_WRITE_TIMEOUT: Final = 30.0  # seconds before a reader that takes nothing is disconnected
_RETRY_AFTER: Final = 5
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {SSE: {"schema": {"type": "string"}}}},
    429: {"description": "Too many readers follow the events already"},
}


class EventQuery(BaseModel):
    """Which events to return."""

    after: int | None = Field(
        None,
        ge=0,
        description="Only events with a higher id. Without it, a list ends with the newest event and a stream begins "
        "with the next one.",
    )
    limit: int = Field(100, ge=1, le=1000, description="Maximum number of events in a list.")
    include: list[Literal["health"]] = Field(
        [],
        description="`health`: a stream also sends the health of each plugin, first as it is and then after changes.",
    )


Which = Annotated[EventQuery, Query()]
LastEventId = Annotated[str | None, Header(description="Overrides `after`; browsers send it when they reconnect.")]


@router.get("/v1/events", responses=_RESPONSES)
async def events(request: Request, context: Context, which: Which, last_event_id: LastEventId = None) -> Any:
    """State changes of all plugins, oldest first; with `Accept: text/event-stream` an open stream of them."""
    return await _respond(request, context, which, last_event_id, plugin=None)


@router.get(
    "/v1/plugins/{name}/events", responses={**_RESPONSES, 404: {"description": "No such plugin"}}, tags=["plugins"]
)
async def plugin_events(
    name: str, request: Request, context: Context, which: Which, last_event_id: LastEventId = None
) -> Any:
    """As /v1/events, for one plugin; also for one that was removed, as far as the history has it."""
    if context.registry.get(name) is None and not await _page(context, name, None, 1):
        return unknown_plugin(name)
    return await _respond(request, context, which, last_event_id, plugin=name)


async def _respond(
    request: Request, context: ApiContext, which: EventQuery, last_event_id: str | None, *, plugin: str | None
) -> Any:
    if wanted_stream(",".join(request.headers.getlist("accept"))) != SSE:
        found = await _page(context, plugin, which.after, which.limit)
        return [event_fields(event) for event in found]
    # No more digits than fit into SQLite's 64 bits. Anything else is not one of our ids.
    resumed = last_event_id is not None and re.fullmatch(r"[0-9]{1,18}", last_event_id)
    after = int(resumed[0]) if resumed else which.after
    return _stream(context, plugin, after, health="health" in which.include)


def _stream(context: ApiContext, plugin: str | None, after: int | None, *, health: bool) -> Response:
    try:
        subscription = context.feed.subscribe(plugin=plugin, after=after, health=health)
    except TooManyReadersError as error:
        refusal = problem(429, str(error), error_type="TooManyReaders", plugin=plugin)
        refusal.headers["Retry-After"] = str(_RETRY_AFTER)
        return refusal
    return UntilShutdownResponse(
        subscription.frames(_earlier(context, plugin, subscription.after)),
        context.shutdown.requested,
        media_type=SSE,
        headers=STREAM_HEADERS,
        write_timeout=_WRITE_TIMEOUT,
        on_end=subscription.close,
    )


async def _earlier(context: ApiContext, plugin: str | None, after: int) -> AsyncIterator[LifecycleEvent]:
    while page := await _page(context, plugin, after, _PAGE):
        for event in page:
            yield event
        after = page[-1].id


async def _page(context: ApiContext, plugin: str | None, after: int | None, limit: int) -> list[LifecycleEvent]:
    """The next `limit` events after `after`, or the newest ones where it is None; oldest first."""
    # The registry retains the newest events only; older ones are in the history.
    history, first = context.history, context.registry.first_event_id
    recent = context.registry.events(plugin=plugin, after=after or 0)
    older: list[LifecycleEvent] = []
    if after is None:
        if len(recent) < limit and first > 1:
            older = await history.latest_events(limit - len(recent), plugin=plugin, before=first)
        return [*older, *recent][-limit:]
    if after + 1 < first:
        older = [event for event in await history.events(plugin=plugin, after=after, limit=limit) if event.id < first]
    return [*older, *recent][:limit]
