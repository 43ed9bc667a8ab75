"""Plugins that need a GPU, through the whole orchestrator: grants, and the reason where there is no GPU."""

from dataclasses import replace
from typing import Any

import pytest
from support.gpus import GIB, FakeGpus, device
from support.harness import Harness, eventually
from support.scripted_tools import GpuLost, GpuOutOfMemory

from orchestrator.gpus import LeaseTable
from orchestrator.gpus.evidence import SmiResult
from orchestrator.gpus.inventory import FaultKind, GpuFault, GpuProcess


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
    """By UUID, never the same; where none may be parked the third is GPU_BUSY, and gets the one that is freed."""
    _add(harness, "first", "second", "third", idle={"keep": True})
    client = await harness.open()
    states = {name: await harness.settled(name) for name in ("first", "second", "third")}
    up = [name for name, health in states.items() if health["state"] == "INITIALIZED"]
    (busy,) = states.keys() - set(up)
    assert states[busy]["reason_code"] == "GPU_BUSY"
    for name in up:
        assert f"held by the plugin {name}" in states[busy]["reason"]
    assert f"Never parked for another (`idle.keep`): {', '.join(sorted(up))}." in states[busy]["reason"]
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
    health = (await client.post("/v1/plugins/tracker/restart", params={"wait": 30}, timeout=40)).json()
    assert health["reason_code"] == "GPU_BUSY", health
    assert "cannot be known" in health["reason"]  # it was waited for longer, since the driver names no processes
    gpus.devices = (device(0),)
    await eventually(lambda: not _leased(harness, device(0).uuid), "the GPU is free again")
    assert (await client.post("/v1/plugins/tracker/restart", params={"wait": 5})).json()["state"] == "INITIALIZED"


async def test_shared_plugins_split_a_gpus_memory(harness: Harness, gpus: FakeGpus) -> None:
    """Each within its budget; one that no longer fits is GPU_BUSY, where none may be parked."""
    gpus.devices = (device(0),)
    for name in ("one", "two", "three"):
        _add(harness, name, gpu={"sharing": "shared", "memory": "6GiB"}, idle={"keep": True})
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


HOOK_IN_MODE_CDI = (
    "OCI runtime create failed: error running prestart hook #0: exit status 1, stdout: , stderr: Using requested mode "
    "'cdi'\ninvoking the NVIDIA Container Runtime Hook directly is not supported. Use the NVIDIA Container Runtime"
)
STALE_SPEC = (
    'runc create failed: error mounting "/usr/lib/x86_64-linux-gnu/libcuda.so.535.161.07" to rootfs: stat: no such '
    "file or directory"
)


async def test_a_hook_that_refuses_leaves_cdi_to_be_tried(harness: Harness, gpus: FakeGpus) -> None:
    """By the names that the engine lists; the way that worked is shown, and is the first of the next start."""
    harness.engine.device_drivers = ("nvidia", "cdi")
    harness.engine.cdi_devices = ("nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all")
    harness.engine.device_refusals = {"nvidia": HOOK_IN_MODE_CDI}
    _add(harness, "first", "second")
    client = await harness.open()
    for name in ("first", "second"):
        await harness.until_state(name, "INITIALIZED")
    grants = [harness.instance(name).spec.devices for name in ("first", "second")]
    assert sorted(grant.device_ids for grant in grants) == [("nvidia.com/gpu=0",), ("nvidia.com/gpu=1",)]
    assert sorted(grant.uuids for grant in grants) == [(device(0).uuid,), (device(1).uuid,)]
    assert len(await harness.containers("first")) == 1
    report = (await client.get("/v1/gpus")).json()
    assert report["engine"]["served_by"] == "cdi"
    assert "mode" in report["engine"]["refused"]["nvidia"]
    starts = harness.engine.calls.count("start")
    await client.post("/v1/plugins/first/restart", params={"wait": 5})
    await harness.until_state("first", "INITIALIZED")
    assert harness.engine.calls.count("start") == starts + 1


