"""The list as JSON text equals each object's own model, however often it is requested and whatever has changed."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.health.health_model import health_response
from orchestrator.health.listing import HealthListing
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, ContainerFacts, EffectiveLimits, InstanceRecord, PluginRecord

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
TICK = 1000.0
PLAIN = PluginRecord("plain", "1.0.0", "Reads.", PluginLifecycleState.LOADED, NOW)
UP = replace(
    PLAIN,
    name="up",
    state=PluginLifecycleState.RUNNING,
    ready_tick=TICK - 90.000001,
    last_used=NOW,
    success_count=2,
    error_count=1,
    last_execution_ms=1e-05,
    total_execution_ms=1 / 3,
    checks=(Check("memory", ok=True, detail="1 of 2 “MiB”", source="container"),),
    container=ContainerFacts("c0ffee", "plugin-up", None, memory_usage_bytes=1 << 20),
    gpus=({"uuid": "GPU-1", "uptime_seconds": None},),
    limits=EffectiveLimits(60.0, 1 << 30, None, 128, 1 << 26, 1 << 32, 120.0, 1, 16, 2 << 30),
)
ENDED = replace(
    UP,
    name="ended",
    state=PluginLifecycleState.FAILED,
    ended_tick=TICK - 30,
    reason_code=ReasonCode.TIMEOUT,
    reason="It hung.",
)
CUNNING = replace(UP, name="cunning", description='x","uptime_seconds":null,"y":"', version="\n\\")
SERVING = InstanceRecord(
    4,
    PluginLifecycleState.RUNNING,
    NOW,
    version='","uptime_seconds":null,"y":"',
    ready_tick=TICK - 90.000001,
    in_flight=2,
    checks=UP.checks,
    container=UP.container,
    gpus=UP.gpus,
)
FAILED = replace(
    SERVING,
    generation=5,
    state=PluginLifecycleState.FAILED,
    reason_code=ReasonCode.OUT_OF_MEMORY,
    reason="It used too much.",
    ended_tick=TICK - 1 / 3,
)
CANDIDATE = replace(SERVING, generation=6, role="candidate", version="2", ready_tick=TICK - 2)
SEVERAL = replace(
    UP,
    name="several",
    wanted=2,
    degraded=True,
    degraded_reason="1 of 2 instances serves.",
    instances=(
        SERVING,
        FAILED,
        replace(SERVING, generation=7, state=PluginLifecycleState.LOADED, ready_tick=None),
        CANDIDATE,
    ),
)
RECORDS = [CUNNING, ENDED, PLAIN, SEVERAL, UP]


def modelled(records: list[PluginRecord], now: float) -> list[Any]:
    return [health_response(record, now).model_dump(mode="json") for record in records]


def test_it_equals_the_models() -> None:
    """Also when a text looks like the field that is inserted last."""
    assert json.loads(HealthListing().encode(RECORDS, TICK)) == modelled(RECORDS, TICK)


def test_uptime_grows_and_the_rest_stays() -> None:
    """Without a new encoding the time since INITIALIZED is current; it stands still after the end."""
    listing, later = HealthListing(), TICK + 5
    listing.encode(RECORDS, TICK)
    assert json.loads(listing.encode(RECORDS, later)) == modelled(RECORDS, later)


@given(st.lists(st.floats(0, 0.2), max_size=20))
def test_no_uptime_is_more_than_50_ms_behind(pauses: list[float]) -> None:
    """The plugin's, and that of each instance and of the candidate."""
    listing, now = HealthListing(), TICK
    for pause in pauses:
        now += pause
        answered, exact = json.loads(listing.encode(RECORDS, now)), modelled(RECORDS, now)
        for one, other in zip(uptimes(answered), uptimes(exact), strict=True):
            assert one == other or 0 <= other - one <= 0.0500011  # both are rounded


def uptimes(value: Any) -> list[Any]:
    """All of them, in the order of the text."""
    if isinstance(value, list):
        return [found for each in value for found in uptimes(each)]
    if not isinstance(value, dict):
        return []
    return [
        found
        for key, inner in value.items()
        for found in ([inner] if key == "uptime_seconds" else [] if key == "gpus" else uptimes(inner))
    ]


def test_the_fields_of_several_instances_are_those_of_the_contract() -> None:
    """Each instance has its own state, reason, container, GPUs and checks; with none they are empty."""
    shown, unknown = modelled([SEVERAL, PLAIN], TICK)
    assert shown["replicas"] == {"wanted": 2, "ready": 1}
    assert (shown["degraded"], shown["degraded_reason"]) == (True, "1 of 2 instances serves.")
    assert [(each["generation"], each["role"], each["state"]) for each in shown["instances"]] == [
        (4, "serving", "RUNNING"),
        (5, "serving", "FAILED"),
        (7, "serving", "LOADED"),
        (6, "candidate", "RUNNING"),
    ]
    assert shown["candidate"] == shown["instances"][3]
    failed = shown["instances"][1]
    assert (failed["reason_code"], failed["reason"], failed["in_flight"]) == ("OUT_OF_MEMORY", "It used too much.", 2)
    assert (failed["container"], failed["gpus"], failed["checks"]) == (
        shown["container"],
        shown["gpus"],
        shown["checks"],
    )
    assert (unknown["replicas"], unknown["degraded"], unknown["degraded_reason"]) == (
        {"wanted": 1, "ready": 0},
        False,
        None,
    )
    assert (unknown["instances"], unknown["candidate"]) == ([], None)


def test_typed_facts_are_objects_with_the_fields_of_the_contract() -> None:
    """Limits and container: names with their units, in their order; empty objects where nothing is known."""
    shown, unknown = modelled([UP, PLAIN], TICK)
    assert (unknown["container"], unknown["limits"]) == ({}, {})
    assert list(shown["container"].items()) == [
        ("id", "c0ffee"),
        ("name", "plugin-up"),
        ("image_id", None),
        ("memory_usage_bytes", 1 << 20),
        ("memory_peak_bytes", None),
        ("cpu_seconds", None),
        ("oom_kills", None),
    ]
    assert list(shown["limits"].items()) == [
        ("timeout_seconds", 60.0),
        ("memory_bytes", 1 << 30),
        ("cpus", None),
        ("pids", 128),
        ("shm_bytes", 1 << 26),
        ("scratch_bytes", 1 << 32),
        ("startup_timeout_seconds", 120.0),
        ("concurrency", 1),
        ("queue", 16),
        ("output_bytes", 2 << 30),
        ("swap_bytes", 0),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"in_flight": 3},
        {"stale": True},
        {"ready_tick": None},
        {"generation": 2},
        {"instances": (SERVING,)},
        {"instances": (replace(SERVING, ready_tick=None), CANDIDATE)},
    ],
)
def test_a_change_is_seen_at_once(change: dict[str, Any]) -> None:
    listing = HealthListing()
    listing.encode(RECORDS, TICK)
    changed = [*RECORDS[:-1], replace(UP, **change)]
    assert json.loads(listing.encode(changed, TICK)) == modelled(changed, TICK)


def test_removed_plugins_leave_the_list_and_its_cache() -> None:
    listing = HealthListing()
    listing.encode(RECORDS, TICK)
    assert json.loads(listing.encode([UP], TICK)) == modelled([UP], TICK)
    assert set(listing._encoded) == {"up"}
    assert listing.encode([], TICK) == b"[]"
