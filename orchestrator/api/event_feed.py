"""EventFeed: what happens is taken from the registry once and handed to everyone who follows it.

Own code: sse-starlette frames and pings, a line each, and learns of a shutdown by patching the server; it does not have
what is asked for here: one look for all readers, bounded backlogs, resuming.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

from msgspec.structs import replace

from orchestrator.api.event_frames import health_frame, lifecycle_frame
from orchestrator.api.event_subscription import Notice, Subscription
from orchestrator.errors import OrchestratorError
from orchestrator.registry import LifecycleEvent, PluginRecord, PluginRegistry

_HEALTH_INTERVAL: Final = 1.0
"""Seconds between two tellings of one plugin's health."""


class TooManyReadersError(OrchestratorError):
    """As many follow the events as may."""


@dataclass(frozen=True, slots=True)
class _Told:
    record: PluginRecord
    at: float


class EventFeed:
    """Hands lifecycle events and health to at most `most` subscriptions."""

    def __init__(self, registry: PluginRegistry, *, most: int) -> None:
        self._registry = registry
        self._most = most
        self._subscriptions: set[Subscription] = set()
        self._last_id = registry.last_event_id
        self._health: dict[str, _Told] = {}
        self._changed = asyncio.Event()
        self._health_task: asyncio.Task[None] | None = None

    @property
    def readers(self) -> int:
        return len(self._subscriptions)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Meanwhile, what happens is handed out. Enter it in the loop that the readers are served by."""
        loop = asyncio.get_running_loop()

        def notified(_: LifecycleEvent) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody follows any more
                loop.call_soon_threadsafe(self._take_in)

        unsubscribe = self._registry.subscribe(notified)
        try:
            yield
        finally:
            unsubscribe()
            self._end_health()

    def subscribe(self, *, plugin: str | None, after: int | None, health: bool) -> Subscription:
        """From the next event on, or from the one after `after`; of all plugins or of one. Close it in the end.

        Raises `TooManyReadersError`.
        """
        if len(self._subscriptions) >= self._most:
            raise TooManyReadersError(
                f"{self._most} readers follow the events already, and no more may (ORCHESTRATOR_EVENT_READERS)."
            )
        newest = self._registry.last_event_id
        if after is not None and after > newest:
            after = 0  # an id from another life of the orchestrator, whose history is gone
        subscription = Subscription(plugin, newest if after is None else after, on_close=self._leave)
        self._subscriptions.add(subscription)
        if health:
            subscription.wants_health = True
            self._begin_health(subscription)
        return subscription

    def _leave(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
        if not any(other.wants_health for other in self._subscriptions):
            self._end_health()

    def _take_in(self) -> None:
        # The registry is asked, since notices from several threads may come out of order.
        for event in self._registry.events(after=self._last_id):
            self._last_id = event.id
            if self._subscriptions:
                notice = Notice(event.id, event.plugin, lifecycle_frame(event))
                for subscription in self._subscriptions:
                    subscription.tell(notice)
        self._changed.set()

    # Health

    def _begin_health(self, subscription: Subscription) -> None:
        now, records = monotonic(), self._registry.list()
        for record in records:
            subscription.tell_health(record.name, health_frame(record, now))
        if self._health_task is None:
            time = asyncio.get_running_loop().time()
            self._health = {record.name: _Told(record, time) for record in records}
            self._health_task = asyncio.create_task(self._follow_health(), name="health for event readers")

    def _end_health(self) -> None:
        if self._health_task is not None:
            self._health_task.cancel()
            self._health_task = None

    async def _follow_health(self) -> None:
        while True:
            self._changed.clear()
            pause = self._tell_health()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def _tell_health(self) -> float:
        """Tell what changed and is due. Returns the seconds until something may be due again."""
        time, now = asyncio.get_running_loop().time(), monotonic()
        pause = _HEALTH_INTERVAL
        for record in self._registry.list():
            told = self._health.get(record.name)
            if told is not None and _same(told.record, record):
                continue
            due = told.at + _HEALTH_INTERVAL - time if told else 0
            if due > 0:
                pause = min(pause, due)
                continue
            self._health[record.name] = _Told(record, time)
            frame = health_frame(record, now)
            for subscription in self._subscriptions:
                if subscription.wants_health:
                    subscription.tell_health(record.name, frame)
        return pause


def _same(told: PluginRecord, record: PluginRecord) -> bool:
    """Whether a reader would learn nothing new but the time of the look."""
    return told is record or told == replace(record, observed_at=told.observed_at)
