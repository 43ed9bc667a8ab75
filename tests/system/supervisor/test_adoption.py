"""Adoption: an orchestrator that starts adopts what an earlier one left running, and removes the rest."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from support.gpus import FakeGpus, device
from support.harness import Harness, eventually
from support.slow_builds import SlowBuilds

from orchestrator.containers.spec import ContainerSpec


async def reopened(harness: Harness) -> None:
    """The orchestrator stops without its containers, and another starts."""
    await harness.shut(containers_stay=True)
    await harness.open()


async def test_a_container_that_runs_is_adopted(harness: Harness) -> None:
    """The same container, with its generation, uptime and state; nothing is made or started."""
    harness.add("reader", tools={"read": lambda: "text"})
    await harness.open()
    await harness.settled("reader")
    await harness.client.post("/v1/plugins/reader/restart", params={"wait": 5})
    assert (await harness.run("reader", "read")).status_code == 200
    before = await harness.health("reader")
    harness.instance("reader").set_status(ready_seconds=3600.0)
    calls = list(harness.engine.calls)
    await reopened(harness)
    after = await harness.health("reader")
    assert (after["state"], after["generation"]) == ("RUNNING", before["generation"])
    assert after["container"]["id"] == before["container"]["id"]
    assert 3600 <= after["uptime_seconds"] < 3700
    assert harness.engine.calls == calls
    answer = await harness.run("reader", "read")
    assert (answer.status_code, answer.json()["result"]) == (200, "text")


async def test_an_adopted_plugin_is_watched_like_any_other(harness: Harness) -> None:
    """Its end is seen, its restart makes a new instance."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    await reopened(harness)
    await harness.engine.kill_outside((await harness.containers("reader"))[0])
    failed = await harness.until_removed("reader")
    assert failed["reason_code"] == "KILLED"
    again = (await harness.client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()
    assert (again["state"], again["generation"]) == ("INITIALIZED", failed["generation"] + 1)


async def _new_version(harness: Harness) -> None:
    harness.write("reader", image="harness/reader", version="2.0.0")


async def _other_image(harness: Harness) -> None:
    harness.engine.add_image("harness/reader", harness.runtimes["reader"])


async def _not_ready(harness: Harness) -> None:
    harness.instance("reader").set_status(phase="starting")


async def _dead(harness: Harness) -> None:
    await harness.engine.kill_outside((await harness.containers("reader"))[0])


async def _no_socket(harness: Harness) -> None:
    (harness.instance("reader").folder / "control.sock").unlink()


async def _older_orchestrator(harness: Harness) -> None:
    """Whose containers do not say what they were made from."""
    (container,) = (each for each in harness.engine._containers.values() if each.running)
    labels = {
        name: value for name, value in container.status.labels.items() if not name.endswith(("manifest", "limits"))
    }
    container.status = replace(container.status, labels=labels)
    await _new_version(harness)


@pytest.mark.parametrize("change", [_new_version, _other_image])
async def test_an_instance_that_a_start_would_make_differently_serves_until_it_is_replaced(
    harness: Harness, change: Any
) -> None:
    """Another version, another image of the same reference: adopted as it is, and restarted."""
    harness.add("reader", tools={"read": lambda: "text"}, limits={"timeout": "7s"})
    await harness.open()
    before = await harness.settled("reader")
    await harness.shut(containers_stay=True)
    await change(harness)
    await harness.open()
    assert (await harness.run("reader", "read")).status_code in {200, 503}  # where it was executing, it ends with it
    after = await harness.until("reader", lambda health: health["generation"] == 2 and health["state"] != "LOADED")
    assert after["state"] in {"INITIALIZED", "RUNNING"}  # the run may have waited for it
    assert after["reason"] is None
    assert after["container"]["id"] != before["container"]["id"]
    await eventually(lambda: len(_folders(harness)) == 1, "one folder of sockets")
    assert len(await harness.containers("reader")) == 1


async def _broken_manifest(harness: Harness) -> None:
    harness.write_raw("reader", "version: [")


async def _secret_gone(harness: Harness) -> None:
    harness.write("reader", image="harness/reader", version="2.0.0", secrets=["TOKEN"])


@pytest.mark.parametrize(("change", "code"), [(_broken_manifest, "MANIFEST_INVALID"), (_secret_gone, "SECRET_MISSING")])
async def test_a_change_that_is_broken_leaves_the_adopted_instance_serving(
    harness: Harness, change: Any, code: str
) -> None:
    """With the manifest and limits that it was made from, as at a restart."""
    harness.add("reader", tools={"read": lambda: "text"}, limits={"timeout": "7s"})
    await harness.open()
    before = await harness.settled("reader")
    await harness.shut(containers_stay=True)
    await change(harness)
    await harness.open()
    after = await harness.until("reader", lambda health: (health["restart"] or {}).get("state") == "refused")
    assert (after["state"], after["generation"], after["restart"]["reason_code"]) == ("INITIALIZED", 1, code)
    for field in ("version", "description", "limits"):
        assert after[field] == before[field]
    assert (await harness.run("reader", "read")).status_code == 200


async def test_an_orchestrator_that_ends_during_a_restart_leaves_the_instance_to_the_next(harness: Harness) -> None:
    """It serves on there, and the restart is made anew."""
    harness.add("reader", image="base", tools={"read": lambda: "text"})
    await harness.open()
    before = await harness.settled("reader")
    builds = SlowBuilds(harness)
    (harness.plugins / "reader" / "new.py").write_text("x = 1\n")
    assert (await harness.client.post("/v1/plugins/reader/restart")).status_code == 202
    await harness.shut(containers_stay=True)
    await harness.open()
    during = await harness.until("reader", lambda health: (health["reason"] or "").startswith("building its image"))
    assert (during["state"], during["generation"]) == ("INITIALIZED", before["generation"])
    assert during["container"]["id"] == before["container"]["id"]
    assert (await harness.run("reader", "read")).status_code == 200
    builds.go_on()
    await harness.until("reader", lambda health: health["generation"] == 2 and health["state"] != "LOADED")


@pytest.mark.parametrize("change", [_not_ready, _dead, _no_socket, _older_orchestrator])
async def test_an_instance_that_cannot_be_adopted_is_replaced(harness: Harness, change: Any) -> None:
    """An unhealthy one, or one that nothing is known of: a new instance, no trace of the old."""
    harness.add("reader")
    await harness.open()
    before = await harness.settled("reader")
    await harness.shut(containers_stay=True)
    await change(harness)
    await harness.open()
    after = await harness.settled("reader")
    assert (after["state"], after["reason"]) == ("INITIALIZED", None)
    assert after["container"]["id"] != before["container"]["id"]
    assert len(await harness.containers("reader")) == 1
    assert [folder.name for folder in _folders(harness)] == [harness.instance("reader").folder.name]


async def test_a_plugin_whose_folder_was_removed_leaves_no_container(harness: Harness) -> None:
    """No supervisor would own it."""
    harness.add("reader")
    harness.add("writer")
    await harness.open()
    await harness.settled("reader")
    await harness.settled("writer")
    await harness.shut(containers_stay=True)
    (harness.plugins / "reader" / "plugin.yaml").unlink()
    await harness.open()
    await harness.settled("writer")
    assert await harness.containers("reader") == []
    assert len(await harness.containers("writer")) == 1


async def test_an_instance_that_had_ended_is_not_revived(harness: Harness) -> None:
    """The orchestrator died between its verdict and the removal: the container still looks healthy."""
    harness.add("reader", tools={"read": _raise})
    await harness.open()
    await harness.settled("reader")
    harness.engine.refuse = {"stop": "busy", "kill": "busy", "remove": "busy"}
    await harness.run("reader", "read")
    await harness.until("reader", lambda health: health["post_mortem"] is not None)
    left = await harness.containers("reader")
    await harness.shut(containers_stay=True)
    harness.engine.refuse = {}
    await harness.open()
    after = await harness.settled("reader")
    assert after["state"] == "INITIALIZED"
    assert left[0] not in await harness.containers("reader")


async def test_half_made_containers_of_a_crash_are_removed(harness: Harness) -> None:
    """A container that was created and never started, an exited one, socket folders; not those of others."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    real = harness.instance("reader").spec
    await harness.shut(containers_stay=True)
    labels = {**real.labels, "plugin-orchestrator.instance": "deadbeef"}
    made = await harness.engine.create(ContainerSpec("half-made", "harness/reader", labels, {}, 1 << 26, 64))
    odd = await harness.engine.create(
        ContainerSpec("odd", "harness/reader", {**labels, "plugin-orchestrator.generation": "x"}, {}, 1 << 26, 64)
    )
    others = {**labels, "plugin-orchestrator.deployment": "00000000"}
    stranger = await harness.engine.create(ContainerSpec("stranger", "harness/reader", others, {}, 1 << 26, 64))
    (harness.instance("reader").folder.parent / "deadbeef").mkdir()
    await harness.open()
    there = {container.id for container in await harness.engine.list({})}
    assert made not in there
    assert odd not in there
    assert stranger in there
    assert len(_folders(harness)) == 1


async def test_an_orphan_that_appears_later_is_removed(harness: Harness) -> None:
    """The engine was unreachable at the start; its leftovers are removed when it is back."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    (old,) = await harness.containers("reader")
    await harness.shut(containers_stay=True)
    harness.engine.set_reachable(False)
    await harness.open()
    assert (await harness.settled("reader"))["reason_code"] == "ENGINE_UNREACHABLE"
    harness.engine.set_reachable(True)
    async with asyncio.timeout(5):
        while old in await harness.containers("reader"):
            await asyncio.sleep(0.02)


async def test_leases_are_restored(harness: Harness) -> None:
    """From the container's labels: no other instance is granted its GPU."""
    harness.gpus = FakeGpus(device(0), device(1))
    harness.engine.device_drivers = ("nvidia",)
    harness.add("one", tools={"run": lambda: 1}, requires_gpu=True)
    await harness.open()
    await harness.settled("one")
    granted = json.loads(harness.instance("one").spec.labels["plugin-orchestrator.gpus"])["devices"]
    harness.add("two", requires_gpu=True)
    harness.add("three", requires_gpu=True)
    await reopened(harness)
    await asyncio.gather(harness.settled("two"), harness.settled("three"))
    states = [await harness.health(name) for name in ("one", "two", "three")]
    assert states[0]["state"] == "INITIALIZED"
    assert [gpu["uuid"] for gpu in states[0]["gpus"]] == list(granted)
    assert sorted(state["reason_code"] or "" for state in states[1:]) == ["", "PARKED"]
    answer = (await harness.client.get("/v1/gpus")).json()
    holders = [held["plugin"] for gpu in answer["devices"] for held in gpu["holders"]]
    assert min(holders) == "one"


async def test_a_leftover_that_cannot_be_removed_keeps_its_gpu(harness: Harness) -> None:
    """It may still use it: its successor is GPU_BUSY until the leftover is removed."""
    harness.gpus = FakeGpus(device(0))
    harness.engine.device_drivers = ("nvidia",)
    harness.add("reader", requires_gpu=True)
    await harness.open()
    await harness.settled("reader")
    await harness.shut(containers_stay=True)
    await _not_ready(harness)
    harness.engine.refuse = {"remove": "busy"}
    await harness.open()
    assert (await harness.settled("reader"))["reason_code"] == "GPU_BUSY"
    (quarantine,) = (await harness.client.get("/v1/gpus")).json()["quarantines"]
    assert "could not be removed" in quarantine
    harness.engine.refuse = {}
    harness.engine.break_streams()
    async with asyncio.timeout(5):
        while (await harness.client.get("/v1/gpus")).json()["quarantines"]:
            await asyncio.sleep(0.02)
    again = (await harness.client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()
    assert again["state"] == "INITIALIZED"


def _raise() -> None:
    raise ValueError("broken")


def _folders(harness: Harness) -> list[Any]:
    return list(harness.instance("reader").folder.parent.iterdir())
