"""Plugins that need a GPU, through the whole orchestrator: grants, and the reason where there is no GPU."""

from dataclasses import replace
from typing import Any

import pytest
from support.gpus import GIB, FakeGpus, device
from support.harness import Harness, eventually

from orchestrator.gpus import LeaseTable
from orchestrator.gpus.inventory import FaultKind, GpuFault


@pytest.fixture
def gpus(harness: Harness) -> FakeGpus:
    """Two GPUs, and an engine that can hand them out."""
    harness.gpus = FakeGpus(device(0), device(1))
    harness.engine.device_drivers = ("nvidia",)
    return harness.gpus


def _add(harness: Harness, *names: str, **manifest: Any) -> None:
    for name in names:
        harness.add(name, tools={"run": lambda: 1}, requires_gpu=True, **manifest)


def _devices(harness: Harness, name: str) -> tuple[str, ...]:
    grant = harness.instance(name).spec.devices
    assert grant is not None
    return grant.device_ids


@pytest.mark.parametrize(
    ("fault", "code", "phrase"),
    [
        (None, "GPU_NOT_FOUND", "restart"),
        (GpuFault(FaultKind.DRIVER_NOT_LOADED), "GPU_DRIVER_ERROR", "modprobe"),
        (GpuFault(FaultKind.VERSION_MISMATCH), "GPU_DRIVER_ERROR", "upgrade is half done"),
        (GpuFault(FaultKind.HANG), "GPU_DRIVER_ERROR", "hangs"),
        (GpuFault(FaultKind.UNKNOWN, "Unknown Error", 999), "GPU_DRIVER_ERROR", "Unknown Error"),
    ],
    ids=lambda value: str(value.kind) if isinstance(value, GpuFault) else str(value),
)
async def test_each_reason_for_no_usable_gpu_has_its_code(
    harness: Harness, fault: GpuFault | None, code: str, phrase: str
) -> None:
    """UNAVAILABLE with its own code and a sentence; nothing is built, nothing started, others run."""
    harness.gpus = FakeGpus(device(0), fault=fault) if fault else FakeGpus()
    _add(harness, "tracker")
    harness.add("other", tools={"run": lambda: 1})
    await harness.open()
    health = await harness.until_state("tracker", "UNAVAILABLE")
    assert (health["reason_code"], phrase in health["reason"]) == (code, True), health
    assert not [build.tag for build in harness.engine.image_store.builds if "tracker" in build.tag]
    await harness.until_state("other", "INITIALIZED")
    assert (await harness.run("other", "run")).status_code == 200


async def test_an_engine_without_the_container_toolkit_is_named(harness: Harness, gpus: FakeGpus) -> None:
    """The driver is fine, the engine refuses: GPU_RUNTIME_MISSING; no container and no lease are left behind."""
    harness.engine.device_drivers = ()
    _add(harness, "tracker")
    client = await harness.open()
    health = await harness.until_removed("tracker")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "GPU_RUNTIME_MISSING")
    assert "toolkit" in health["reason"]
    assert await harness.containers("tracker") == []
    assert {gpu["state"] for gpu in (await client.get("/v1/gpus")).json()["devices"]} <= {"free", "draining"}


async def test_two_exclusive_plugins_get_two_gpus_and_a_third_none(harness: Harness, gpus: FakeGpus) -> None:
    """By UUID, never the same; the third is GPU_BUSY and gets the one that is freed."""
    _add(harness, "first", "second", "third")
    client = await harness.open()
    states = {name: await harness.settled(name) for name in ("first", "second", "third")}
    up = [name for name, health in states.items() if health["state"] == "INITIALIZED"]
    (busy,) = states.keys() - set(up)
    assert states[busy]["reason_code"] == "GPU_BUSY"
    assert {_devices(harness, name) for name in up} == {(device(0).uuid,), (device(1).uuid,)}
    assert [gpu["uuid"] for gpu in (await harness.health(up[0]))["gpus"]] == list(_devices(harness, up[0]))

    freed = _devices(harness, up[0])
    await client.post(f"/v1/plugins/{up[0]}/stop")
    await eventually(lambda: not _leased(harness, freed[0]), "the GPU is free again")
    health = (await client.post(f"/v1/plugins/{busy}/start", params={"wait": 5})).json()
    assert health["state"] == "INITIALIZED", health
    assert _devices(harness, busy) == freed


