"""The list as JSON text: what each object's own model says, however often it is asked and whatever has changed."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.health.health_model import health_response
from orchestrator.health.listing import HealthListing
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, PluginRecord

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
    container={"name": "plugin-up", "uptime_seconds": None, "exit_code": None},
    gpus=({"uuid": "GPU-1"},),
    limits={"cpus": None, "timeout_seconds": 60.0},
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


def test_it_is_what_the_models_say() -> None:
    """Also when a text looks like the field that is put in last."""
    assert json.loads(HealthListing().encode(RECORDS, TICK)) == modelled(RECORDS, TICK)


def test_uptime_goes_on_and_the_rest_stays() -> None:
    """Nothing is encoded anew, and yet the time since INITIALIZED is that of now; it stands still after the end."""
    listing, later = HealthListing(), TICK + 5
    listing.encode(RECORDS, TICK)
    assert json.loads(listing.encode(RECORDS, later)) == modelled(RECORDS, later)


@pytest.mark.parametrize("change", [{"in_flight": 3}, {"stale": True}, {"ready_tick": None}, {"generation": 2}])
def test_a_change_is_seen_at_once(change: dict[str, Any]) -> None:
    listing = HealthListing()
    listing.encode(RECORDS, TICK)
    changed = [*RECORDS[:-1], replace(UP, **change)]
    assert json.loads(listing.encode(changed, TICK)) == modelled(changed, TICK)


def test_plugins_that_are_gone_are_not_kept() -> None:
    """Nor shown."""
    listing = HealthListing()
    listing.encode(RECORDS, TICK)
    assert json.loads(listing.encode([UP], TICK)) == modelled([UP], TICK)
    assert set(listing._encoded) == {"up"}
    assert listing.encode([], TICK) == b"[]"
