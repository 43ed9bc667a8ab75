"""A control socket that says every few seconds that all is well is not asked; one that falls silent is."""

import asyncio
import time
from dataclasses import replace

import pytest
from support.house import House
from support.scripted_runtime import ScriptedInstance

from orchestrator.containers.spec import ContainerStatus

FOUND_WITHIN = 10.0
"""Seconds from the last word."""


async def _say_every_second(instance: ScriptedInstance, seconds: int) -> None:
    for _ in range(seconds):
        instance.set_status()
        await asyncio.sleep(1)


async def test_one_that_speaks_by_itself_is_asked_only_when_it_falls_silent(house: House) -> None:
    house.add("reader")
    await house.open()
    await house.settled("reader")
    instance = house.instance("reader")
    await _say_every_second(instance, 6)
    assert instance.questions == 0
    instance.deaf = True
    instance.set_status()
    begun = time.monotonic()
    health = await house.until("reader", lambda health: health["state"] == "FAILED", timeout=2 * FOUND_WITHIN)
    assert health["reason_code"] == "UNRESPONSIVE"
    assert time.monotonic() - begun < FOUND_WITHIN
    assert instance.questions == 3


async def test_one_that_says_nothing_by_itself_is_asked_every_few_seconds(house: House) -> None:
    """As one in another language may be, or of an older version."""
    house.add("reader")
    await house.open()
    await house.settled("reader")
    instance = house.instance("reader")
    instance.status = {**instance.status, "cpu_seconds": 4.5}  # nobody is told
    health = await house.until("reader", lambda health: health["container"]["cpu_seconds"] == 4.5, timeout=8)
    assert health["state"] == "INITIALIZED"
    assert instance.questions >= 1


async def test_one_whose_removal_is_under_way_has_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker rm --force` from outside, on a disk that takes its time: the engine says `removing` for seconds."""
    house.add("reader")
    await house.open()
    await house.settled("reader")
    inspect = house.engine.inspect

    async def slowly_removed(container_id: str) -> ContainerStatus:
        status = await inspect(container_id)
        return replace(status, state="removing") if status.state == "exited" else status

    monkeypatch.setattr(house.engine, "inspect", slowly_removed)
    house.instance("reader").leave(137)
    health = await house.until("reader", lambda health: health["state"] == "FAILED")
    assert health["reason_code"] == "KILLED"


async def test_one_that_speaks_again_is_not_ended(house: House) -> None:
    """Any word of its supervisor is a sign of life."""
    house.add("reader")
    await house.open()
    await house.settled("reader")
    instance = house.instance("reader")
    instance.deaf = True
    await house.until("reader", lambda health: not _hears(health), timeout=8)
    instance.set_status()
    await house.until("reader", _hears)
    await _say_every_second(instance, 6)
    assert (await house.health("reader"))["state"] == "INITIALIZED"


def _hears(health: dict[str, object]) -> bool:
    checks = health["checks"]
    assert isinstance(checks, list)
    return all(check["ok"] for check in checks if check["name"] == "control socket")
