"""A plugin that cannot be constructed or validated is FAILED; nothing of it is left behind."""

from typing import Any

import pytest
from support.house import House

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
async def test_a_failure_before_readiness_has_its_code_and_reason(house: House, code: str, reason: str) -> None:
    """Each step of the start has its code."""
    house.add("reader", start=[(0.01, {"phase": "failed", "reason_code": code, "reason": reason})])
    await house.open()
    health = await house.settled("reader")
    assert (health["state"], health["reason_code"], health["reason"]) == ("FAILED", code, reason)
    assert health["uptime_seconds"] is None


async def test_nothing_is_left_of_a_plugin_that_could_not_start(house: House) -> None:
    """Its container and its folder of sockets are removed; nothing restarts it."""
    house.add("reader", start=[(0.0, {"phase": "failed", "reason_code": "INIT_ERROR", "reason": "no"})])
    await house.open()
    health = await house.until_removed("reader")
    assert await house.containers("reader") == []
    assert not list(house.run_dir.glob("*/*"))
    assert health["generation"] == 1


async def test_a_start_that_hangs_is_ended_and_reports_where_it_hung(house: House) -> None:
    """The limit is in the sentence, the stacks are in the post-mortem."""
    house.add("reader", start=[], stacks="File plugin.py, line 9 in __init__", startup_timeout="200ms")
    await house.open()
    health = await house.until_removed("reader")
    assert (health["state"], health["reason_code"]) == ("FAILED", "STARTUP_TIMEOUT")
    assert "0.2 s" in health["reason"]
    assert health["post_mortem"]["stacks"] == "File plugin.py, line 9 in __init__"
    assert await house.containers("reader") == []


async def test_a_silent_container_is_ended_too(house: House) -> None:
    """An image that does not speak the protocol."""
    house.add("reader", silent=True, ignore_sigterm=True, startup_timeout="200ms")
    await house.open()
    health = await house.until_removed("reader")
    assert health["reason_code"] == "STARTUP_TIMEOUT"
    assert await house.containers("reader") == []


async def exits_at_once(_: ContainerSpec, handle: ProgramHandle) -> int:
    handle.log("python: command not found")
    return 127


async def test_a_container_that_exits_at_once_is_reported_with_its_log(house: House) -> None:
    """Exit code and log are all the evidence."""
    house.add("reader", program=exits_at_once)
    await house.open()
    health = await house.until_removed("reader")
    assert (health["state"], health["reason_code"]) == ("FAILED", "EXITED")
    assert "exit code 127" in health["reason"]
    assert "command not found" in health["post_mortem"]["log_tail"]


async def test_a_plugin_that_failed_stays_failed_until_an_operator_restarts_it(house: House) -> None:
    """A restart is a new instance, from LOADED on."""
    runtime = house.add("reader", start=[(0.0, {"phase": "failed", "reason_code": "INIT_ERROR", "reason": "no"})])
    client = await house.open()
    await house.until_removed("reader")
    runtime.start = [(0.0, {"phase": "ready"})]
    assert (await house.health("reader"))["state"] == "FAILED"

    answer = await client.post("/v1/plugins/reader/restart", params={"wait": 5})

    new = answer.json()
    assert (new["state"], new["generation"], new["reason"], new["post_mortem"]) == ("INITIALIZED", 2, None, None)
    states = [e["state"] for e in (await client.get("/v1/plugins/reader/events")).json()]
    assert states[1:] == ["LOADED", "FAILED", "LOADED", "INITIALIZED"]


GARBAGE: list[tuple[str, dict[str, Any]]] = [
    ("an unknown phase", {"phase": "half-way"}),
    ("malformed tools", {"phase": "ready", "tools": [7, {"name": 7}, {}]}),
    ("malformed checks", {"phase": "ready", "checks": ["x", {"name": {"a": 1}, "ok": "yes", "detail": None}]}),
    ("malformed memory", {"phase": "ready", "memory": {"usage_bytes": "much", "peak_bytes": [], "oom_kills": "no"}}),
    ("nothing at all", {"phase": None, "worker": None, "memory": None, "checks": None, "tools": None}),
]


@pytest.mark.parametrize("status", [row[1] for row in GARBAGE], ids=[row[0] for row in GARBAGE])
async def test_whatever_a_runtime_reports_its_health_can_be_read(house: House, status: dict[str, Any]) -> None:
    """200 with every field, before and after; other plugins are not affected."""
    house.add("odd", start=[(0.0, status)], startup_timeout="300ms")
    house.add("reader")
    client = await house.open()
    await house.settled("reader")
    await house.settled("odd")
    answer = await client.get("/v1/plugins")
    assert answer.status_code == 200
    assert {p["name"] for p in answer.json()} == {"odd", "reader"}


async def test_a_plugin_without_tools_is_healthy_and_stays_watched(house: House) -> None:
    """Repeated statuses change nothing; its end is still noticed."""
    house.add("idle", tools={})
    await house.open()
    await house.settled("idle")
    house.instance("idle").set_status(cpu_seconds=0.2)
    await house.until("idle", lambda health: health["container"]["cpu_seconds"] == 0.2)
    house.instance("idle").set_status(cpu_seconds=0.3)
    await house.until("idle", lambda health: health["container"]["cpu_seconds"] == 0.3)
    await house.instance("idle").worker_exits(exit_code=4)
    health = await house.until_state("idle", "FAILED")
    assert health["reason_code"] == "EXITED"


async def test_a_defect_of_the_orchestrator_ends_the_start_with_a_reason(house, monkeypatch):
    """An unexpected exception leaves no plugin LOADED for ever."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("orchestrator.supervisor.instance_driver.check_host", broken)
    house.add("reader")
    await house.open()
    health = await house.until_state("reader", "FAILED")
    assert health["reason_code"] == "INIT_ERROR"
    assert "defect in the orchestrator" in health["reason"]


async def test_links_in_a_circle_are_named(house):
    """In the plugin's folder they fail its build."""
    house.add("reader", image="base")
    (house.plugins / "reader" / "round").symlink_to("round")
    await house.open()
    health = await house.until_state("reader", "FAILED")
    assert health["reason_code"] == "BUILD_FAILED"
    assert "circle" in health["reason"]
