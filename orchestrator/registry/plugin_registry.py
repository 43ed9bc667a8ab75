"""The thread-safe registry: records behind a reader-writer lock, events of every state change."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Final

from msgspec.structs import replace
from readerwriterlock import rwlock

from orchestrator.errors import StaleGenerationError, TransitionError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode, check_transition
from orchestrator.registry.history.records import NOTHING_RESTORED, Restored
from orchestrator.registry.records import LifecycleEvent, PluginRecord

Listener = Callable[[LifecycleEvent], object]

_EVENTS_KEPT: Final = 10_000
_READ_PATIENCE: Final = 0.02
"""Seconds that a reader waits for the lock before it takes the last snapshot instead."""


def _now() -> datetime:
    return datetime.now(UTC)


class PluginRegistry:
    """Every plugin's record. Writers are refused what the lifecycle table does not hold; readers never fail and
    hardly wait.

    A reader that cannot have the lock in time is given the last snapshot with `stale=True`: records are immutable and
    replaced whole, so it is a true picture, only perhaps not the newest.
    """

    def __init__(
        self,
        *,
        restored: Restored = NOTHING_RESTORED,
        events: Iterable[LifecycleEvent] = (),
        clock: Callable[[], datetime] = _now,
        ticks: Callable[[], float] = time.monotonic,
        read_patience: float = _READ_PATIENCE,
    ) -> None:
        """Counters and event ids go on from what was `restored`; `events` are the last ones of that time."""
        self._lock = (
            rwlock.RWLockWrite()
        )  # writers first: they are few and short, and nobody should wait long behind readers
        self._clock = clock
        self._ticks = ticks
        self._read_patience = read_patience
        self._records: Mapping[str, PluginRecord] = {}
        """In the order of their names. Replaced whole, never changed."""
        self._events: deque[LifecycleEvent] = deque(events, maxlen=_EVENTS_KEPT)
        self._event_count = restored.last_event_id
        self._earlier = restored.counters
        self._listeners: tuple[Listener, ...] = ()

    # Reading

    def get(self, name: str) -> PluginRecord | None:
        """The record of this plugin, None for an unknown name."""
        with self._reading() as fresh:
            record = self._records.get(name)
        return record if fresh or record is None else replace(record, stale=True)

    def list(self) -> list[PluginRecord]:
        """All records, in the order of their names."""
        with self._reading() as fresh:
            records = self._records
        return list(records.values()) if fresh else [replace(record, stale=True) for record in records.values()]

    def events(self, *, plugin: str | None = None, after: int = 0) -> tuple[LifecycleEvent, ...]:
        """The kept events with an id above `after`, oldest first."""
        with self._reading():
            newest_first = reversed(self._events.copy())
        later = [e for e in takewhile(lambda e: e.id > after, newest_first) if plugin in (None, e.plugin)]
        return tuple(reversed(later))

    @property
    def first_event_id(self) -> int:
        """The oldest kept event's, or where there is none that of the next to come."""
        return self._events[0].id if self._events else self._event_count + 1

    @property
    def last_event_id(self) -> int:
        """The newest event's; 0 before the first."""
        return self._event_count

    # Writing

    def register(self, record: PluginRecord) -> None:
        """Take up a plugin (or replace all that is known of it) at the state that its record says. One that was known
        before the orchestrator was started has its counters and generation from then.
        """
        earlier = self._earlier.get(record.name)
        if earlier is not None:
            record = replace(
                record,
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
            event = self._note(record, None)
        self._tell(event)

    def renew(self, name: str, **facts: Any) -> int:
        """A new instance at LOADED; the counters stay. Returns its generation."""
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
                in_flight=0,
                stale=False,
                checks=(),
                container={},
                gpus=(),
                post_mortem=None,
                observed_at=self._clock(),
            )
            record = replace(record, **facts)
            self._put(record)
            event = self._note(record, old.state)
        self._tell(event)
        return record.generation

    def mark_initialized(self, name: str, generation: int) -> None:
        """LOADED → INITIALIZED. Raises `TransitionError`, `StaleGenerationError`."""
        self._advance(name, generation, PluginLifecycleState.INITIALIZED, ready_tick=self._ticks())

    def mark_ended(self, name: str, generation: int, code: ReasonCode, reason: str) -> None:
        """To the final state that the reason code belongs to. Raises `TransitionError`, `StaleGenerationError`."""
        self._advance(
            name, generation, code.final_state, reason_code=code, reason=reason, ended_tick=self._ticks(), in_flight=0
        )

    def amend_failure(self, name: str, generation: int, code: ReasonCode, reason: str) -> None:
        """Give a FAILED instance a graver reason: its state is final, what is known of it may grow. Raises
        `TransitionError` for one that is not FAILED or a reason of another state, `StaleGenerationError`.
        """
        failed = PluginLifecycleState.FAILED
        with self._lock.gen_wlock():
            old = self._current(name, generation)
            if old.state is not failed or code.final_state is not failed:
                raise TransitionError(f"{name} is {old.state}; {code} cannot be its reason")
            record = replace(old, reason_code=code, reason=reason, observed_at=self._clock())
            self._put(record)
            event = self._note(record, old.state)
        self._tell(event)

    def begin_run(self, name: str, generation: int) -> datetime:
        """Count a run in, and say when that was; the first makes the instance RUNNING. Raises `TransitionError` for an
        instance that is not ready.
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
                event = self._note(record, old.state)
        if event is not None:
            self._tell(event)
        return now

    def finish_run(self, name: str, generation: int, *, ok: bool | None, execution_ms: float) -> None:
        """Count a run out; `execution_ms` are milliseconds; `ok` None counts neither as success nor as error. Counts
        for the plugin even when the instance has ended or been replaced.
        """
        with self._lock.gen_wlock():
            old = self._records[name]
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
        """One run more or less waits; it waits for the plugin, whatever becomes of the instance."""
        with self._lock.gen_wlock():
            old = self._records[name]
            self._put(replace(old, queued=old.queued + change))

    def update(self, name: str, generation: int, **facts: Any) -> None:
        """Take in news that change no state (checks, container, post_mortem…). Raises `StaleGenerationError`."""
        with self._lock.gen_wlock():
            self._put(replace(self._current(name, generation), observed_at=self._clock(), **facts))

    def mark_stale(self, *, stale: bool) -> None:
        """Say of every record whether its source, the engine, can be asked. `observed_at` stays as it is where it
        cannot.
        """
        with self._lock.gen_wlock():
            now = self._clock()
            self._records = {
                name: replace(record, stale=stale, observed_at=record.observed_at if stale else now)
                for name, record in self._records.items()
            }

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event, on the thread that wrote it, outside the lock. Returns the way to end
        that.
        """
        with self._lock.gen_wlock():
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock.gen_wlock():
                self._listeners = tuple(known for known in self._listeners if known is not listener)

        return unsubscribe

    # Inside

    def _reading(self) -> "_Reading":
        return _Reading(self._lock.gen_rlock(), self._read_patience)

    def _current(self, name: str, generation: int) -> PluginRecord:
        record = self._records[name]
        if record.generation != generation:
            raise StaleGenerationError(f"{name}: generation {generation} has been replaced by {record.generation}")
        return record

    def _put(self, record: PluginRecord) -> None:
        known = record.name in self._records
        records = {**self._records, record.name: record}
        self._records = records if known else dict(sorted(records.items()))

    def _advance(self, name: str, generation: int, target: PluginLifecycleState, **facts: Any) -> None:
        with self._lock.gen_wlock():
            old = self._current(name, generation)
            check_transition(old.state, target)
            record = replace(old, state=target, observed_at=self._clock(), **facts)
            self._put(record)
            event = self._note(record, old.state)
        self._tell(event)

    def _note(self, record: PluginRecord, previous: PluginLifecycleState | None) -> LifecycleEvent:
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

    def _tell(self, event: LifecycleEvent) -> None:
        for listener in self._listeners:
            listener(event)


class _Reading:
    """A reader's time with the lock, if it can have it: whether it has is what `with` gives."""

    __slots__ = ("_fresh", "_lock", "_patience")

    def __init__(self, lock: rwlock.Lockable, patience: float) -> None:
        self._lock = lock
        self._patience = patience

    def __enter__(self) -> bool:
        lock = self._lock
        self._fresh = bool(lock.acquire(blocking=False)) or bool(lock.acquire(blocking=True, timeout=self._patience))
        return self._fresh

    def __exit__(self, *_: object) -> None:
        if self._fresh:
            self._lock.release()
