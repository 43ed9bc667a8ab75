"""Adoption: an orchestrator that starts adopts what an earlier one left running, and removes the rest."""

import asyncio
import json
from typing import Any

import pytest
from support.gpus import FakeGpus, device
from support.house import House

from orchestrator.containers.spec import ContainerSpec


async def reopened(house: House) -> None:
    """The orchestrator stops without its containers, and another starts."""
    await house.shut(containers_stay=True)
    await house.open()


async def test_a_container_that_runs_is_adopted(house: House) -> None:
    """The same container, with its generation, uptime and state; nothing is made or started."""
    house.add("reader", tools={"read": lambda: "text"})
    await house.open()
    await house.settled("reader")
    await house.client.post("/v1/plugins/reader/restart", params={"wait": 5})
    assert (await house.run("reader", "read")).status_code == 200
    before = await house.health("reader")
    house.instance("reader").set_status(ready_seconds=3600.0)
    calls = list(house.engine.calls)
    await reopened(house)
    after = await house.health("reader")
    assert (after["state"], after["generation"]) == ("RUNNING", before["generation"])
    assert after["container"]["id"] == before["container"]["id"]
    assert 3600 <= after["uptime_seconds"] < 3700
    assert house.engine.calls == calls
    answer = await house.run("reader", "read")
    assert (answer.status_code, answer.json()["result"]) == (200, "text")