async def test_the_way_that_served_outlives_the_orchestrator(harness: Harness, gpus: FakeGpus) -> None:
    """The container says it: it is shown, and is the first of the next start."""
    harness.engine.device_drivers = ("nvidia", "cdi")
    harness.engine.cdi_devices = ("nvidia.com/gpu=0", "nvidia.com/gpu=1")
    harness.engine.device_refusals = {"nvidia": HOOK_IN_MODE_CDI}
    _add(harness, "first")
    await harness.open()
    await harness.until_state("first", "INITIALIZED")
    await harness.shut(containers_stay=True)
    client = await harness.open()
    await harness.until_state("first", "INITIALIZED")
    assert (await client.get("/v1/gpus")).json()["engine"]["served_by"] == "cdi"
    starts = harness.engine.calls.count("start")
    await client.post("/v1/plugins/first/restart", params={"wait": 5})
    await harness.until_state("first", "INITIALIZED")
    assert harness.engine.calls.count("start") == starts + 1


async def test_a_hook_that_refuses_and_no_cdi_leave_the_runtime(harness: Harness, gpus: FakeGpus) -> None:
    """The runtime `nvidia` takes UUIDs."""
    harness.engine.device_refusals = {"nvidia": HOOK_IN_MODE_CDI}
    _add(harness, "tracker")
    await harness.open()
    assert (await harness.settled("tracker"))["state"] == "INITIALIZED"
    grant = harness.instance("tracker").spec.devices
    assert (grant.driver, grant.device_ids) == ("runtime", (device(0).uuid,))
    assert (await harness.run("tracker", "run")).status_code == 200


async def test_where_every_way_is_refused_the_most_telling_refusal_is_the_reason(
    harness: Harness, gpus: FakeGpus
) -> None:
    """UNAVAILABLE, never FAILED; nothing is left behind."""
    harness.engine.device_drivers = ("cdi",)
    harness.engine.device_refusals = {"cdi": STALE_SPEC}
    _add(harness, "tracker")
    client = await harness.open()
    health = await harness.until_removed("tracker")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "GPU_RUNTIME_MISSING"), health
    assert "nvidia-ctk cdi generate" in health["reason"]
    assert await harness.containers("tracker") == []
    assert {gpu["state"] for gpu in (await client.get("/v1/gpus")).json()["devices"]} <= {"free", "draining"}


async def test_a_broken_driver_is_not_tried_in_other_ways(harness: Harness, gpus: FakeGpus) -> None:
    """It would be the same driver."""
    harness.engine.device_drivers = ("nvidia", "cdi")
    harness.engine.device_refusals = {
        "nvidia": "nvidia-container-cli: initialization error: driver rpc error: timed out"
    }
    _add(harness, "tracker")
    await harness.open()
    health = await harness.settled("tracker")
    assert (health["reason_code"], "persistence mode" in health["reason"]) == ("GPU_DRIVER_ERROR", True), health
    assert harness.engine.calls.count("start") == 1


async def test_cdi_names_that_do_not_tell_the_gpus_apart_are_not_used(harness: Harness, gpus: FakeGpus) -> None:
    """`all` would be two GPUs for a lease of one."""
    harness.settings = harness.settings.model_copy(update={"gpu_driver": "cdi"})
    harness.engine.device_drivers, harness.engine.cdi_devices = ("cdi",), ("nvidia.com/gpu=all",)
    _add(harness, "tracker")
    await harness.open()
    health = await harness.settled("tracker")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "GPU_RUNTIME_MISSING")
    assert "--device-name-strategy=uuid" in health["reason"]


async def test_words_about_gpus_mean_nothing_for_a_plugin_without_one(harness: Harness, gpus: FakeGpus) -> None:
    """Its own start was refused, for whatever reason."""
    harness.engine.refuse["start"] = HOOK_IN_MODE_CDI
    harness.add("plain", tools={"run": lambda: 1})
    await harness.open()
    health = await harness.settled("plain")
    assert (health["state"], health["reason_code"]) == ("FAILED", "INIT_ERROR")


async def test_a_refusal_that_is_not_about_gpus_is_none_for_a_gpu_plugin_either(
    harness: Harness, gpus: FakeGpus
) -> None:
    harness.engine.refuse["create"] = "no space left on device"
    _add(harness, "tracker")
    await harness.open()
    health = await harness.settled("tracker")
    assert (health["state"], health["reason_code"]) == ("FAILED", "INIT_ERROR")


