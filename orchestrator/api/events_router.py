"""GET /v1/events and GET /v1/plugins/{name}/events: every state change, as a list or as a stream."""

import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field

from orchestrator.access.principal import Principal
from orchestrator.api.concealment import concealment
from orchestrator.api.context import ApiContext, Context, Who
from orchestrator.api.event_feed import TooManyReadersError, event_fields
from orchestrator.api.problems import too_many_readers, unknown_plugin
from orchestrator.api.request_headers import SSE, wanted_stream
from orchestrator.api.sse import STREAM_HEADERS, UntilShutdownResponse
from orchestrator.registry import LifecycleEvent

router = APIRouter(tags=["events"])

_PAGE: Final = 500  # events read at once for a reader that resumes
_WRITE_TIMEOUT: Final = 30.0  # seconds before a reader that takes nothing is disconnected
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
async def events(request: Request, context: Context, who: Who, which: Which, last_event_id: LastEventId = None) -> Any:
    """State changes of all plugins, oldest first; with `Accept: text/event-stream` an open stream of them."""
    return await _respond(request, EventsSeen(context, who, None), which, last_event_id)


@router.get(
    "/v1/plugins/{name}/events", responses={**_RESPONSES, 404: {"description": "No such plugin"}}, tags=["plugins"]
)
async def plugin_events(
    name: str, request: Request, context: Context, who: Who, *, which: Which, last_event_id: LastEventId = None
) -> Any:
    """As /v1/events, for one plugin; also for one that was removed, as far as the history has it."""
    seen = EventsSeen(context, who, name)
    if context.registry.get(name) is None and not await seen.page(None, 1):
        return unknown_plugin(name)
    return await _respond(request, seen, which, last_event_id)


class EventsSeen:
    """The events of all plugins that a caller sees, or of `plugin`."""

    def __init__(self, context: ApiContext, who: Principal, plugin: str | None) -> None:
        self.plugin = plugin
        self.context = context
        self.shown = concealment(who, context)
        self._among = () if who.sees_every_plugin else who.grant.plugins

    def sees(self, plugin: str) -> bool:
        return self.plugin in (None, plugin) and self.shown.principal.sees(plugin)

    async def page(self, after: int | None, limit: int) -> list[LifecycleEvent]:
        """The next `limit` events after `after`, or the newest ones where it is None; oldest first."""
        # The registry retains the newest events only; older ones are in the history.
        registry, history = self.context.registry, self.context.history
        first, plugin, among = registry.first_event_id, self.plugin, self._among
        recent = registry.events(plugin=plugin, after=after or 0)
        if among:
            recent = tuple(event for event in recent if self.sees(event.plugin))
        older: list[LifecycleEvent] = []
        if after is None:
            if len(recent) < limit and first > 1:
                older = await history.latest_events(limit - len(recent), plugin=plugin, before=first, among=among)
            return [*older, *recent][-limit:]
        if after + 1 < first:
            found = await history.events(plugin=plugin, after=after, limit=limit, among=among)
            older = [event for event in found if event.id < first]
        return [*older, *recent][:limit]

    async def earlier(self, after: int) -> AsyncIterator[LifecycleEvent]:
        while page := await self.page(after, _PAGE):
            for event in page:
                yield event
            after = page[-1].id

    def value(self, content: Any) -> Any:
        """An event, or a plugin's health, as the caller may see it: who sees only its own runs learns no other name."""
        who = self.shown.principal
        if not who.sees_every_run and content.get("caller") != who.name:
            content = {**content, "caller": None} if "caller" in content else content
        return self.shown.value(content)

    async def frames(self, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Server-sent events as the caller may see them."""
        async for frame in frames:
            before, data, text = frame.partition(b"data: ")
            if data:
                content = json.dumps(self.value(json.loads(text)), ensure_ascii=False, separators=(",", ":"))
                frame = before + data + content.encode() + b"\n\n"  # noqa: PLW2901 - the same frame, as it is shown
            yield frame


async def _respond(request: Request, seen: EventsSeen, which: EventQuery, last_event_id: str | None) -> Any:
    if wanted_stream(",".join(request.headers.getlist("accept"))) != SSE:
        found = await seen.page(which.after, which.limit)
        return [seen.value(event_fields(event)) for event in found]
    # No more digits than fit into SQLite's 64 bits. Anything else is not one of our ids.
    resumed = last_event_id is not None and re.fullmatch(r"[0-9]{1,18}", last_event_id)
    after = int(resumed[0]) if resumed else which.after
    return _stream(seen, after, health="health" in which.include)


def _stream(seen: EventsSeen, after: int | None, *, health: bool) -> Response:
    try:
        subscription = seen.context.feed.subscribe(sees=seen.sees, after=after, health=health)
    except TooManyReadersError as error:
        return too_many_readers(str(error), seen.plugin)
    frames = subscription.frames(seen.earlier(subscription.after))
    who = seen.shown.principal
    return UntilShutdownResponse(
        frames if who.sees_every_plugin and who.sees_every_run else seen.frames(frames),
        seen.context.shutdown.requested,
        media_type=SSE,
        headers=STREAM_HEADERS,
        write_timeout=_WRITE_TIMEOUT,
        on_end=subscription.close,
    )
