"""Plugins lease simulated GPUs as real ones, and lose them as real ones."""

from typing import Any

import pytest


@pytest.fixture
async def client(simulated) -> Any:
    simulated.gpus = "2x24GiB"
    simulated.add(requires_gpu=True)
    return await simulated.open()


async def test_a_plugin_leases_one(simulated, client) -> None:
    """Its container starts without a device, and says what is simulated; so do health and the inventory."""
    health = await simulated.harness.health("detector")
    (gpu,) = health["gpus"]
    assert (health["simulated"], gpu["simulated"], gpu["memory_total_bytes"]) == (True, True, 24 * 1024**3)
    assert [check for check in health["checks"] if check["name"] == "gpu" and "simulated" in check["detail"]]
    inventory = (await client.get("/v1/gpus")).json()
    assert (inventory["simulated"], [device["simulated"] for device in inventory["devices"]]) == (True, [True, True])
    assert [device["state"] for device in inventory["devices"]].count("free") == 1


@pytest.mark.parametrize("code", ["GPU_NOT_FOUND", "GPU_DRIVER_ERROR", "GPU_RUNTIME_MISSING"])
async def test_what_keeps_a_plugin_from_its_gpu(simulated, client, code: str) -> None:
    assert (await simulated.started_anew(code))["reason_code"] == code


async def test_a_gpu_is_lost_while_it_is_idle(simulated, client) -> None:
    number = await simulated.arm("GPU_LOST")
    health = await simulated.harness.until("detector", lambda health: health["reason_code"] == "GPU_LOST", timeout=30)
    assert "Xid 79" in health["reason"]
    await simulated.disarm(number)
    await client.post("/v1/plugins/detector/start")
    assert (
        await simulated.harness.until("detector", lambda health: health["gpus"] and health["state"] == "INITIALIZED")
    )["gpus"]


async def test_a_gpu_is_lost_in_a_call(simulated, client) -> None:
    """After the calls that were let pass; from then on the driver reports it as lost, too."""
    await simulated.arm("GPU_LOST", after=1)
    assert (await simulated.harness.run("detector", "detect")).status_code == 200
    answer = await simulated.harness.run("detector", "detect")
    assert answer.json()["reason_code"] == "GPU_LOST"
    await simulated.harness.until("detector", lambda health: health["reason_code"] == "GPU_LOST")
    assert (await client.get("/testing")).json()["faults"]


async def test_all_gpus_are_held_by_another(simulated, client) -> None:
    """By a plugin that is removed with the fault."""
    harness = simulated.harness
    await client.post("/v1/plugins/detector/stop")
    number = await simulated.arm("GPU_BUSY")
    harness.runtimes["gpu-holder"] = harness.runtimes["detector"]
    await client.post("/v1/plugins/gpu-holder/start")
    await harness.until("gpu-holder", lambda health: health["replicas"]["ready"] == 2)
    await client.post("/v1/plugins/detector/start")
    health = await harness.until("detector", lambda health: health["reason_code"] not in (None, "STOPPED"), timeout=20)
    assert (health["reason_code"], "gpu-holder" in health["reason"]) == ("GPU_BUSY", True)
    await client.post("/v1/plugins/gpu-holder/stop")
    await simulated.disarm(number)
    assert not (harness.plugins / "gpu-holder").exists()