@pytest.mark.parametrize("policy", ["strict", "tolerant"])
async def test_a_tool_that_failed_for_a_lost_gpu_ends_its_plugin_under_either_policy(
    harness: Harness, gpus: FakeGpus, policy: str
) -> None:
    """UNAVAILABLE, with what the runtime found in the container: the plugin is not at fault."""
    lost = (
        "the container lost its permission for /dev/nvidia0; restart the plugin (run raised RuntimeError: CUDA error)"
    )

    def lose() -> None:
        raise GpuLost(lost)

    harness.add("tracker", tools={"run": lose}, requires_gpu=True, failure_policy=policy)
    await harness.open()
    await harness.until_state("tracker", "INITIALIZED")
    answer = (await harness.run("tracker", "run")).json()
    assert (answer["reason_code"], answer["error"]) == ("GPU_LOST", lost)
    health = await harness.until_state("tracker", "UNAVAILABLE")
    assert (health["reason_code"], health["reason"]) == ("GPU_LOST", lost)


async def test_only_plugins_with_gpus_are_in_the_groups_of_their_nodes(harness: Harness, gpus: FakeGpus) -> None:
    """Those of the settings, where the host's nodes need none."""
    harness.settings = harness.settings.model_copy(update={"gpu_groups": (44, 109)})
    _add(harness, "tracker")
    harness.add("plain", tools={"run": lambda: 1})
    await harness.open()
    for name in ("tracker", "plain"):
        await harness.until_state(name, "INITIALIZED")
    assert set(harness.instance("tracker").spec.devices.groups) >= {44, 109}
    assert harness.instance("plain").spec.devices is None


# GPUs as they really are


async def _process(harness: Harness, name: str) -> int:
    """The number of a plugin's process, as the engine's host counts."""
    running = [await harness.engine.processes(container) for container in await harness.containers(name)]
    (number,) = frozenset().union(*running)
    return number


def _used(processes: dict[int, int], *, more: int = 0) -> Any:
    listed = tuple(GpuProcess(pid, memory) for pid, memory in processes.items())
    return replace(device(0), memory_used=sum(processes.values()) + more, processes=listed)


async def test_a_sick_gpu_is_shown_and_kept_out_and_the_plugin_on_the_healthy_one_goes_on(
    harness: Harness, gpus: FakeGpus
) -> None:
    """NVML names it and nvidia-smi fails: the others are granted, and it is in the list with the driver's words."""
    gpus.devices = (device(0),)
    gpus.unidentified = {1: GpuFault(FaultKind.UNKNOWN, "Unknown Error", 999)}
    gpus.smi = SmiResult("fails", "Unable to determine the device handle for GPU 0000:66:00.0: Unknown Error")
    _add(harness, "tracker")
    _add(harness, "pair", gpu={"count": 2})
    client = await harness.open()
    await harness.until_state("tracker", "INITIALIZED")
    health = await harness.until_state("pair", "UNAVAILABLE")
    assert (health["reason_code"], "GPU 1" in health["reason"]) == ("GPU_DRIVER_ERROR", True), health
    report = (await client.get("/v1/gpus")).json()
    assert report["reason"] is None
    (sick,) = [gpu for gpu in report["devices"] if not gpu["healthy"]]
    assert (sick["index"], sick["uuid"], sick["state"], sick["holders"]) == (1, None, "unusable", [])
    assert "Unknown Error" in sick["fault"]
    assert 'gpu_healthy{gpu="",index="1"} 0.0' in (await client.get("/metrics")).text
    assert (await harness.run("tracker", "run")).status_code == 200


async def test_one_look_that_failed_ends_no_plugin_and_health_says_so(harness: Harness, gpus: FakeGpus) -> None:
    """A transient error of the driver: a failed check meanwhile, and the plugin goes on."""
    gpus.devices = (device(0),)
    _add(harness, "tracker")
    await harness.open()
    await harness.until_state("tracker", "INITIALIZED")
    gpus.devices, gpus.unidentified = (), {0: GpuFault(FaultKind.UNKNOWN, "Timeout", 10)}

    def doubted(health: Any) -> bool:
        return any(c["name"].startswith("gpu.driver") and not c["ok"] for c in health["checks"])

    health = await harness.until("tracker", doubted)
    (check,) = [check for check in health["checks"] if check["name"].startswith("gpu.driver")]
    assert "Timeout" in check["detail"]
    assert health["gpus"][0]["uuid"] == device(0).uuid
    gpus.devices, gpus.unidentified = (device(0),), {}
    health = await harness.until("tracker", lambda health: not doubted(health))
    assert health["state"] == "INITIALIZED"


