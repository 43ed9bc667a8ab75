"""Counters and times of a plugin, as its health shows them."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.harness import Harness

from orchestrator.health.health_model import health_response
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import PluginRecord

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TICK = 1000.0


def fail() -> None:
    raise ValueError("no")


def shown(**facts: Any) -> dict[str, Any]:
    """The health of a record with these facts."""
    record = PluginRecord("reader", "1", "", PluginLifecycleState.LOADED, NOW, **facts)
    return health_response(record, TICK).model_dump()


# A record as health


@pytest.mark.parametrize(
    ("successes", "errors", "total", "average"),
    [(0, 0, 0.0, None), (1, 0, 8.0, 8.0), (3, 1, 10.0, 2.5), (0, 2, 120_000.0, 60_000.0)],
)
def test_the_average_is_over_all_counted_runs(successes: int, errors: int, total: float, average: float | None) -> None:
    """Successes and errors; null before the first."""
    health = shown(success_count=successes, error_count=errors, total_execution_ms=total)
    assert health["avg_execution_time_ms"] == average


@pytest.mark.parametrize(
    ("ready", "ended", "uptime"),
    [
        (None, None, None),
        (TICK - 90, None, 90.0),
        (TICK - 90, TICK - 30, 60.0),
        (None, TICK, None),
    ],
    ids=["not ready", "ready", "ended", "never ready"],
)
def test_uptime_runs_from_readiness_to_the_end(ready: float | None, ended: float | None, uptime: float | None) -> None:
    """Seconds; it stops once the instance has ended and is never negative."""
    assert shown(ready_tick=ready, ended_tick=ended)["uptime_seconds"] == uptime


def test_health_shows_the_record_unchanged() -> None:
    """No field is lost or renamed."""
    health = shown(
        last_used=NOW,
        last_execution_ms=1.5,
        in_flight=2,
        queued=3,
        generation=4,
        reason="r",
        reason_code=ReasonCode.TIMEOUT,
    )
    assert (health["last_used"], health["last_execution_time_ms"]) == (NOW, 1.5)
    assert (health["in_flight"], health["queued"], health["generation"]) == (2, 3, 4)
    assert (health["reason"], health["reason_code"]) == ("r", "TIMEOUT")


# Through the whole orchestrator


async def test_successes_and_errors_are_counted(harness: Harness) -> None:
    """Each run once; a caller's mistake not at all."""
    harness.add("reader", tools={"read": lambda: 1, "fail": fail}, failure_policy="tolerant")
    await harness.open()
    await harness.settled("reader")
    for tool, times in (("read", 3), ("fail", 2), ("nothing", 4)):
        for _ in range(times):
            await harness.run("reader", tool)
    await harness.run("reader", "read", colour="red")
    health = await harness.health("reader")
    assert (health["success_count"], health["error_count"]) == (3, 2)


async def test_execution_times_are_the_plugins_own(harness: Harness) -> None:
    """Last and mean, in milliseconds, as in the answers; time in the queue does not count."""
    seconds = iter([0.03, 0.01, 0.02])

    async def read() -> None:
        await asyncio.sleep(next(seconds))

    harness.add("reader", tools={"read": read})
    await harness.open()
    await harness.settled("reader")
    answers = await asyncio.gather(*(harness.run("reader", "read") for _ in range(3)))
    times = [answer.json()["execution_time_ms"] for answer in answers]
    health = await harness.health("reader")
    assert health["avg_execution_time_ms"] == pytest.approx(sum(times) / 3, abs=0.01)
    assert health["last_execution_time_ms"] in [pytest.approx(time, abs=0.01) for time in times]
    assert all(time >= 10 for time in times)


async def test_a_timeout_counts_as_an_error_with_its_time(harness: Harness) -> None:
    """Its execution time is the time limit."""
    harness.add("reader", tools={"read": asyncio.Event().wait}, limits={"timeout": "100ms"})
    await harness.open()
    await harness.run("reader", "read")
    health = await harness.health("reader")
    assert (health["success_count"], health["error_count"], health["in_flight"]) == (0, 1, 0)
    assert 100 <= health["last_execution_time_ms"] < 1000


async def test_last_used_is_when_the_last_run_started(harness: Harness) -> None:
    """Null before the first."""
    harness.add("reader", tools={"read": lambda: 1})
    await harness.open()
    before = await harness.settled("reader")
    started = datetime.now(UTC)
    await harness.run("reader", "read")
    used = datetime.fromisoformat((await harness.health("reader"))["last_used"])
    assert before["last_used"] is None
    assert started <= used <= datetime.now(UTC)


async def test_in_flight_follows_the_runs(harness: Harness) -> None:
    """It is the number of executing runs."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait}, concurrency=4)
    await harness.open()
    await harness.settled("reader")
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(3)]
    await harness.until("reader", lambda health: health["in_flight"] == 3)
    go_on.set()
    await asyncio.gather(*runs)
    assert (await harness.health("reader"))["in_flight"] == 0


async def test_counters_survive_a_restart_and_uptime_starts_again(harness: Harness) -> None:
    """Counters belong to the plugin, uptime and generation to the instance."""
    harness.add("reader", tools={"read": lambda: 1, "fail": fail})
    client = await harness.open()
    await harness.run("reader", "read")
    await harness.run("reader", "fail")
    ended = await harness.until_removed("reader")
    await asyncio.sleep(0.05)
    assert (await harness.health("reader"))["uptime_seconds"] == ended["uptime_seconds"]
    await client.post("/v1/plugins/reader/restart", params={"wait": 5})
    await harness.run("reader", "read")
    after = await harness.health("reader")
    assert (after["success_count"], after["error_count"], after["generation"]) == (2, 1, 2)
    assert after["uptime_seconds"] < 5
    assert after["avg_execution_time_ms"] is not None


async def test_the_resource_usage_of_the_container_is_shown(harness: Harness) -> None:
    """As its own supervisor last reported it."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    memory = {"oom_kills": 0, "usage_bytes": 111, "peak_bytes": 222, "limit_bytes": 333}
    harness.instance("reader").set_status(memory=memory, cpu_seconds=1.5)
    health = await harness.until("reader", lambda health: health["container"]["cpu_seconds"] == 1.5)
    assert (health["container"]["memory_usage_bytes"], health["container"]["memory_peak_bytes"]) == (111, 222)


async def test_a_jump_of_the_wall_clock_changes_no_uptime_and_no_deadline(harness: Harness, monkeypatch: Any) -> None:
    """A day forwards while a tool runs: its time limit and the plugin's uptime are unaffected."""

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=1)

    async def naps() -> str:
        await asyncio.sleep(0.3)
        return "rested"

    harness.add("reader", tools={"nap": naps}, limits={"timeout": "5s"})
    await harness.open()
    await harness.settled("reader")
    run = asyncio.create_task(harness.run("reader", "nap"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    for module in [module for name, module in sys.modules.items() if name.startswith("orchestrator.")]:
        if getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Tomorrow)
    answer = await run
    health = await harness.health("reader")
    assert (answer.status_code, answer.json()["result"]) == (200, "rested")
    assert 0 < health["uptime_seconds"] < 60
    assert datetime.fromisoformat(health["observed_at"]) > datetime.now(UTC) + timedelta(hours=23)