@pytest.mark.slow
async def test_a_gpu_whose_memory_is_not_freed_is_granted_to_nobody(harness: Harness, gpus: FakeGpus) -> None:
    """While something still uses its memory the next plugin is GPU_BUSY."""
    gpus.devices = (device(0),)
    _add(harness, "tracker")
    client = await harness.open()
    await harness.until_state("tracker", "INITIALIZED")
    gpus.devices = (replace(device(0), memory_used=8 * GIB),)
    health = (await client.post("/v1/plugins/tracker/restart", params={"wait": 5})).json()
    assert health["reason_code"] == "GPU_BUSY", health
    gpus.devices = (device(0),)
    await eventually(lambda: not _leased(harness, device(0).uuid), "the GPU is free again")
    assert (await client.post("/v1/plugins/tracker/restart", params={"wait": 5})).json()["state"] == "INITIALIZED"


async def test_shared_plugins_split_a_gpus_memory(harness: Harness, gpus: FakeGpus) -> None:
    """Each within its budget; one that no longer fits is GPU_BUSY."""
    gpus.devices = (device(0),)
    for name in ("one", "two", "three"):
        _add(harness, name, gpu={"sharing": "shared", "memory": "6GiB"})
    await harness.open()
    codes = [(await harness.settled(name))["reason_code"] for name in ("one", "two", "three")]
    assert sorted(codes, key=str) == ["GPU_BUSY", None, None]


async def test_a_gpu_that_is_lost_ends_its_plugin_and_no_other(harness: Harness, gpus: FakeGpus) -> None:
    """UNAVAILABLE with GPU_LOST, found within two probes; the other GPU's plugin runs on."""
    _add(harness, "first", "second")
    await harness.open()
    for name in ("first", "second"):
        await harness.until_state(name, "INITIALIZED")
    lost, other = ("first", "second") if _devices(harness, "first") == (device(0).uuid,) else ("second", "first")
    gpus.devices = (replace(device(0), fault=GpuFault(FaultKind.GPU_LOST, "GPU is lost")), device(1))
    health = await harness.until_state(lost, "UNAVAILABLE")
    assert health["reason_code"] == "GPU_LOST"
    assert (await harness.run(other, "run")).status_code == 200


def _leased(harness: Harness, uuid: str) -> bool:
    assert harness.app is not None
    devices = harness.app.state.context.fleet.gpus()["devices"]
    return any(gpu["uuid"] == uuid and gpu["state"] != "free" for gpu in devices)


async def test_a_shared_gpu_needs_a_budget(harness: Harness) -> None:
    """Without one it could not be shared, and would quietly be exclusive."""
    harness.add("careless", requires_gpu=True, gpu={"sharing": "shared"})
    await harness.open()
    health = await harness.settled("careless")
    assert (health["state"], health["reason_code"]) == ("FAILED", "MANIFEST_INVALID")
    assert "gpu.sharing" in health["reason"]
    assert "memory: 4GiB" in health["reason"]


async def test_an_operator_takes_a_gpu_out_of_quarantine(harness: Harness, gpus: FakeGpus, monkeypatch: Any) -> None:
    """Its plugin's health reports the quarantine; the operator's release frees it, whatever its memory."""
    monkeypatch.setattr(LeaseTable.__init__, "__kwdefaults__", {"drain_seconds": 0.2, "slack": 64 * 1024**2})
    _add(harness, "one")
    await harness.open()
    await harness.settled("one")
    gpus.devices = tuple(replace(each, memory_used=4 * GIB) for each in gpus.devices)
    await harness.client.post("/v1/plugins/one/stop")
    health = await harness.until("one", lambda health: any(c["name"].startswith("gpu GPU-") for c in health["checks"]))
    (check,) = [check for check in health["checks"] if check["name"].startswith("gpu GPU-")]
    assert (check["ok"], "is quarantined" in check["detail"]) == (False, True)
    uuid = check["name"].removeprefix("gpu ")
    assert f"orchestrator gpus --release {uuid}" in check["detail"]
    answer = await harness.client.post(f"/v1/gpus/{uuid}/release")
    assert (answer.status_code, answer.json()["quarantines"]) == (200, [])


async def test_a_gpu_that_is_not_quarantined_cannot_be_released(harness: Harness) -> None:
    """Nor an unknown one."""
    await harness.open()
    answer = await harness.client.post("/v1/gpus/GPU-0/release")
    assert (answer.status_code, answer.json()["error_type"]) == (409, "NotQuarantined")
