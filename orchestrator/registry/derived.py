"""A plugin's own state, as it follows from its instances, and the sentence that says what it lacks. Pure."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Final

from msgspec.structs import replace

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry.records import InstanceRecord, PluginRecord

_BEST_FIRST: Final = {
    PluginLifecycleState.RUNNING: 0,
    PluginLifecycleState.INITIALIZED: 1,
    PluginLifecycleState.LOADED: 2,
}


def derive(record: PluginRecord) -> PluginRecord:
    """The record with all that follows from its `instances` and `wanted`. A candidate counts for nothing, and where
    there is no other instance the plugin's own state stays as it is.

    The plugin is what its best instance is: one that serves, else one that drains, else the one whose end came first, a
    parked one only where all are.
    """
    own = [instance for instance in record.instances if instance.role != "candidate"]
    if not own:
        return replace(record, degraded=False, degraded_reason=None) if record.degraded else record
    group = own if len(own) == 1 else _deciding(own)
    shown = group[0] if len(group) == 1 else _representative(group)
    degraded_reason = None if record.wanted <= 1 or shown.ended else _what_is_missing(record.name, own, record.wanted)
    return replace(
        record,
        version=shown.version,
        description=shown.description,
        state=shown.state,
        generation=own[-1].generation,
        reason_code=shown.reason_code,
        reason=shown.reason,
        ready_tick=shown.ready_tick,
        ended_tick=shown.ended_tick,
        in_flight=shown.in_flight if len(own) == 1 else sum(instance.in_flight for instance in own),
        checks=shown.checks,
        container=shown.container,
        gpus=shown.gpus if shown.ended or len(group) == 1 else _gpus(group),
        limits=shown.limits,
        unlimited=shown.unlimited,
        tools=shown.tools,
        post_mortem=shown.post_mortem,
        degraded=degraded_reason is not None,
        degraded_reason=degraded_reason,
    )


def adopted_instance(record: PluginRecord) -> InstanceRecord:
    """The one instance that a record without `instances` speaks of."""
    return InstanceRecord(
        generation=record.generation,
        state=record.state,
        observed_at=record.observed_at,
        version=record.version,
        description=record.description,
        reason_code=record.reason_code,
        reason=record.reason,
        ready_tick=record.ready_tick,
        ended_tick=record.ended_tick,
        in_flight=record.in_flight,
        checks=record.checks,
        container=record.container,
        gpus=record.gpus,
        limits=record.limits,
        unlimited=record.unlimited,
        tools=record.tools,
        post_mortem=record.post_mortem,
    )


def _deciding(own: Sequence[InstanceRecord]) -> list[InstanceRecord]:
    """Those among which the plugin's state is chosen: never empty, all alive or all ended."""
    for ended in (False, True):
        for role in ("serving", "draining"):
            group = [instance for instance in own if instance.ended is ended and instance.role == role]
            if group:
                return group
    raise AssertionError(f"no instance of {len(own)} serves or drains")


def _representative(group: Sequence[InstanceRecord]) -> InstanceRecord:
    if not group[0].ended:
        return min(group, key=lambda each: (_BEST_FIRST[each.state], _or_inf(each.ready_tick), each.generation))
    failed = [instance for instance in group if instance.state is PluginLifecycleState.FAILED]
    # One that was parked says nothing against the others.
    missed = [instance for instance in group if instance.reason_code is not ReasonCode.PARKED]
    return min(failed or missed or group, key=lambda each: (_or_inf(each.ended_tick), each.generation))


def _or_inf(tick: float | None) -> float:
    return inf if tick is None else tick


def _gpus(group: Sequence[InstanceRecord]) -> tuple[Mapping[str, Any], ...]:
    """All GPUs of the instances, each once: what several of them use of one is added up."""
    by_uuid: dict[Any, Mapping[str, Any]] = {}
    for gpu in (gpu for instance in group for gpu in instance.gpus):
        known = by_uuid.get(gpu.get("uuid"), {})
        used, more = known.get("used_by_plugin_bytes"), gpu.get("used_by_plugin_bytes")
        both = {} if used is None or more is None else {"used_by_plugin_bytes": used + more}
        by_uuid[gpu.get("uuid")] = {**gpu, **both}
    return tuple(by_uuid.values())


def _what_is_missing(name: str, own: Sequence[InstanceRecord], wanted: int) -> str | None:
    """None where as many serve, or will once they have started, as are wanted."""
    serving = [instance for instance in own if instance.role == "serving"]
    ended = [instance for instance in serving if instance.ended]
    missing = wanted - (len(serving) - len(ended))
    if missing <= 0:
        return None
    ready = sum(instance.ready for instance in serving)
    counts = [f"{ready} of {wanted} instances {_verb(ready, 'serves', 'serve')}"]
    if starting := len(serving) - len(ended) - ready:
        counts.append(f"{starting} {_verb(starting, 'is', 'are')} starting")
    if draining := sum(instance.role == "draining" and not instance.ended for instance in own):
        counts.append(f"{draining} {_verb(draining, 'is', 'are')} draining")
    # More may have ended than are missing: the last ones are what is missing now.
    ended.sort(key=lambda each: (_or_inf(each.ended_tick), each.generation))
    causes = _causes(ended[-missing:])
    if (unborn := missing - len(ended)) > 0:
        causes.append(f"{unborn} {_verb(unborn, 'has', 'have')} not been started")
    sentence = f"{', '.join(counts)}: {'; '.join(causes)}."
    # A restart of the whole plugin would end those that serve.
    return f"{sentence} Then run `orchestrator restart {name} --only failed`." if ended else sentence


def _causes(ended: Sequence[InstanceRecord]) -> list[str]:
    """Why they ended, the first first; those of one reason code in one clause, with the reason of the first."""
    # So it is bounded by the number of codes, not of instances.
    by_code: dict[ReasonCode | None, list[InstanceRecord]] = {}
    for instance in ended:
        by_code.setdefault(instance.reason_code, []).append(instance)
    clauses = []
    for code, group in by_code.items():
        first = group[0]
        numbers = _listed(sorted(each.generation for each in group))
        named = f"{_verb(len(group), 'instance', 'instances')} {numbers} {_verb(len(group), 'is', 'are')} {first.state}"
        reason = (first.reason or "").rstrip(". ").removesuffix(", then restart the plugin")
        clauses.append(": ".join(filter(None, (f"{named} {code or ''}".rstrip(), reason))))
    return clauses


def _listed(numbers: Sequence[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}" if others else last


def _verb(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
