"""Reading server-sent events."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Frame:
    """One event; `data` is its decoded JSON. A heartbeat or another comment has the kind `comment`."""

    kind: str
    data: Any = None
    id: int | None = None


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, path: str = "/v1/events", *, last_event_id: int | None = None, **query: Any
) -> AsyncIterator[AsyncIterator[Frame]]:
    """The frames of a stream of events, once the orchestrator has registered this reader."""
    headers = {"Accept": "text/event-stream"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = str(last_event_id)
    async with client.stream("GET", path, params=query, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        frames = _frames(response)
        assert (await anext(frames)).kind == "retry"
        yield frames


async def take(frames: AsyncIterator[Frame], count: int) -> list[Frame]:
    return [await anext(frames) for _ in range(count)]


async def _frames(response: httpx.Response) -> AsyncIterator[Frame]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "retry" in fields:
            yield Frame("retry")
            fields = {}
        elif fields:
            kind = fields.get("event", "comment")
            identity = fields.get("id")
            yield Frame(
                kind, json.loads(fields["data"]) if "data" in fields else None, int(identity) if identity else None
            )
            fields = {}