async def test_an_adopted_plugin_is_watched_like_any_other(house: House) -> None:
    """Its end is seen, its restart makes a new instance."""
    house.add("reader")
    await house.open()
    await house.settled("reader")
    await reopened(house)
    await house.engine.kill_outside((await house.containers("reader"))[0])
    failed = await house.until_removed("reader")
    assert failed["reason_code"] == "KILLED"
    again = (await house.client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()
    assert (again["state"], again["generation"]) == ("INITIALIZED", failed["generation"] + 1)


async def _new_version(house: House) -> None:
    house.write("reader", image="house/reader", version="2.0.0")


async def _other_image(house: House) -> None:
    house.engine.add_image("house/reader", house.runtimes["reader"])


async def _not_ready(house: House) -> None:
    house.instance("reader").set_status(phase="starting")


async def _dead(house: House) -> None:
    await house.engine.kill_outside((await house.containers("reader"))[0])


async def _no_socket(house: House) -> None:
    (house.instance("reader").folder / "control.sock").unlink()


@pytest.mark.parametrize("change", [_new_version, _other_image, _not_ready, _dead, _no_socket])
async def test_an_instance_that_a_start_would_make_differently_is_replaced(house: House, change: Any) -> None:
    """Another version, another image of the same reference, an unhealthy one: a new instance, no trace of the old."""
    house.add("reader")
    await house.open()
    before = await house.settled("reader")
    await house.shut(containers_stay=True)
    await change(house)
    await house.open()
    after = await house.settled("reader")
    assert (after["state"], after["reason"]) == ("INITIALIZED", None)
    assert after["container"]["id"] != before["container"]["id"]
    assert len(await house.containers("reader")) == 1
    assert [folder.name for folder in _folders(house)] == [house.instance("reader").folder.name]


async def test_a_plugin_whose_folder_was_removed_leaves_no_container(house: House) -> None:
    """No supervisor would own it."""
    house.add("reader")
    house.add("writer")
    await house.open()
    await house.settled("reader")
    await house.settled("writer")
    await house.shut(containers_stay=True)
    (house.plugins / "reader" / "plugin.yaml").unlink()
    await house.open()
    await house.settled("writer")
    assert await house.containers("reader") == []
    assert len(await house.containers("writer")) == 1


async def test_an_instance_that_had_ended_is_not_revived(house: House) -> None:
    """The orchestrator died between its verdict and the removal: the container still looks healthy."""
    house.add("reader", tools={"read": _raise})
    await house.open()
    await house.settled("reader")
    house.engine.refuse = {"stop": "busy", "kill": "busy", "remove": "busy"}
    await house.run("reader", "read")
    await house.until("reader", lambda health: health["post_mortem"] is not None)
    left = await house.containers("reader")
    await house.shut(containers_stay=True)
    house.engine.refuse = {}
    await house.open()
    after = await house.settled("reader")
    assert after["state"] == "INITIALIZED"
    assert left[0] not in await house.containers("reader")


async def test_half_made_containers_of_a_crash_are_removed(house: House) -> None:
    """A container that was created and never started, an exited one, socket folders; not those of others."""
    house.add("reader")
    await house.open()
    await house.settled("reader")
    real = house.instance("reader").spec
    await house.shut(containers_stay=True)
    labels = {**real.labels, "plugin-orchestrator.instance": "deadbeef"}
    made = await house.engine.create(ContainerSpec("half-made", "house/reader", labels, {}, 1 << 26, 64))
    odd = await house.engine.create(
        ContainerSpec("odd", "house/reader", {**labels, "plugin-orchestrator.generation": "x"}, {}, 1 << 26, 64)
    )
    others = {**labels, "plugin-orchestrator.deployment": "00000000"}
    stranger = await house.engine.create(ContainerSpec("stranger", "house/reader", others, {}, 1 << 26, 64))
    (house.instance("reader").folder.parent / "deadbeef").mkdir()
    await house.open()
    there = {container.id for container in await house.engine.list({})}
    assert made not in there
    assert odd not in there
    assert stranger in there
    assert len(_folders(house)) == 1


async def test_an_orphan_that_appears_later_is_removed(house: House) -> None:
    """The engine was unreachable at the start; its leftovers are removed when it is back."""
    house.add("reader")
    await house.open()
    await house.settled("reader")
    (old,) = await house.containers("reader")
    await house.shut(containers_stay=True)
    house.engine.set_reachable(False)
    await house.open()
    assert (await house.settled("reader"))["reason_code"] == "ENGINE_UNREACHABLE"
    house.engine.set_reachable(True)
    async with asyncio.timeout(5):
        while old in await house.containers("reader"):
            await asyncio.sleep(0.02)


async def test_leases_are_restored(house: House) -> None:
    """From the container's labels: no other instance is granted its GPU."""
    house.gpus = FakeGpus(device(0), device(1))
    house.engine.device_drivers = ("nvidia",)
    house.add("one", tools={"run": lambda: 1}, requires_gpu=True)
    await house.open()
    await house.settled("one")
    granted = json.loads(house.instance("one").spec.labels["plugin-orchestrator.gpus"])["devices"]
    house.add("two", requires_gpu=True)
    house.add("three", requires_gpu=True)
    await reopened(house)
    await asyncio.gather(house.settled("two"), house.settled("three"))
    states = [await house.health(name) for name in ("one", "two", "three")]
    assert states[0]["state"] == "INITIALIZED"
    assert [gpu["uuid"] for gpu in states[0]["gpus"]] == list(granted)
    assert sorted(state["reason_code"] or "" for state in states[1:]) == ["", "GPU_BUSY"]
    answer = (await house.client.get("/v1/gpus")).json()
    holders = [held["plugin"] for gpu in answer["devices"] for held in gpu["holders"]]
    assert min(holders) == "one"


async def test_a_leftover_that_cannot_be_removed_keeps_its_gpu(house: House) -> None:
    """It may still use it: its successor is GPU_BUSY until the leftover is removed."""
    house.gpus = FakeGpus(device(0))
    house.engine.device_drivers = ("nvidia",)
    house.add("reader", requires_gpu=True)
    await house.open()
    await house.settled("reader")
    await house.shut(containers_stay=True)
    house.write("reader", image="house/reader", version="2.0.0", requires_gpu=True)
    house.engine.refuse = {"remove": "busy"}
    await house.open()
    assert (await house.settled("reader"))["reason_code"] == "GPU_BUSY"
    (quarantine,) = (await house.client.get("/v1/gpus")).json()["quarantines"]
    assert "could not be removed" in quarantine
    house.engine.refuse = {}
    house.engine.break_streams()
    async with asyncio.timeout(5):
        while (await house.client.get("/v1/gpus")).json()["quarantines"]:
            await asyncio.sleep(0.02)
    again = (await house.client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()
    assert again["state"] == "INITIALIZED"


def _raise() -> None:
    raise ValueError("broken")


def _folders(house: House) -> list[Any]:
    return list(house.instance("reader").folder.parent.iterdir())
