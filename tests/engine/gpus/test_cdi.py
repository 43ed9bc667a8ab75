"""Docker 26 and a made-up CDI spec: the same grants reach a container where the engine has CDI and no nvidia driver."""

import platform
from dataclasses import replace

import pytest
from simulated_nvidia.docker26 import docker26
from simulated_nvidia.dockerd import own_dockerd
from simulated_nvidia.host import SimulatedGpu, SimulatedHost
from unit.gpus.containers import CU_INIT, IMAGE, requesting, run

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.spec import DeviceGrant
from orchestrator.errors import DeviceRequestError, EngineError
from orchestrator.gpus.device_requests import EngineGpus
from orchestrator.gpus.refusals import judge_engine, judge_refusal

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
]

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory, nvidia_libraries):
    program, path = docker26()
    folder = tmp_path_factory.mktemp("cdi")
    SimulatedHost(folder / "nvidia", libraries=nvidia_libraries).write_cdi_spec(
        folder / "specs", (SimulatedGpu(A), SimulatedGpu(B))
    )
    settings = {"features": {"cdi": True}, "cdi-spec-dirs": [str(folder / "specs")]}
    with own_dockerd(program=program, path=path, settings=settings) as dockerd:
        dockerd.load_image(IMAGE)
        yield dockerd


@pytest.fixture
async def engine(dockerd):
    engine = DockerEngine.from_environment(dockerd.environment)
    yield engine
    await engine.close()


async def test_an_engine_with_cdi_reports_it_and_gets_cdi_requests(engine):
    info = await engine.info()
    assert info.version.startswith("26.")
    assert info.gpu_drivers == ("cdi",)
    assert info.cdi_devices is None  # it does not list them
    assert judge_engine(EngineGpus(info.gpu_drivers), forced="cdi") is None


async def test_only_the_requested_device_arrives_through_cdi(engine):
    code, printed = await run(engine, requesting([B], "sh", "-c", "nvidia-smi -L; env", drivers=("cdi",)))
    assert code == 0
    assert (B in printed, A in printed) == (True, False)
    assert f"CDI_DEVICE_1={B}" in printed
    code, printed = await run(engine, requesting([A, B], "nvidia-smi", "-L", drivers=("cdi",)))
    assert (code, A in printed, B in printed) == (0, True, True)


async def test_cuda_can_be_loaded_in_a_hardened_container(engine):
    assert await run(engine, requesting([A], "python3", "-c", CU_INIT, drivers=("cdi",))) == (0, "cuInit 0")


async def test_a_device_missing_from_the_spec_is_refused_and_nothing_is_left_behind(engine):
    container = await engine.create(requesting(["GPU-unknown"], drivers=("cdi",)))
    with pytest.raises(DeviceRequestError, match="GPU-unknown"):
        await engine.start(container)
    await engine.remove(container)
    assert container not in [status.id for status in await engine.list({"test": "gpu"})]


LIBCUDA = f"/usr/lib/{platform.machine()}-linux-gnu/libcuda.so.535.161.07"


@pytest.fixture(scope="module")
def with_stale_specs(tmp_path_factory, nvidia_libraries):
    """An engine whose spec names files of the driver before the last upgrade."""
    program, path = docker26()
    folder = tmp_path_factory.mktemp("stale")
    SimulatedHost(folder / "nvidia", libraries=nvidia_libraries).write_cdi_spec(
        folder / "specs", (SimulatedGpu(A),), by_index=True, stale=LIBCUDA
    )
    settings = {"features": {"cdi": True}, "cdi-spec-dirs": [str(folder / "specs")]}
    with own_dockerd(program=program, path=path, settings=settings) as dockerd:
        dockerd.load_image(IMAGE)
        yield dockerd


async def test_what_a_real_engine_says_of_its_specs_is_understood(with_stale_specs):
    """Names that it does not have, and files that are not there."""
    engine = DockerEngine.from_environment(with_stale_specs.environment)
    try:
        for device, phrase in ((A, "--device-name-strategy=uuid"), ("0", "another version of the driver")):
            grant = DeviceGrant("cdi", (f"nvidia.com/gpu={device}",), uuids=(A,))
            container = await engine.create(replace(requesting([A], drivers=("cdi",)), devices=grant))
            with pytest.raises(EngineError) as refused:
                await engine.start(container)
            await engine.remove(container)
            refusal = judge_refusal(str(refused.value))
            assert (refusal.problem.code, refusal.other_way) == ("GPU_RUNTIME_MISSING", True)
            assert phrase in refusal.problem.sentence
            assert "nvidia-ctk cdi generate" in refusal.problem.sentence
    finally:
        await engine.close()


async def test_the_nvidia_driver_is_refused_where_the_engine_has_only_cdi(engine):
    container = await engine.create(requesting([A], drivers=("nvidia",)))
    with pytest.raises(DeviceRequestError):
        await engine.start(container)
    await engine.remove(container)