async def test_memory_that_another_program_took_is_no_reason_for_gpu_busy(harness: Harness, gpus: FakeGpus) -> None:
    """The driver names the processes, and the engine which are the container's."""
    gpus.devices = (_used({}),)
    _add(harness, "tracker")
    client = await harness.open()
    await harness.until_state("tracker", "INITIALIZED")
    gpus.devices = (_used({await _process(harness, "tracker"): 2 * GIB, 4711: 6 * GIB}),)
    await harness.until("tracker", lambda health: health["gpus"][0].get("used_by_plugin_bytes") == 2 * GIB)
    report = (await client.get("/v1/gpus")).json()["devices"][0]
    assert report["used_by_plugins_bytes"] == {"tracker": 2 * GIB}
    gpus.devices = (_used({4711: 6 * GIB}),)
    health = (await client.post("/v1/plugins/tracker/restart", params={"wait": 30})).json()
    assert health["state"] == "INITIALIZED", health


async def test_a_plugin_over_its_budget_has_a_failed_check_and_is_named(harness: Harness, gpus: FakeGpus) -> None:
    """Its neighbour's out-of-memory would be its doing."""
    gpus.devices = (_used({}),)
    for name in ("hungry", "modest"):
        _add(harness, name, gpu={"sharing": "shared", "memory": "4GiB"})
    await harness.open()
    for name in ("hungry", "modest"):
        await harness.until_state(name, "INITIALIZED")
    gpus.devices = (_used({await _process(harness, "hungry"): 9 * GIB, await _process(harness, "modest"): GIB}),)

    def over(health: Any) -> bool:
        return any(c["name"].startswith("gpu.memory") and not c["ok"] for c in health["checks"])

    health = await harness.until("hungry", over)
    (check,) = [check for check in health["checks"] if check["name"].startswith("gpu.memory")]
    assert ("9.0 GiB" in check["detail"], "4.0 GiB" in check["detail"]) == (True, True)
    assert not over(await harness.health("modest"))
    assert harness.app is not None
    allocator = harness.app.state.context.fleet._deps.gpus
    (grant,) = [
        grant
        for claim in allocator._leases.claims
        if claim.plugin == "modest" and (grant := allocator._leases.grant_of(claim.holder))
    ]
    assert "Have hungry use less" in allocator.blame(grant)


async def test_out_of_memory_names_the_neighbour_over_its_budget(harness: Harness, gpus: FakeGpus) -> None:
    """With what both declare and hold; the neighbour goes on."""

    def run() -> None:
        raise GpuOutOfMemory("CUDA out of memory. Tried to allocate 5.00 GiB")

    gpus.devices = (_used({}),)
    for name in ("hungry", "modest"):
        manifest = {"requires_gpu": True, "gpu": {"sharing": "shared", "memory": "4GiB"}}
        harness.add(name, tools={"run": run, "well": lambda: 1}, **manifest)
    await harness.open()
    for name in ("hungry", "modest"):
        await harness.until_state(name, "INITIALIZED")
    gpus.devices = (_used({await _process(harness, "hungry"): 9 * GIB, await _process(harness, "modest"): GIB}),)
    await harness.until(
        "hungry", lambda h: any(c["name"].startswith("gpu.memory") and not c["ok"] for c in h["checks"])
    )
    assert (await harness.run("modest", "run")).json()["reason_code"] == "GPU_OUT_OF_MEMORY"
    reason = (await harness.until_removed("modest"))["reason"]
    for phrase in (
        "it held 1.0 GiB and declares 4.0 GiB",
        "hungry on the same GPU held 9.0 GiB",
        "Have hungry use less",
    ):
        assert phrase in reason
    assert (await harness.run("hungry", "well")).status_code == 200


async def test_while_the_driver_is_waited_for_health_says_so_and_others_start(harness: Harness, gpus: FakeGpus) -> None:
    """A driver without persistence mode may take half a minute: the start waits, and the reason has the remedy."""
    gpus.answer.clear()
    _add(harness, "tracker")
    harness.add("other", tools={"run": lambda: 1})
    client = await harness.open()
    await harness.until_state("other", "INITIALIZED")
    health = await harness.until("tracker", lambda health: health["activity"] is not None)
    assert "waiting for the NVIDIA driver" in health["activity"]["what"]
    assert "nvidia-smi -pm 1" in health["activity"]["what"]
    assert "waited" in (await client.get("/v1/gpus")).json()["reason"]
    gpus.answer.set()
    health = await harness.until_state("tracker", "INITIALIZED")
    assert health["activity"] is None
