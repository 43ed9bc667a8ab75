"""An engine whose default runtime is NVIDIA's, and one whose hook refuses it: who gets GPUs, and how."""

from dataclasses import replace

import pytest
from simulated_nvidia.dockerd import own_dockerd
from simulated_nvidia.host import SimulatedGpu, SimulatedHost, SimulatedState
from support.checkout import PROJECT
from unit.gpus.containers import CU_INIT, IMAGE, requesting, run

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.spec import DeviceGrant, Installation
from orchestrator.errors import DeviceRequestError
from orchestrator.gpus.refusals import judge_refusal

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
]

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"
GREEDY = "gpu-test/greedy:1"
LOOK = ("sh", "-c", "ls /usr/bin/nvidia-smi; echo $NVIDIA_VISIBLE_DEVICES")


@pytest.fixture(scope="module")
def host(tmp_path_factory, nvidia_libraries):
    host = SimulatedHost(tmp_path_factory.mktemp("host") / "nvidia", libraries=nvidia_libraries)
    host.set(SimulatedState(gpus=(SimulatedGpu(A), SimulatedGpu(B))))
    return host


@pytest.fixture(scope="module")
def dockerd(host):
    """Its default runtime is NVIDIA's; it has an image that demands all GPUs, as NVIDIA's own do; the hook refuses."""
    path = host.install_toolkit(mode="cdi")
    with own_dockerd(path=path, settings={**host.runtimes, "default-runtime": "nvidia"}) as dockerd:
        dockerd.load_image(IMAGE)
        made = dockerd.docker("create", IMAGE).strip()
        change = [
            "--change",
            "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            "--change",
            'ENTRYPOINT ["/usr/bin/env"]',
        ]
        dockerd.docker("commit", *change, made, GREEDY)
        dockerd.docker("rm", made)
        yield dockerd


@pytest.fixture(scope="module")
def with_runtime(host):
    """Its default runtime is runc, and it knows NVIDIA's; the hook refuses."""
    with own_dockerd(path=host.install_toolkit(mode="cdi"), settings=host.runtimes) as dockerd:
        dockerd.load_image(IMAGE)
        yield dockerd


@pytest.fixture
async def plain_engine(with_runtime):
    engine = DockerEngine.from_environment(with_runtime.environment)
    yield engine
    await engine.close()


@pytest.fixture
async def engine(dockerd):
    engine = DockerEngine.from_environment(dockerd.environment)
    yield engine
    await engine.close()


def test_without_the_orchestrator_the_image_gets_all_gpus(host, dockerd):
    """What the next tests are about."""
    printed = dockerd.docker("run", "--rm", "--network=none", GREEDY, "nvidia-smi", "-L")
    assert (A in printed, B in printed) == (True, True)
    assert host.runtime_calls()[-1]["visible_devices"] == "all"


async def test_a_container_without_a_grant_gets_none_whatever_its_image_demands(host, engine):
    _, printed = await run(engine, replace(requesting([A], *LOOK), image=GREEDY, devices=None))
    assert "No such file" in printed
    assert host.runtime_calls()[-1]["visible_devices"] == "void"


def test_the_steps_of_a_build_get_none_either(host, dockerd, tmp_path):
    """As the base image begins; on a Python image that demands all."""
    dockerfile = (PROJECT / "plugin-images/base/Dockerfile").read_text()
    head = dockerfile.partition("COPY ")[0].replace("${PYTHON_IMAGE}", GREEDY)
    (tmp_path / "Dockerfile").write_text(f"{head}\nRUN ! test -e /usr/bin/nvidia-smi\n")
    dockerd.docker("build", "--network=none", "--quiet", str(tmp_path))
    assert host.runtime_calls()[-1]["visible_devices"] == "void"


async def test_an_installation_gets_none_either(host, engine, tmp_path):
    (tmp_path / "files").mkdir()
    lines = []
    installation = Installation(
        tag="gpu-test/installed:1",
        base=GREEDY,
        files=tmp_path / "files",
        script="! test -e /usr/bin/nvidia-smi",
        labels={},
        volume="gpu-test-downloads",
        volume_path="/downloads",
        owner_labels={"test": "gpu"},
    )
    await engine.install(installation, lines.append)
    assert host.runtime_calls()[-1]["visible_devices"] == "void"


async def test_the_hook_in_mode_cdi_is_understood_and_the_runtime_serves_the_same_gpu(host, plain_engine):
    spec = requesting([B], "sh", "-c", "nvidia-smi -L; echo $CUDA_VISIBLE_DEVICES")
    container = await plain_engine.create(spec)
    with pytest.raises(DeviceRequestError) as refused:
        await plain_engine.start(container)
    await plain_engine.remove(container)
    refusal = judge_refusal(str(refused.value))
    assert (refusal.problem.code, refusal.other_way) == ("GPU_RUNTIME_MISSING", True)
    assert "its NVIDIA container toolkit (`cdi` or `csv`)" in refusal.problem.sentence
    grant = DeviceGrant("runtime", (B,), spec.devices.capabilities, (B,))
    code, printed = await run(plain_engine, replace(spec, name=f"{spec.name}-2", devices=grant))
    assert code == 0
    assert (B in printed.splitlines()[0], A in printed) == (True, False)
    assert printed.splitlines()[-1] == B
    calls = host.hook_calls()[-1]
    assert (calls["visible_devices"], set(calls["capabilities"].split(","))) == (B, {"compute", "utility"})


async def test_cuda_starts_in_a_container_of_the_runtime(plain_engine):
    spec = requesting([A], "python3", "-c", CU_INIT)
    grant = DeviceGrant("runtime", (A,), spec.devices.capabilities, (A,))
    assert await run(plain_engine, replace(spec, devices=grant)) == (0, "cuInit 0")


COUNT = (
    "import ctypes; cuda, count = ctypes.CDLL('libcuda.so.1'), ctypes.c_int(); cuda.cuInit(0); "
    "cuda.cuDeviceGetCount(ctypes.byref(count)); print(count.value)"
)


async def test_a_driver_that_shows_all_gpus_leaves_cuda_only_the_granted_ones(plain_engine):
    """WSL2."""
    spec = requesting([A], "sh", "-c", f'nvidia-smi -L | wc -l; python3 -c "{COUNT}"')
    grant = DeviceGrant("runtime", ("all",), spec.devices.capabilities, (A,))
    assert await run(plain_engine, replace(spec, devices=grant)) == (0, "2\n1")


async def test_a_container_is_in_the_groups_of_the_device_nodes(plain_engine):
    spec = requesting([A], "id", "--groups")
    grant = DeviceGrant("runtime", (A,), spec.devices.capabilities, (A,), groups=(44, 109))
    code, printed = await run(plain_engine, replace(spec, devices=grant))
    assert code == 0
    assert {"44", "109"} <= set(printed.split())
