"""A plugin that cannot be constructed or validated is FAILED; nothing of it is left behind."""

from typing import Any

import pytest
from support.harness import Harness

from orchestrator.containers.memory import ProgramHandle
from orchestrator.containers.spec import ContainerSpec

FAILURES = [
    ("INIT_ERROR", "Reader() raised ValueError: no licence. Fix it, then restart the plugin."),
    (
        "VALIDATE_MISSING",
        "Reader has no validate(). Add one that raises on errors, then restart the plugin.",
    ),
    ("VALIDATE_ERROR", "Reader.validate() raised RuntimeError: the table is empty. Fix it, then restart the plugin."),
]


@pytest.mark.parametrize(("code", "reason"), FAILURES, ids=[row[0] for row in FAILURES])
async def test_a_failure_before_readiness_has_its_code_and_reason(harness: Harness, code: str, reason: str) -> None:
    """Each step of the start has its code."""
    harness.add("reader", start=[(0.01, {"phase": "failed", "reason_code": code, "reason": reason})])
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"], health["reason"]) == ("FAILED", code, reason)
    assert health["uptime_seconds"] is None


async def test_nothing_is_left_of_a_plugin_that_could_not_start(harness: Harness) -> None:
    """Its container and its folder of sockets are removed; nothing restarts it."""
    harness.add("reader", start=[(0.0, {"phase": "failed", "reason_code": "INIT_ERROR", "reason": "no"})])
    await harness.open()
    health = await harness.until_removed("reader")
    assert await harness.containers("reader") == []
    assert not list(harness.run_dir.glob("*/*"))
    assert health["generation"] == 1


async def test_a_start_that_hangs_is_ended_and_reports_where_it_hung(harness: Harness) -> None:
    """The limit is in the sentence, the stacks are in the post-mortem."""
    harness.add("reader", start=[], stacks="File plugin.py, line 9 in __init__", startup_timeout="200ms")
    await harness.open()
    health = await harness.until_removed("reader")
    assert (health["state"], health["reason_code"]) == ("FAILED", "STARTUP_TIMEOUT")
    assert "0.2 s" in health["reason"]
    assert health["post_mortem"]["stacks"] == "File plugin.py, line 9 in __init__"
    assert await harness.containers("reader") == []


async def test_a_silent_container_is_ended_too(harness: Harness) -> None:
    """An image that does not speak the protocol."""
    harness.add("reader", silent=True, ignore_sigterm=True, startup_timeout="200ms")
    await harness.open()
    health = await harness.until_removed("reader")
    assert health["reason_code"] == "STARTUP_TIMEOUT"
    assert await harness.containers("reader") == []


async def exits_at_once(_: ContainerSpec, handle: ProgramHandle) -> int:
    handle.log("python: command not found")
    return 127


async def test_a_container_that_exits_at_once_is_reported_with_its_log(harness: Harness) -> None:
    """Exit code and log are all the evidence."""
    harness.add("reader", program=exits_at_once)
    await harness.open()
    health = await harness.until_removed("reader")
    assert (health["state"], health["reason_code"]) == ("FAILED", "EXITED")
    assert "exit code 127" in health["reason"]
    assert "command not found" in health["post_mortem"]["log_tail"]


async def test_a_plugin_that_failed_stays_failed_until_an_operator_restarts_it(harness: Harness) -> None:
    """A restart is a new instance, from LOADED on."""
    runtime = harness.add("reader", start=[(0.0, {"phase": "failed", "reason_code": "INIT_ERROR", "reason": "no"})])
    client = await harness.open()
    await harness.until_removed("reader")
    runtime.start = [(0.0, {"phase": "ready"})]
    assert (await harness.health("reader"))["state"] == "FAILED"

    answer = await client.post("/v1/plugins/reader/restart", params={"wait": 5})

    new = answer.json()
    assert (new["state"], new["generation"], new["reason"], new["post_mortem"]) == ("INITIALIZED", 2, None, None)
    states = [e["state"] for e in (await client.get("/v1/plugins/reader/events")).json()]
    assert states == ["LOADED", "FAILED", "LOADED", "INITIALIZED"]


GARBAGE: list[tuple[str, dict[str, Any]]] = [
    ("an unknown phase", {"phase": "half-way"}),
    ("malformed tools", {"phase": "ready", "tools": [7, {"name": 7}, {}]}),
    ("malformed checks", {"phase": "ready", "checks": ["x", {"name": {"a": 1}, "ok": "yes", "detail": None}]}),
    ("malformed memory", {"phase": "ready", "memory": {"usage_bytes": "much", "peak_bytes": [], "oom_kills": "no"}}),
    ("nothing at all", {"phase": None, "worker": None, "memory": None, "checks": None, "tools": None}),
]


@pytest.mark.parametrize("status", [row[1] for row in GARBAGE], ids=[row[0] for row in GARBAGE])
async def test_whatever_a_runtime_reports_its_health_can_be_read(harness: Harness, status: dict[str, Any]) -> None:
    """200 with every field, before and after; other plugins are not affected."""
    harness.add("odd", start=[(0.0, status)], startup_timeout="300ms")
    harness.add("reader")
    client = await harness.open()
    await harness.settled("reader")
    await harness.settled("odd")
    answer = await client.get("/v1/plugins")
    assert answer.status_code == 200
    assert {p["name"] for p in answer.json()} == {"odd", "reader"}


async def test_a_plugin_without_tools_is_healthy_and_stays_watched(harness: Harness) -> None:
    """Repeated statuses change nothing; its end is still noticed."""
    harness.add("idle", tools={})
    await harness.open()
    await harness.settled("idle")
    harness.instance("idle").set_status(cpu_seconds=0.2)
    await harness.until("idle", lambda health: health["container"]["cpu_seconds"] == 0.2)
    harness.instance("idle").set_status(cpu_seconds=0.3)
    await harness.until("idle", lambda health: health["container"]["cpu_seconds"] == 0.3)
    await harness.instance("idle").worker_exits(exit_code=4)
    health = await harness.until_state("idle", "FAILED")
    assert health["reason_code"] == "EXITED"


async def test_a_defect_of_the_orchestrator_ends_the_start_with_a_reason(harness, monkeypatch):
    """An unexpected exception leaves no plugin LOADED for ever."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("orchestrator.supervisor.preparation.check_host", broken)
    harness.add("reader")
    await harness.open()
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "INIT_ERROR"
    assert "defect in the orchestrator" in health["reason"]


async def test_links_in_a_circle_are_named(harness):
    """In the plugin's folder they fail its build."""
    harness.add("reader", image="base")
    (harness.plugins / "reader" / "round").symlink_to("round")
    await harness.open()
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "BUILD_FAILED"
    assert "circle" in health["reason"]
