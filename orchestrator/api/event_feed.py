"""EventFeed: lifecycle events and health, read from the registry once and published to every subscription."""

# Own code, since sse-starlette only frames and pings, and notices a shutdown by patching the server. It has no single
# read for all readers, no bounded backlogs, no resuming.

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from orchestrator.api import sse
from orchestrator.errors import OrchestratorError
from orchestrator.health.health_model import health_response
from orchestrator.registry import LifecycleEvent, PluginRecord, PluginRegistry

_HEALTH_INTERVAL: Final = 1.0  # minimum seconds between two health frames of one plugin
_ACTIVITY_INTERVAL: Final = 10.0  # the same where only the duration of an activity has changed
_MAX_BACKLOG: Final = 1000  # events that wait for a slow reader before its stream is cut


class TooManyReadersError(OrchestratorError):
    """The maximum number of readers already follow the events."""

    def __init__(self, max_readers: int) -> None:
        super().__init__(
            f"The maximum of {max_readers} readers already follow the events. Close one, or raise "
            "ORCHESTRATOR_EVENT_READERS."
        )


def event_fields(event: LifecycleEvent) -> dict[str, Any]:
    """The event as the API shows it."""
    return {
        "id": event.id,
        "time": event.time.isoformat(),
        "plugin": event.plugin,
        "generation": event.generation,
        "previous": event.previous,
        "state": event.state,
        "reason_code": event.reason_code,
        "reason": event.reason,
        "caller": event.caller,
        "host": None,  # a front says which
    }


def _lifecycle_frame(event: LifecycleEvent) -> bytes:
    data = json.dumps(event_fields(event), ensure_ascii=False, separators=(",", ":"))
    return sse.frame("lifecycle", data, event_id=event.id)


def _health_frame(record: PluginRecord, now: float) -> bytes:
    # Without an id: a reader that reconnects is sent the health of all plugins anyway.
    return sse.frame("health", health_response(record, now).model_dump_json())


def _removal_frame(record: PluginRecord, now: float) -> bytes:
    return sse.frame("removed", health_response(record, now).model_dump_json())


@dataclass(frozen=True, slots=True)
class _EncodedEvent:
    """One event, encoded once for all readers."""

    id: int
    plugin: str
    frame: bytes


class Subscription:
    """What one reader has not been sent yet: events of all plugins, or of `plugin`, with ids above `after`.

    Bounded, however slow the reader is.
    """

    def __init__(self, sees: Callable[[str], bool], after: int, *, on_close: Callable[["Subscription"], None]) -> None:
        self.wants_health = False
        self._sees = sees
        self.after = after
        self._on_close = on_close
        self._events: deque[_EncodedEvent] = deque()
        self._health: dict[str, bytes] = {}
        """The newest frame of each plugin: older ones are of no use to a slow reader."""
        self._overflowed = False
        self._wake = asyncio.Event()

    def push_event(self, event: _EncodedEvent) -> None:
        if self._overflowed or not self._sees(event.plugin):
            return
        if len(self._events) >= _MAX_BACKLOG:
            self._overflowed = True
            self._events.clear()
            self._health.clear()
        else:
            self._events.append(event)
        self._wake.set()

    def push_health(self, plugin: str, frame: bytes) -> None:
        if self._overflowed or not self._sees(plugin):
            return
        self._health[plugin] = frame
        self._wake.set()

    def close(self) -> None:
        self._on_close(self)

    async def frames(self, earlier: AsyncIterator[LifecycleEvent]) -> AsyncIterator[bytes]:
        """Server-sent events without end: first `earlier`, those before this subscription, then the new ones."""
        yield sse.OPENING
        async for event in earlier:
            # It may also have been pushed meanwhile, and is sent once.
            self.after = max(self.after, event.id)
            yield _lifecycle_frame(event)
        while True:
            # Before the backlog is taken, so that what comes while it is sent wakes again.
            self._wake.clear()
            for frame in self._drain():
                yield frame
            if self._overflowed:
                reason = (
                    f"The stream ends: its reader is too slow, more than {_MAX_BACKLOG} events were waiting. Reconnect "
                    "with Last-Event-ID to resume."
                )
                yield sse.frame("cut", json.dumps({"reason": reason}))
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(sse.HEARTBEAT_SECONDS):
                    await self._wake.wait()
            if not self._wake.is_set():
                yield sse.HEARTBEAT

    def _drain(self) -> list[bytes]:
        frames = [event.frame for event in self._events if event.id > self.after]
        frames += self._health.values()
        if self._events:
            self.after = max(self.after, self._events[-1].id)
        self._events.clear()
        self._health.clear()
        return frames


