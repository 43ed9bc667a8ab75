"""The thread-safe registry: records that one writer at a time replaces, and an event for every state change."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, Unpack

from msgspec.structs import replace

from orchestrator.errors import StaleGenerationError, TransitionError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode, check_transition
from orchestrator.registry import changes
from orchestrator.registry.changes import InstanceFacts, ManifestFacts
from orchestrator.registry.derived import derive
from orchestrator.registry.event_log import EventLog, Listener
from orchestrator.registry.history.records import NOTHING_RESTORED, Counters, Restored
from orchestrator.registry.records import (
    Activity,
    InstanceRecord,
    LifecycleEvent,
    PendingRestart,
    PluginRecord,
    Role,
)

_ADOPTED: Final = "adopted: an earlier orchestrator started it"
_READ_TIMEOUT: Final = 0.02  # seconds that a reader waits for the lock before it takes the last snapshot instead


def _now() -> datetime:
    return datetime.now(UTC)


class PluginRegistry:
    """Every plugin's record, with those of its instances. A write that the lifecycle table does not allow is refused; a
    read never fails and hardly waits: without the lock in time it returns the last snapshot, with `stale=True`.

    What is written of an instance raises `StaleGenerationError` where the plugin or this instance is no longer there.
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
        # Of the writers. Readers do not exclude one another nor writers: what they read is immutable.
        self._lock = threading.Lock()
        self._clock = clock
        self._ticks = ticks
        self._read_timeout = read_timeout
        self._records: Mapping[str, PluginRecord] = {}
        """Sorted by name. Replaced whole, never changed."""
        self._events = EventLog(last_id=restored.last_event_id, events=events, clock=clock)
        self._role_listeners: list[Callable[[str], None]] = []
        self._earlier = dict(restored.counters)
        """Of plugins that are not registered now too."""

    # Reading

    def get(self, name: str) -> PluginRecord | None:
        """The plugin's record; None for an unknown name."""
        fresh = not self._lock.locked() or self._wait_for_writer()
        record = self._records.get(name)
        return record if fresh or record is None else replace(record, stale=True)

    def instance(self, name: str, generation: int) -> InstanceRecord | None:
        """None for one that is not there any more, or never was."""
        record = self._snapshot()[0].get(name)
        return None if record is None else record.instance(generation)

    def list(self) -> list[PluginRecord]:
        """All records, sorted by name."""
        records, fresh = self._snapshot()
        return list(records.values()) if fresh else [replace(record, stale=True) for record in records.values()]

    def events(self, *, plugin: str | None = None, after: int = 0) -> tuple[LifecycleEvent, ...]:
        """The retained events with an id above `after`, oldest first."""
        self._wait_for_writer()
        return self._events.since(after, plugin)

    @property
    def first_event_id(self) -> int:
        """Id of the oldest retained event, or of the next one if none is retained."""
        return self._events.first_id

    @property
    def last_event_id(self) -> int:
        """Id of the newest event; 0 before the first."""
        return self._events.last_id

    # Writing

    def register(self, record: PluginRecord) -> None:
        """Add a plugin, or replace its record. Counters and generation from before the orchestrator's start are
        restored. It is an event only where adopted instances go on, for each: else its first step is its start.

        A record with a generation and no `instances` speaks of one adopted instance.
        """
        record = changes.registered(record, self._earlier.get(record.name))
        with self._lock:
            self._put(record)
            adopted = [replace(each, reason=each.reason or _ADOPTED) for each in record.instances]
            events = [
                self._events.append(record.name, instance, None, plugin_state=record.state) for instance in adopted
            ]
        self._events.notify(*events)

    def remove(self, name: str, reason: str) -> bool:
        """Take a plugin off the list, which is an event with the state that it had; a later `register` continues its
        counters and generation. False, and nothing happens, while an instance is alive or a run waits.
        """
        with self._lock:
            old = self._records[name]
            if not old.ended or old.alive or old.queued:
                return False
            self._earlier[name] = changes.counters_of(old)
            self._records = {other: record for other, record in self._records.items() if other != name}
            event = self._events.append(name, changes.noted(old, reason, old.reason_code), old.state)
        self._events.notify(event)
        return True

    def allot(self, name: str) -> int:
        """A generation for `renew`, one above the highest that any instance had: no other gets it meanwhile."""
        with self._lock:
            record = changes.allotted(self._records[name])
            self._put(record)
        return record.highest_generation

    def renew(
        self,
        name: str,
        *,
        keep: Collection[int] = (),
        role: Role = "serving",
        generation: int | None = None,
        caller: str | None = None,
        **manifest: Unpack[ManifestFacts],
    ) -> int:
        """Begin a new instance at LOADED and forget those whose generations are not in `keep`; the counters stay.
        Returns its generation, which is a new one unless it was allotted. `caller`: whose command begins it.
        """
        with self._lock:
            old = self._records[name]
            known = changes.allotted(old) if generation is None else old
            record, instance = changes.renewed(
                known, self._clock(), keep, role, generation or known.highest_generation, **manifest
            )
            self._put(record)
            previous = changes.state_replaced(old, keep)
            event = self._events.append(name, instance, previous, caller=caller, plugin_state=record.state)
        self._events.notify(event)
        return instance.generation

    def forget(self, name: str, generation: int) -> bool:
        """Drop the record of an instance that has ended. False, and nothing happens, for one that is alive or not
        there, and for the plugin's last but candidates: it says why nothing serves.
        """
        with self._lock:
            record = changes.forgotten(self._records[name], generation, self._clock())
            if record is not None:
                self._put(record)
        return record is not None

    def set_role(self, name: str, generation: int, role: Role) -> None:
        """Let an instance serve, or drain. Raises `StaleGenerationError`."""
        with self._lock:
            old, instance = self._find(name, generation)
            self._put(changes.with_instance(old, replace(instance, role=role), self._clock()))
        for listener in self._role_listeners:
            listener(name)

    def set_wanted(self, name: str, wanted: int, in_manifest: int | None = None) -> None:
        """How many instances are to serve at a time, and the manifest's number where that is another."""
        with self._lock:
            old, own = self._records[name], wanted if in_manifest is None else in_manifest
            self._put(derive(replace(old, wanted=wanted, manifest_replicas=own, observed_at=self._clock())))

    def mark_initialized(self, name: str, generation: int) -> None:
        """LOADED → INITIALIZED. Raises `TransitionError`, `StaleGenerationError`."""
        with self._lock:
            old, instance = self._find(name, generation)
            check_transition(instance.state, PluginLifecycleState.INITIALIZED)
            ready = replace(instance, state=PluginLifecycleState.INITIALIZED, ready_tick=self._ticks())
            event = self._step(old, instance.state, ready)
        self._events.notify(event)

    def set_start_seconds(self, name: str, seconds: float) -> None:
        """What the last start took, from its command to INITIALIZED."""
        with self._lock:
            self._put(replace(self._records[name], start_seconds=seconds))

    def mark_ended(
        self, name: str, generation: int, code: ReasonCode, reason: str, *, caller: str | None = None
    ) -> None:
        """To the final state of the reason code. `caller`: by whose run or command. Raises `TransitionError`,
        `StaleGenerationError`.
        """
        with self._lock:
            old, instance = self._find(name, generation)
            check_transition(instance.state, code.final_state)
            ended = replace(
                instance,
                state=code.final_state,
                reason_code=code,
                reason=reason,
                ended_tick=self._ticks(),
                ended_at=self._clock(),
                in_flight=0,
            )
            event = self._step(old, instance.state, ended, caller)
        self._events.notify(event)

    def amend_failure(
        self, name: str, generation: int, code: ReasonCode, reason: str, *, caller: str | None = None
    ) -> None:
        """Give an instance that ended another reason: a FAILED one KILL_FAILED, or, once its container is gone, the
        cause that this stood before; a PARKED one STOPPED. Its state is final, but for KILL_FAILED, which becomes the
        state of its cause. Raises `TransitionError` for any other change, `StaleGenerationError`.
        """
        failed = PluginLifecycleState.FAILED
        with self._lock:
            old, instance = self._find(name, generation)
            restores = instance.reason_code is ReasonCode.KILL_FAILED
            stops = (instance.reason_code, code) == (ReasonCode.PARKED, ReasonCode.STOPPED)
            if not stops and (instance.state is not failed or (code.final_state is not failed and not restores)):
                raise TransitionError(f"{name} is {instance.state}; {code} cannot be its reason")
            amended = replace(instance, state=code.final_state, reason_code=code, reason=reason)
            event = self._step(old, instance.state, amended, caller)
        self._events.notify(event)

    def begin_run(self, name: str, generation: int, caller: str | None = None) -> datetime:
        """Count a run of `caller` in and return the time of that; the first makes the instance RUNNING. Raises
        `TransitionError` for an instance that is not ready, `StaleGenerationError`.
        """
        event = None
        with self._lock:
            old, instance = self._find(name, generation)
            now = self._clock()
            record = changes.run_begun(old, instance, now)
            self._put(record)
            if instance.state is not PluginLifecycleState.RUNNING:
                begun = record.instance(generation) or instance
                event = self._events.append(name, begun, instance.state, caller=caller, plugin_state=record.state)
        if event is not None:
            self._events.notify(event)
        return now

    def finish_run(self, name: str, generation: int, *, ok: bool | None, execution_ms: float) -> None:
        """Count a run out, also where its instance has ended or is forgotten. With `ok` None, and of a candidate, it
        counts neither as success nor as error.
        """
        with self._lock:
            old = self._records.get(name)
            if old is not None:
                instance, now = old.instance(generation), self._clock()
                self._put(changes.run_finished(old, instance, now, ok=ok, execution_ms=execution_ms))
            elif ok is not None:  # the plugin was removed after its instance had ended
                delta = Counters(success=ok is True, error=ok is False, total_ms=execution_ms, last_ms=execution_ms)
                self._earlier[name] = self._earlier.get(name, Counters()).plus(delta)

    def count_queued(self, name: str, change: int) -> None:
        """Change the number of waiting runs, which wait for the plugin and not for one instance."""
        with self._lock:
            old = self._records[name]
            self._put(replace(old, queued=old.queued + change))

    def update(self, name: str, generation: int, **facts: Unpack[InstanceFacts]) -> None:
        """Change fields of an instance without a change of its state. Raises `StaleGenerationError`."""
        with self._lock:
            old, instance = self._find(name, generation)
            self._put(changes.with_instance(old, replace(instance, **facts), self._clock()))

    def set_activity(self, name: str, activity: Activity) -> None:
        """Show that this goes on for the plugin, in place of what was shown. Nothing for an unknown name."""
        with self._lock:
            if (old := self._records.get(name)) is not None:
                self._put(replace(old, activity=activity, observed_at=self._clock()))

    def clear_activity(self, name: str, what: str) -> None:
        """Show it no longer, unless something else is shown by now."""
        with self._lock:
            old = self._records.get(name)
            if old is not None and old.activity is not None and old.activity.what == what:
                self._put(replace(old, activity=None, observed_at=self._clock()))

    def set_restart(self, name: str, restart: PendingRestart | None) -> None:
        """Show a restart that is prepared or was refused, until the next instance begins."""
        with self._lock:
            self._put(replace(self._records[name], restart=restart, observed_at=self._clock()))

    def note(self, name: str, reason: str, code: ReasonCode | None = None, *, caller: str | None = None) -> None:
        """Publish an event about the plugin that changes no state."""
        with self._lock:
            old = self._records[name]
            noted = changes.noted(old, reason, code)
            event = self._events.append(name, noted, old.state, caller=caller, plugin_state=old.state)
        self._events.notify(event)

    def mark_stale(self, *, stale: bool) -> None:
        """Mark every record by whether the engine can be reached. A stale one keeps its `observed_at`."""
        with self._lock:
            now = self._clock()
            self._records = {
                name: replace(record if stale else record.observed(now), stale=stale)
                for name, record in self._records.items()
            }

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event, on the thread that wrote it, outside the lock. Returns the function that
        unsubscribes it.
        """
        with self._lock:
            self._events.subscribe(listener)

        def unsubscribe() -> None:
            with self._lock:
                self._events.unsubscribe(listener)

        return unsubscribe

    def subscribe_roles(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with a plugin's name after each `set_role`, which is no event, on the thread of that."""
        self._role_listeners.append(listener)

    # Inside

    def _snapshot(self) -> tuple[Mapping[str, PluginRecord], bool]:
        """All records, and whether no write was under way for longer than a reader waits."""
        fresh = not self._lock.locked() or self._wait_for_writer()
        return self._records, fresh

    def _wait_for_writer(self) -> bool:
        """Whether no write was under way for longer than a reader waits."""
        free = self._lock.acquire(timeout=self._read_timeout)
        if free:
            self._lock.release()
        return free

    def _find(self, name: str, generation: int) -> tuple[PluginRecord, InstanceRecord]:
        record = self._records.get(name)
        if record is None:
            raise StaleGenerationError(f"{name}: the plugin was removed")
        instance = record.instance(generation)
        if instance is None:
            raise StaleGenerationError(f"{name}: generation {generation} has been replaced by {record.generation}")
        return record, instance

    def _step(
        self, old: PluginRecord, previous: PluginLifecycleState, instance: InstanceRecord, caller: str | None = None
    ) -> LifecycleEvent:
        record = changes.with_instance(old, instance, self._clock())
        self._put(record)
        return self._events.append(
            old.name,
            instance,
            previous,
            caller=caller,
            plugin_state=record.state,
            degraded=changes.degrades(record, previous, instance),
        )

    def _put(self, record: PluginRecord) -> None:
        known = record.name in self._records
        # A new mapping each time, for readers without the lock. Not sorted for a known name: every run comes here
        # twice.
        records = {**self._records, record.name: record}
        self._records = records if known else dict(sorted(records.items()))
