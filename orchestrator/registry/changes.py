"""What a change of the registry makes of a plugin's record. Pure; `PluginRegistry` decides when, under its lock."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

from msgspec.structs import replace

from orchestrator.lifecycle import FINAL_STATES, PluginLifecycleState, ReasonCode, check_transition
from orchestrator.registry.derived import adopted_instance, derive
from orchestrator.registry.history.records import Counters
from orchestrator.registry.records import (
    Check,
    ContainerFacts,
    EffectiveLimits,
    InstanceRecord,
    PluginRecord,
    PostMortem,
    Role,
)


class ManifestFacts(TypedDict, total=False):
    """Fields of a new instance that come from its manifest; those not given are the plugin's."""

    version: str
    description: str
    limits: EffectiveLimits | None
    tools: tuple[Mapping[str, Any], ...]


class InstanceFacts(TypedDict, total=False):
    """Fields of an instance that change while it stays in its state."""

    checks: tuple[Check, ...]
    container: ContainerFacts
    gpus: tuple[Mapping[str, Any], ...]
    unlimited: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...]
    post_mortem: PostMortem


def registered(record: PluginRecord, earlier: Counters | None) -> PluginRecord:
    """The record with the counters from before the orchestrator's start, or from before it was removed."""
    instances = record.instances or ((adopted_instance(record),) if record.generation else ())
    before = earlier or Counters()
    record = replace(
        record,
        # Adopted instances bring their own.
        generation=record.generation or before.generation,
        earlier_generations=max(before.generation, record.highest_generation),
        highest_generation=max(
            before.generation, record.highest_generation, *(each.generation for each in instances), 0
        ),
        instances=tuple(sorted(instances, key=lambda each: each.generation)),
    )
    if earlier is not None:
        record = replace(
            record,
            last_used=earlier.last_used,
            success_count=earlier.success,
            error_count=earlier.error,
            last_execution_ms=earlier.last_ms,
            total_execution_ms=earlier.total_ms,
        )
    return derive(record)


def counters_of(record: PluginRecord) -> Counters:
    """What `registered` restores."""
    return Counters(
        success=record.success_count,
        error=record.error_count,
        total_ms=record.total_execution_ms,
        last_ms=record.last_execution_ms,
        last_used=record.last_used,
        generation=record.highest_generation,
    )


def allotted(old: PluginRecord) -> PluginRecord:
    """With one more generation in use, the highest."""
    return replace(old, highest_generation=old.highest_generation + 1)


def renewed(
    old: PluginRecord,
    now: datetime,
    keep: Collection[int],
    role: Role,
    generation: int,
    **manifest: Unpack[ManifestFacts],
) -> tuple[PluginRecord, InstanceRecord]:
    """With a new instance at LOADED, which is returned too, and of the others those whose generations are in `keep`.
    Its own is an allotted one.
    """
    instance = InstanceRecord(
        generation=generation,
        state=PluginLifecycleState.LOADED,
        observed_at=now,
        role=role,
        version=old.version,
        description=old.description,
        limits=old.limits,
        tools=old.tools,
    )
    instance = replace(instance, **manifest)
    record = replace(
        old,
        instances=(*(each for each in old.instances if each.generation in keep), instance),
        # `queued` stays: those runs wait for the plugin, whichever instance executes them.
        stale=False,
        restart=None,
        observed_at=now,
    )
    return derive(record), instance


def state_replaced(old: PluginRecord, keep: Collection[int]) -> PluginLifecycleState | None:
    """State of the newest instance that a new one replaces. None where there is none, or only one from before the
    orchestrator's start.
    """
    replaced = [each for each in old.instances if each.generation not in keep and each.role != "candidate"]
    newest = replaced[-1] if replaced else None
    return newest.state if newest is not None and newest.generation > old.earlier_generations else None


def forgotten(old: PluginRecord, generation: int, now: datetime) -> PluginRecord | None:
    """Without this instance. None where it must stay: it lives, or nothing else would say why nothing serves."""
    instance = old.instance(generation)
    rest = tuple(other for other in old.instances if other is not instance)
    if instance is None or not instance.ended:
        return None
    if instance.role != "candidate" and all(other.role == "candidate" for other in rest):
        return None
    return derive(replace(old, instances=rest, observed_at=now))


def noted(old: PluginRecord, reason: str, code: ReasonCode | None) -> PluginRecord:
    """What an event about the plugin as a whole says. Its generation is that of an instance in the plugin's state: the
    last event of each instance has to say how far that had come.
    """
    alike = [each for each in old.instances if each.state is old.state and each.role != "candidate"]
    return replace(old, generation=alike[-1].generation if alike else old.generation, reason=reason, reason_code=code)


def with_instance(old: PluginRecord, instance: InstanceRecord, now: datetime) -> PluginRecord:
    """With this record of the instance in place of its earlier one."""
    return derive(replace(old, instances=_put(old, replace(instance, observed_at=now)), observed_at=now))


def degrades(record: PluginRecord, previous: PluginLifecycleState, instance: InstanceRecord) -> bool:
    """Whether by this end of an instance the plugin, which is `record` now, serves with fewer than are wanted, and
    nobody meant it.
    """
    ends = instance.ended and previous not in FINAL_STATES
    meant = instance.role == "candidate" or instance.reason_code in (ReasonCode.STOPPED, ReasonCode.PARKED)
    return ends and record.degraded and not meant


def run_begun(old: PluginRecord, instance: InstanceRecord, now: datetime) -> PluginRecord:
    """One more run in flight, and the instance RUNNING. A candidate's run counts for it alone. Raises
    `TransitionError`.
    """
    state = PluginLifecycleState.RUNNING
    counts = instance.role != "candidate"
    if instance.state is not state:
        check_transition(instance.state, state)
        old = with_instance(old, replace(instance, state=state), now)
        instance = old.instance(instance.generation) or instance
    return replace(
        old,
        instances=_put(old, replace(instance, in_flight=instance.in_flight + 1, observed_at=now)),
        # Counted and not derived: every call of a tool comes here, and to `run_finished`.
        in_flight=old.in_flight + counts,
        last_used=now if counts else old.last_used,
        observed_at=now,
    )


def run_finished(
    old: PluginRecord, instance: InstanceRecord | None, now: datetime, *, ok: bool | None, execution_ms: float
) -> PluginRecord:
    """One run less in flight, which counts as success, as error, or with `ok` None as neither. `instance`: None where
    it is forgotten.
    """
    counts = instance is None or instance.role != "candidate"
    in_flight, instances = old.in_flight, old.instances
    if instance is not None and instance.in_flight:  # else the count was cleared at its end
        instances = _put(old, replace(instance, in_flight=instance.in_flight - 1, observed_at=now))
        in_flight -= counts
    if ok is None or not counts:
        return replace(old, instances=instances, in_flight=in_flight, observed_at=now)
    return replace(
        old,
        instances=instances,
        in_flight=in_flight,
        observed_at=now,
        success_count=old.success_count + ok,
        error_count=old.error_count + (not ok),
        last_execution_ms=execution_ms,
        total_execution_ms=old.total_execution_ms + execution_ms,
    )


def _put(record: PluginRecord, changed: InstanceRecord) -> tuple[InstanceRecord, ...]:
    if len(record.instances) == 1:
        return (changed,)
    return tuple(changed if each.generation == changed.generation else each for each in record.instances)
