"""Subscription: what one reader of the events has not been sent yet. Bounded, however slow the reader is."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from orchestrator.api.event_frames import HEARTBEAT, OPENING, cut_frame, lifecycle_frame
from orchestrator.registry import LifecycleEvent

HEARTBEAT_SECONDS: Final = 15.0
_BACKLOG: Final = 1000
"""Events that wait for a slow reader before it is cut."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One event, encoded once for all readers."""

    id: int
    plugin: str
    frame: bytes


class Subscription:
    """Events of all plugins or of `plugin` with ids above `after`."""

    def __init__(self, plugin: str | None, after: int, *, on_close: Callable[["Subscription"], None]) -> None:
        self.wants_health = False
        self._plugin = plugin
        self.after = after
        self._on_close = on_close
        self._events: deque[Notice] = deque()
        self._health: dict[str, bytes] = {}
        """The newest of each plugin: what a slow reader has missed of it need not be told."""
        self._cut = False
        self._news = asyncio.Event()

    def tell(self, notice: Notice) -> None:
        if self._cut or self._plugin not in (None, notice.plugin):
            return
        if len(self._events) >= _BACKLOG:
            self._cut = True
            self._events.clear()
            self._health.clear()
        else:
            self._events.append(notice)
        self._news.set()

    def tell_health(self, plugin: str, frame: bytes) -> None:
        if self._cut or self._plugin not in (None, plugin):
            return
        self._health[plugin] = frame
        self._news.set()

    def close(self) -> None:
        self._on_close(self)

    async def frames(self, earlier: AsyncIterator[LifecycleEvent]) -> AsyncIterator[bytes]:
        """Server-sent events without end: first those `earlier` than this subscription, then what comes."""
        yield OPENING
        async for event in earlier:
            self.after = max(self.after, event.id)
            yield lifecycle_frame(event)
        while True:
            self._news.clear()
            for frame in self._taken():
                yield frame
            if self._cut:
                yield cut_frame(
                    f"You read too slowly: more than {_BACKLOG} events waited. Come back with Last-Event-ID."
                )
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._news.wait()
            if not self._news.is_set():
                yield HEARTBEAT

    def _taken(self) -> list[bytes]:
        """What waits; it waits no longer."""
        frames = [notice.frame for notice in self._events if notice.id > self.after]
        frames += self._health.values()
        if self._events:
            self.after = max(self.after, self._events[-1].id)
        self._events.clear()
        self._health.clear()
        return frames
