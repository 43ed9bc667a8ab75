"""Health during faults: a held lock, an unreachable or frozen engine. Stale, and never slow."""

import asyncio
import time
from pathlib import Path

import pytest
from support.harness import Harness
from support.held_lock import held_write_lock


async def test_a_held_lock_makes_health_stale_and_not_slow(harness: Harness) -> None:
    """The last snapshot comes back at once; afterwards it is fresh again."""
    harness.add("reader")
    client = await harness.open()
    await harness.settled("reader")
    with held_write_lock(harness.registry):
        started = time.monotonic()
        listed, one, unknown = [
            await client.get(route)
            for route in ("/v1/plugins", "/v1/plugins/reader/health", "/v1/plugins/nobody/health")
        ]
        took = time.monotonic() - started
    assert [a.status_code for a in (listed, one, unknown)] == [200, 200, 404]
    assert (listed.json()[0]["stale"], one.json()["stale"], one.json()["state"]) == (True, True, "INITIALIZED")
    assert took < 1
    assert (await harness.health("reader"))["stale"] is False


async def test_an_unreachable_engine_makes_health_stale_and_not_slow(harness: Harness) -> None:
    """Instances go on and are shown as last seen; nothing fails, nothing waits."""
    harness.add("reader", tools={"read": lambda: 1})
    await harness.open()
    await harness.settled("reader")
    harness.engine.set_reachable(False)
    started = time.monotonic()
    await harness.health("reader")
    assert time.monotonic() - started < 1
    stale = await harness.until("reader", lambda health: health["stale"])
    assert stale["state"] == "INITIALIZED"
    assert (await harness.run("reader", "read")).status_code == 200
    harness.engine.set_reachable(True)
    back = await harness.until("reader", lambda health: not health["stale"])
    assert back["observed_at"] > stale["observed_at"]


async def test_a_frozen_engine_does_not_hold_up_health(tmp_path: Path) -> None:
    """Also while plugins are being started on it."""
    async with Harness(tmp_path, engine_bound=30) as harness:
        harness.add("reader")
        harness.add("writer", start=[])
        client = await harness.open()
        await harness.settled("reader")
        harness.engine.set_frozen(True)
        restart = asyncio.create_task(client.post("/v1/plugins/writer/restart"))
        started = time.monotonic()
        for _ in range(5):
            for route in ("/v1/plugins", "/v1/plugins/reader/health", "/v1/plugins/writer/health"):
                assert (await client.get(route)).status_code == 200
            await asyncio.sleep(0.01)
        took = time.monotonic() - started
        harness.engine.set_frozen(False)
        await restart
        assert took < 5


@pytest.mark.slow
async def test_a_frozen_engine_makes_health_stale(harness: Harness) -> None:
    """It breaks no connection, it only gives no answer; instances are shown as last seen."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.engine.set_frozen(True)
    stale = await harness.until("reader", lambda health: health["stale"])
    harness.engine.set_frozen(False)
    fresh = await harness.until("reader", lambda health: not health["stale"])
    assert (stale["state"], fresh["state"]) == ("INITIALIZED", "INITIALIZED")
    assert fresh["observed_at"] > stale["observed_at"]
