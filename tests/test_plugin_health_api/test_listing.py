"""The list as JSON text equals each object's own model, however often it is requested and whatever has changed."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.health.health_model import HealthListing, health_response
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, ContainerFacts, EffectiveLimits, PluginRecord

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
RECORDS = [CUNNING, ENDED, PLAIN, UP]


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


@pytest.mark.parametrize("change", [{"in_flight": 3}, {"stale": True}, {"ready_tick": None}, {"generation": 2}])
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
