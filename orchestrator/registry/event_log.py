"""EventLog: the newest lifecycle events, their ids, and the listeners of each."""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import takewhile
from typing import Final

from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.registry.records import InstanceRecord, LifecycleEvent, PluginRecord

Listener = Callable[[LifecycleEvent], object]

_MAX_EVENTS: Final = 10_000


class EventLog:
    """Written under the registry's lock by one thread at a time, read by any without it."""

    def __init__(self, *, last_id: int, events: Iterable[LifecycleEvent], clock: Callable[[], datetime]) -> None:
        self._events: deque[LifecycleEvent] = deque(events, maxlen=_MAX_EVENTS)
        self._clock = clock
        self.last_id = last_id
        """Of the newest event; 0 before the first."""
        self._listeners: tuple[Listener, ...] = ()

    @property
    def first_id(self) -> int:
        """Id of the oldest retained event, or of the next one if none is retained."""
        return self._events[0].id if self._events else self.last_id + 1

    def since(self, after: int, plugin: str | None) -> tuple[LifecycleEvent, ...]:
        """The retained events with an id above `after`, oldest first."""
        # Copied in one call of C, so consistent even without the lock.
        newest_first = reversed(self._events.copy())
        later = [e for e in takewhile(lambda e: e.id > after, newest_first) if plugin in (None, e.plugin)]
        return tuple(reversed(later))

    def append(
        self,
        plugin: str,
        subject: InstanceRecord | PluginRecord,
        previous: PluginLifecycleState | None,
        *,
        caller: str | None = None,
        plugin_state: PluginLifecycleState | None = None,
        degraded: bool = False,
    ) -> LifecycleEvent:
        """An event with the state and reason of `subject`, an instance or a plugin as a whole."""
        self.last_id += 1
        event = LifecycleEvent(
            id=self.last_id,
            time=self._clock(),
            plugin=plugin,
            generation=subject.generation,
            previous=previous,
            state=subject.state,
            reason_code=subject.reason_code,
            reason=subject.reason,
            caller=caller,
            plugin_state=plugin_state,
            degraded=degraded,
        )
        self._events.append(event)
        return event

    def subscribe(self, listener: Listener) -> None:
        self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Listener) -> None:
        self._listeners = tuple(known for known in self._listeners if known is not listener)

    def notify(self, *events: LifecycleEvent) -> None:
        """Call every listener. Outside the lock: a listener may read the registry."""
        for event in events:
            for listener in self._listeners:
                listener(event)
