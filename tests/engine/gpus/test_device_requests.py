"""Real device requests to a real Docker Engine, with a stand-in for NVIDIA's hook on its PATH: which devices arrive."""

import pytest
from simulated_nvidia.dockerd import own_dockerd
from simulated_nvidia.host import SimulatedGpu, SimulatedHost, SimulatedMigInstance, SimulatedState
from unit.gpus.containers import CU_INIT, IMAGE, requesting, run

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.errors import DeviceRequestError, EngineRefusedError
from orchestrator.gpus.claims import GpuDemand
from orchestrator.gpus.leases import LeaseTable

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
]

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"
GPUS = (
    SimulatedGpu(A),
    SimulatedGpu(B, mig_enabled=True, mig_instances=(SimulatedMigInstance("MIG-1"), SimulatedMigInstance("MIG-2"))),
)


@pytest.fixture(scope="module")
def host(tmp_path_factory, nvidia_libraries):
    host = SimulatedHost(tmp_path_factory.mktemp("host") / "nvidia", libraries=nvidia_libraries)
    host.set(SimulatedState(gpus=GPUS))
    return host


@pytest.fixture(scope="module")
def with_toolkit(host):
    with own_dockerd(path=host.install_toolkit()) as dockerd:
        dockerd.load_image(IMAGE)
        yield dockerd


@pytest.fixture(scope="module")
def without_toolkit():
    with own_dockerd() as dockerd:
        dockerd.load_image(IMAGE)
        yield dockerd


@pytest.fixture
async def engine(with_toolkit):
    engine = DockerEngine.from_environment(with_toolkit.environment)
    yield engine
    await engine.close()


async def test_only_the_requested_devices_arrive_in_the_container(host, engine):
    code, printed = await run(engine, requesting([B, A], "sh", "-c", "nvidia-smi -L; echo $NVIDIA_VISIBLE_DEVICES"))
    assert code == 0
    assert host.hook_calls()[-1]["visible_devices"] == f"{B},{A}"
    assert {A in printed, B in printed} == {True}
    code, printed = await run(engine, requesting([B], "sh", "-c", "nvidia-smi -L; env"))
    assert B in printed
    assert A not in printed
    assert f"NVIDIA_VISIBLE_DEVICES={B}" in printed


async def test_a_mig_instance_is_requested_by_its_own_uuid(host, engine):
    code, printed = await run(engine, requesting(["MIG-2"], "nvidia-smi", "-L"))
    assert code == 0
    assert ("MIG-2" in printed, "MIG-1" in printed, A in printed) == (True, False, False)


async def test_capabilities_are_compute_and_utility_and_video_on_request(host, engine):
    await run(engine, requesting([A]))
    assert set(host.hook_calls()[-1]["capabilities"].split(",")) == {"compute", "utility"}
    await run(engine, requesting([A], video=True))
    assert set(host.hook_calls()[-1]["capabilities"].split(",")) == {"compute", "utility", "video"}


async def test_cuda_can_be_loaded_in_a_hardened_container(engine):
    assert await run(engine, requesting([A], "python3", "-c", CU_INIT)) == (0, "cuInit 0")


async def test_cuda_that_does_not_start_in_the_container_reports_its_error_number(host, engine):
    host.set(SimulatedState(gpus=GPUS, cuinit=803))
    try:
        assert await run(engine, requesting([A], "python3", "-c", CU_INIT)) == (0, "cuInit 803")
    finally:
        host.set(SimulatedState(gpus=GPUS))


async def test_three_exclusive_plugins_on_two_gpus_run_on_different_ones_and_the_third_gets_the_freed_one(host, engine):
    host.set(SimulatedState(gpus=(SimulatedGpu(A), SimulatedGpu(B))))
    gpu_host, leases = host.gpu_host(bound=20.0), LeaseTable()
    leases.observe(await gpu_host.check(), 0.0)
    seen = []
    for holder in ("i1", "i2"):
        grant = leases.grant(holder, holder, GpuDemand())
        _, printed = await run(engine, requesting(grant.uuids, "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES"))
        seen.append(printed)
    assert seen == [A, B]
    assert leases.grant("i3", "i3", GpuDemand()).code == "GPU_BUSY"
    released = (await gpu_host.read()).probe_started
    leases.release("i1", released)
    leases.observe(await gpu_host.read(), released + 1)
    assert leases.grant("i3", "i3", GpuDemand()).uuids == (A,)
    host.set(SimulatedState(gpus=GPUS))


async def test_a_device_that_the_host_does_not_have_fails_the_start(engine):
    container = await engine.create(requesting(["GPU-unknown"]))
    with pytest.raises((DeviceRequestError, EngineRefusedError), match="unknown device"):
        await engine.start(container)
    await engine.remove(container)
    assert container not in [status.id for status in await engine.list({"test": "gpu"})]


async def test_an_engine_without_the_toolkit_refuses_at_the_start_and_nothing_is_left_behind(without_toolkit):
    engine = DockerEngine.from_environment(without_toolkit.environment)
    try:
        container = await engine.create(requesting([A]))
        with pytest.raises(DeviceRequestError, match="could not select device driver"):
            await engine.start(container)
        assert (await engine.inspect(container)).state == "created"
        await engine.remove(container)
        assert await engine.list({"test": "gpu"}) == []
    finally:
        await engine.close()
