"""The thread-safe registry: records behind a reader-writer lock, and an event for every state change."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Final, TypedDict, Unpack

from msgspec.structs import replace
from readerwriterlock import rwlock

from orchestrator.errors import StaleGenerationError, TransitionError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode, check_transition
from orchestrator.registry.history.records import NOTHING_RESTORED, Counters, Restored
from orchestrator.registry.records import (
    Activity,
    Check,
    ContainerFacts,
    EffectiveLimits,
    LifecycleEvent,
    PendingRestart,
    PluginRecord,
    PostMortem,
)

Listener = Callable[[LifecycleEvent], object]

_MAX_EVENTS: Final = 10_000
_READ_TIMEOUT: Final = 0.02  # seconds that a reader waits for the lock before it takes the last snapshot instead


class ManifestFacts(TypedDict, total=False):
    """Fields of a record that a new instance takes from its manifest."""

    version: str
    description: str
    limits: EffectiveLimits | None
    tools: tuple[Mapping[str, Any], ...]


class InstanceFacts(TypedDict, total=False):
    """Fields of a record that change while an instance stays in its state."""

    checks: tuple[Check, ...]
    container: ContainerFacts
    gpus: tuple[Mapping[str, Any], ...]
    unlimited: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...]
    post_mortem: PostMortem


def _now() -> datetime:
    return datetime.now(UTC)


class PluginRegistry:
    """Every plugin's record. A write that the lifecycle table does not allow is refused; a read never fails and hardly
    waits: without the lock in time it returns the last snapshot, with `stale=True`.
    """

    # The snapshot is consistent, only perhaps not the newest: records are immutable and replaced whole.

    def __init__(
        self,
        *,
        restored: Restored = NOTHING_RESTORED,
        events: Iterable[LifecycleEvent] = (),
        clock: Callable[[], datetime] = _now,
        ticks: Callable[[], float] = time.monotonic,
        read_timeout: float = _READ_TIMEOUT,
    ) -> None:
        """Counters and event ids continue from `restored`; `events` are the newest from before the start."""
        # Writers first: they are few and short, and none should wait long behind readers.
        self._lock = rwlock.RWLockWrite()
        self._clock = clock
        self._ticks = ticks
        self._read_timeout = read_timeout
        self._records: Mapping[str, PluginRecord] = {}
        """Sorted by name. Replaced whole, never changed."""
        self._events: deque[LifecycleEvent] = deque(events, maxlen=_MAX_EVENTS)
        self._event_count = restored.last_event_id
        self._earlier = dict(restored.counters)
        """Of plugins that are not registered now too."""
        self._listeners: tuple[Listener, ...] = ()

    # Reading

    def get(self, name: str) -> PluginRecord | None:
        """The plugin's record; None for an unknown name."""
        with self._reading() as fresh:
            record = self._records.get(name)
        return record if fresh or record is None else replace(record, stale=True)

    def list(self) -> list[PluginRecord]:
        """All records, sorted by name."""
        with self._reading() as fresh:
            records = self._records
        return list(records.values()) if fresh else [replace(record, stale=True) for record in records.values()]

    def events(self, *, plugin: str | None = None, after: int = 0) -> tuple[LifecycleEvent, ...]:
        """The retained events with an id above `after`, oldest first."""
        with self._reading():
            # Copied in one call of C, so consistent even without the lock; filtered outside it.
            newest_first = reversed(self._events.copy())
        later = [e for e in takewhile(lambda e: e.id > after, newest_first) if plugin in (None, e.plugin)]
        return tuple(reversed(later))

    @property
    def first_event_id(self) -> int:
        """Id of the oldest retained event, or of the next one if none is retained."""
        return self._events[0].id if self._events else self._event_count + 1

    @property
    def last_event_id(self) -> int:
        """Id of the newest event; 0 before the first."""
        return self._event_count

    # Writing

    def register(self, record: PluginRecord) -> None:
        """Add a plugin, or replace its record. Counters and generation from before the orchestrator's start are
        restored. It is an event only where an adopted instance goes on: else its first step is its start.
        """
        adopted = record.generation > 0
        earlier = self._earlier.get(record.name)
        if earlier is not None:
            record = replace(
                record,
                # An adopted instance brings its own.
                generation=record.generation or earlier.generation,
                earlier_generations=earlier.generation,
                last_used=earlier.last_used,
                success_count=earlier.success,
                error_count=earlier.error,
                last_execution_ms=earlier.last_ms,
                total_execution_ms=earlier.total_ms,
            )
        with self._lock.gen_wlock():
            self._put(record)
            event = self._append_event(record, None) if adopted else None
        if event is not None:
            self._notify(event)

    def remove(self, name: str, reason: str) -> bool:
        """Take a plugin off the list, which is an event with the state that it had; a later `register` continues its
        counters and generation. False, and nothing happens, while an instance is alive or a run waits.
        """
        with self._lock.gen_wlock():
            old = self._records[name]
            if not old.ended or old.queued:
                return False
            self._earlier[name] = Counters(
                success=old.success_count,
                error=old.error_count,
                total_ms=old.total_execution_ms,
                last_ms=old.last_execution_ms,
                last_used=old.last_used,
                generation=old.generation,
            )
            self._records = {other: record for other, record in self._records.items() if other != name}
            event = self._append_event(replace(old, reason=reason), old.state)
        self._notify(event)
        return True

    def renew(self, name: str, **manifest: Unpack[ManifestFacts]) -> int:
        """Begin a new instance at LOADED; the counters stay. Returns its generation."""
        with self._lock.gen_wlock():
            old = self._records[name]
            record = replace(
                old,
                state=PluginLifecycleState.LOADED,
                generation=old.generation + 1,
                reason_code=None,
                reason=None,
                ready_tick=None,
                ended_tick=None,
                # `queued` stays: those runs wait for the plugin, and now for this instance.
                in_flight=0,
                stale=False,
                checks=(),
                container=None,
                gpus=(),
                unlimited=(),
                post_mortem=None,
                restart=None,
                observed_at=self._clock(),
            )
            record = replace(record, **manifest)
            self._put(record)
            started = old.generation > old.earlier_generations
            event = self._append_event(record, old.state if started else None)
        self._notify(event)
        return record.generation

    def mark_initialized(self, name: str, generation: int) -> None:
        """LOADED → INITIALIZED. Raises `TransitionError`, `StaleGenerationError`."""
        with self._lock.gen_wlock():
            old = self._current(name, generation)
            now, tick = self._clock(), self._ticks()
            event = self._step(
                old, replace(old, state=PluginLifecycleState.INITIALIZED, ready_tick=tick, observed_at=now)
            )
        self._notify(event)

    def mark_ended(self, name: str, generation: int, code: ReasonCode, reason: str) -> None:
        """To the final state of the reason code. Raises `TransitionError`, `StaleGenerationError`."""
        with self._lock.gen_wlock():
            old = self._current(name, generation)
            record = replace(
                old,
                state=code.final_state,
                reason_code=code,
                reason=reason,
                ended_tick=self._ticks(),
                in_flight=0,
                observed_at=self._clock(),
            )
            event = self._step(old, record)
        self._notify(event)

    def amend_failure(self, name: str, generation: int, code: ReasonCode, reason: str) -> None:
        """Give a FAILED instance another reason: KILL_FAILED, or, once its container is gone, the cause that this stood
        before. Its state is final, but for KILL_FAILED, which becomes the state of its cause. Raises `TransitionError`
        for an instance that is not FAILED or a code of another state, `StaleGenerationError`.
        """
        failed = PluginLifecycleState.FAILED
        with self._lock.gen_wlock():
            old = self._current(name, generation)
            restores = old.reason_code is ReasonCode.KILL_FAILED
            if old.state is not failed or (code.final_state is not failed and not restores):
                raise TransitionError(f"{name} is {old.state}; {code} cannot be its reason")
            state = code.final_state
            record = replace(old, state=state, reason_code=code, reason=reason, observed_at=self._clock())
            self._put(record)
            event = self._append_event(record, old.state)
        self._notify(event)

    def begin_run(self, name: str, generation: int) -> datetime:
        """Count a run in and return the time of that; the first makes the instance RUNNING. Raises `TransitionError`
        for an instance that is not ready, `StaleGenerationError`.
        """
        event = None
        with self._lock.gen_wlock():
            old = self._current(name, generation)
            state = PluginLifecycleState.RUNNING
            if old.state is not state:
                check_transition(old.state, state)
            now = self._clock()
            record = replace(old, state=state, in_flight=old.in_flight + 1, last_used=now, observed_at=now)
            self._put(record)
            if old.state is not state:
                event = self._append_event(record, old.state)
        if event is not None:
            self._notify(event)
        return now

    def finish_run(self, name: str, generation: int, *, ok: bool | None, execution_ms: float) -> None:
        """Count a run out, also where its instance has ended or been replaced. With `ok` None it counts neither as
        success nor as error.
        """
        with self._lock.gen_wlock():
            old = self._records.get(name)
            if old is None:  # the plugin was removed after its instance had ended
                delta = Counters(success=ok is True, error=ok is False, total_ms=execution_ms, last_ms=execution_ms)
                if ok is not None:
                    self._earlier[name] = self._earlier.get(name, Counters()).plus(delta)
                return
            # Where it is not, the count was cleared at its end, and may be a newer instance's by now.
            alive = old.generation == generation and not old.ended
            record = replace(old, in_flight=old.in_flight - 1 if alive else old.in_flight, observed_at=self._clock())
            if ok is not None:
                record = replace(
                    record,
                    success_count=old.success_count + ok,
                    error_count=old.error_count + (not ok),
                    last_execution_ms=execution_ms,
                    total_execution_ms=old.total_execution_ms + execution_ms,
                )
            self._put(record)

    def count_queued(self, name: str, change: int) -> None:
        """Change the number of waiting runs, which wait for the plugin and not for one instance."""
        with self._lock.gen_wlock():
            old = self._records[name]
            self._put(replace(old, queued=old.queued + change))

    def update(self, name: str, generation: int, **facts: Unpack[InstanceFacts]) -> None:
        """Change fields without a change of state. Raises `StaleGenerationError`."""
        with self._lock.gen_wlock():
            self._put(replace(self._current(name, generation), observed_at=self._clock(), **facts))

    def set_activity(self, name: str, activity: Activity) -> None:
        """Show that this goes on for the plugin, in place of what was shown. Nothing for an unknown name."""
        with self._lock.gen_wlock():
            if (old := self._records.get(name)) is not None:
                self._put(replace(old, activity=activity, observed_at=self._clock()))

    def clear_activity(self, name: str, what: str) -> None:
        """Show it no longer, unless something else is shown by now."""
        with self._lock.gen_wlock():
            old = self._records.get(name)
            if old is not None and old.activity is not None and old.activity.what == what:
                self._put(replace(old, activity=None, observed_at=self._clock()))

    def set_restart(self, name: str, restart: PendingRestart | None) -> None:
        """Show a restart that is prepared or was refused, until the next instance begins."""
        with self._lock.gen_wlock():
            self._put(replace(self._records[name], restart=restart, observed_at=self._clock()))

    def note(self, name: str, reason: str, code: ReasonCode | None = None) -> None:
        """Publish an event about the plugin that changes no state."""
        with self._lock.gen_wlock():
            old = self._records[name]
            event = self._append_event(replace(old, reason=reason, reason_code=code), old.state)
        self._notify(event)

    def mark_stale(self, *, stale: bool) -> None:
        """Mark every record by whether the engine can be reached. A stale one keeps its `observed_at`."""
        with self._lock.gen_wlock():
            now = self._clock()
            self._records = {
                name: replace(record, stale=stale, observed_at=record.observed_at if stale else now)
                for name, record in self._records.items()
            }

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event, on the thread that wrote it, outside the lock. Returns the function that
        unsubscribes it.
        """
        with self._lock.gen_wlock():
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock.gen_wlock():
                self._listeners = tuple(known for known in self._listeners if known is not listener)

        return unsubscribe

    # Inside

    def _reading(self) -> "_Reading":
        return _Reading(self._lock.gen_rlock(), self._read_timeout)

    def _current(self, name: str, generation: int) -> PluginRecord:
        record = self._records.get(name)
        if record is None:
            raise StaleGenerationError(f"{name}: the plugin was removed")
        if record.generation != generation:
            raise StaleGenerationError(f"{name}: generation {generation} has been replaced by {record.generation}")
        return record

    def _step(self, old: PluginRecord, record: PluginRecord) -> LifecycleEvent:
        check_transition(old.state, record.state)
        self._put(record)
        return self._append_event(record, old.state)

    def _put(self, record: PluginRecord) -> None:
        known = record.name in self._records
        # A new mapping each time, for readers without the lock. Not sorted for a known name: every run comes here
        # twice.
        records = {**self._records, record.name: record}
        self._records = records if known else dict(sorted(records.items()))

    def _append_event(self, record: PluginRecord, previous: PluginLifecycleState | None) -> LifecycleEvent:
        self._event_count += 1
        event = LifecycleEvent(
            id=self._event_count,
            time=self._clock(),
            plugin=record.name,
            generation=record.generation,
            previous=previous,
            state=record.state,
            reason_code=record.reason_code,
            reason=record.reason,
        )
        self._events.append(event)
        return event

    def _notify(self, event: LifecycleEvent) -> None:
        # Outside the lock: a listener may read the registry.
        for listener in self._listeners:
            listener(event)


class _Reading:
    """The read lock for the time of a `with`, if it can be had in time; what `with` gives says whether."""

    __slots__ = ("_fresh", "_lock", "_timeout")

    def __init__(self, lock: rwlock.Lockable, timeout: float) -> None:
        self._lock = lock
        self._timeout = timeout

    def __enter__(self) -> bool:
        lock = self._lock
        self._fresh = bool(lock.acquire(blocking=False)) or bool(lock.acquire(blocking=True, timeout=self._timeout))
        return self._fresh

    def __exit__(self, *_: object) -> None:
        if self._fresh:
            self._lock.release()