@dataclass(frozen=True, slots=True)
class _SentHealth:
    record: PluginRecord
    at: float


class EventFeed:
    """Publish lifecycle events and health to at most `max_readers` subscriptions."""

    def __init__(self, registry: PluginRegistry, *, max_readers: int) -> None:
        self._registry = registry
        self._max_readers = max_readers
        self._subscriptions: set[Subscription] = set()
        self._last_id = registry.last_event_id
        self._health: dict[str, _SentHealth] = {}
        self._changed = asyncio.Event()
        self._health_task: asyncio.Task[None] | None = None

    @property
    def readers(self) -> int:
        return len(self._subscriptions)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publish while entered. Enter it in the event loop that serves the readers."""
        loop = asyncio.get_running_loop()

        def notified(_: LifecycleEvent) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody follows any more
                # Events come from any thread.
                loop.call_soon_threadsafe(self._publish)

        unsubscribe = self._registry.subscribe(notified)
        try:
            yield
        finally:
            unsubscribe()
            self._stop_health()

    def subscribe(self, *, sees: Callable[[str], bool], after: int | None, health: bool) -> Subscription:
        """Subscribe to the plugins that `sees` names, from the event after `after`, or from the next one. The caller
        closes it.

        Raises `TooManyReadersError`.
        """
        if len(self._subscriptions) >= self._max_readers:
            raise TooManyReadersError(self._max_readers)
        newest = self._registry.last_event_id
        if after is not None and after > newest:
            after = 0  # an id from an earlier orchestrator whose history was removed
        subscription = Subscription(sees, newest if after is None else after, on_close=self._remove)
        self._subscriptions.add(subscription)
        if health:
            subscription.wants_health = True
            self._start_health(subscription)
        return subscription

    def _remove(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
        if not any(other.wants_health for other in self._subscriptions):
            self._stop_health()

    def _publish(self) -> None:
        # Read from the registry: notifications of several threads may arrive out of order.
        for event in self._registry.events(after=self._last_id):
            self._last_id = event.id
            if self._subscriptions:
                encoded = _EncodedEvent(event.id, event.plugin, _lifecycle_frame(event))
                for subscription in self._subscriptions:
                    subscription.push_event(encoded)
        self._changed.set()

    # Health

    def _start_health(self, subscription: Subscription) -> None:
        now, records = monotonic(), self._registry.list()
        for record in records:
            subscription.push_health(record.name, _health_frame(record, now))
        if self._health_task is None:
            time = asyncio.get_running_loop().time()
            self._health = {record.name: _SentHealth(record, time) for record in records}
            self._health_task = asyncio.create_task(self._follow_health(), name="health for event readers")

    def _stop_health(self) -> None:
        if self._health_task is not None:
            self._health_task.cancel()
            self._health_task = None

    async def _follow_health(self) -> None:
        while True:
            self._changed.clear()
            pause = self._publish_health()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def _publish_health(self) -> float:
        """Send what changed and is due. Returns the seconds until something may be due again."""
        time, now = asyncio.get_running_loop().time(), monotonic()
        pause = _HEALTH_INTERVAL
        records = self._registry.list()
        for name in self._health.keys() - {record.name for record in records}:
            self._push_health(name, _removal_frame(self._health.pop(name).record, now))
        for record in records:
            sent = self._health.get(record.name)
            unchanged = sent is not None and _unchanged(sent.record, record)
            if sent is not None and unchanged and (record.activity is None or time - sent.at < _ACTIVITY_INTERVAL):
                continue
            due = sent.at + _HEALTH_INTERVAL - time if sent else 0
            if due > 0:
                pause = min(pause, due)
                continue
            self._health[record.name] = _SentHealth(record, time)
            self._push_health(record.name, _health_frame(record, now))
        return pause

    def _push_health(self, plugin: str, frame: bytes) -> None:
        for subscription in self._subscriptions:
            if subscription.wants_health:
                subscription.push_health(plugin, frame)


def _unchanged(sent: PluginRecord, record: PluginRecord) -> bool:
    """Whether the two differ in nothing but the time of observation."""
    at = sent.observed_at
    return sent is record or sent.observed(at) == record.observed(at)
