"""The memory engine's events: kept, and told to whoever listens."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orchestrator.containers.spec import EngineEvent
from orchestrator.errors import EngineError


@dataclass(eq=False)
class EventStream:
    """One listener."""

    labels: Mapping[str, str]
    waiting: asyncio.Queue[EngineEvent | EngineError | None] = field(default_factory=asyncio.Queue)

    async def told(self, thawed: asyncio.Event) -> AsyncIterator[EngineEvent]:
        """Events until the stream is cut; silent while the engine is frozen."""
        while (event := await self.waiting.get()) is not None:
            await thawed.wait()
            if isinstance(event, EngineError):
                raise event
            yield event

    def offer(self, event: EngineEvent) -> None:
        """Queue it, if its labels are the ones listened for."""
        if self.labels.items() <= dict(event.labels).items():
            self.waiting.put_nowait(event)


class EventBoard:
    """All events so far and all listeners."""

    def __init__(self) -> None:
        self._past: list[EngineEvent] = []
        self._streams: set[EventStream] = set()

    def tell(self, container_id: str, labels: Mapping[str, str], action: str, exit_code: int | None) -> None:
        """Something has happened."""
        event = EngineEvent(action, container_id, dict(labels), datetime.now(UTC), exit_code)
        self._past.append(event)
        for stream in self._streams:
            stream.offer(event)

    def open(self, labels: Mapping[str, str], since: datetime) -> EventStream:
        """Listen, and hear first what has happened from `since` on."""
        stream = EventStream(labels)
        for event in self._past:
            if event.time >= since:
                stream.offer(event)
        self._streams.add(stream)
        return stream

    def close(self, stream: EventStream) -> None:
        """Listen no more."""
        self._streams.discard(stream)

    def cut(self, error: EngineError | None) -> None:
        """End every stream, with `error` or as if the engine had left."""
        for stream in self._streams:
            stream.waiting.put_nowait(error)
        self._streams.clear()
