"""A host with two GPUs, without any: real dockerd, real device requests, simulated driver."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml
from simulated_nvidia.docker26 import docker26
from simulated_nvidia.dockerd import OwnDockerd, own_dockerd
from simulated_nvidia.host import SimulatedGpu, SimulatedHost, SimulatedState
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_engine,
]

PLUGIN = TESTS / "fixtures" / "gpu_plugins" / "gpu-echo"
A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"
GPUS = (SimulatedGpu(A), SimulatedGpu(B))
NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> SimulatedHost:
    host = SimulatedHost(tmp_path_factory.mktemp("nvidia") / "host")
    host.set(SimulatedState(gpus=GPUS))
    return host


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The plugin's image, built by the machine's main engine: the test's own engine has no network."""
    built = subprocess.run(
        [sys.executable, "-m", "orchestrator", "build", "gpu-echo"],
        env=os.environ
        | {
            "ORCHESTRATOR_PLUGINS_DIRS": str(PLUGIN.parent),
            "ORCHESTRATOR_STATE_DIR": str(tmp_path_factory.mktemp("state")),
            "COLUMNS": "500",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return built.stderr.split()[-1]


@pytest.fixture(scope="module")
def plugins(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three plugins of one image, each requiring a GPU of its own."""
    folder = tmp_path_factory.mktemp("plugins")
    manifest = yaml.safe_load((PLUGIN / "plugin.yaml").read_text())
    for name in NAMES:
        (folder / name).mkdir()
        (folder / name / "plugin.yaml").write_text(yaml.safe_dump(manifest | {"name": name, "image": image}))
    return folder


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """What the engine has: the container toolkit, CDI, or neither. A parameter of every test."""
    return str(request.param)


@pytest.fixture(scope="module")
def orchestrated(kind: str, host: SimulatedHost, image: str, plugins: Path) -> Iterator[LiveOrchestrator]:
    """The orchestrator with an engine of that kind; tests of one kind share it."""
    with _engine(kind, host) as dockerd, pytest.MonkeyPatch.context() as patch:
        dockerd.load_image(image)
        for name, value in (host.environment | dict(dockerd.environment)).items():
            patch.setenv(name, value)
        with live_orchestrator([plugins]) as live:
            live.wait_ready(60)
            yield live


def _engine(kind: str, host: SimulatedHost) -> AbstractContextManager[OwnDockerd]:
    (host.folder / "mode").unlink(missing_ok=True)
    match kind:
        case "cdi" | "cdi by index":
            program, path = docker26()
            specs = host.folder / "specs"
            host.write_cdi_spec(specs, GPUS, by_index=kind == "cdi by index")
            settings = {"features": {"cdi": True}, "cdi-spec-dirs": [str(specs)]}
            return own_dockerd(program=program, path=path, settings=settings)
        case "hook in mode cdi":
            return own_dockerd(path=host.install_toolkit(mode="cdi"), settings=host.runtimes)
    return own_dockerd(path=host.install_toolkit() if kind == "toolkit" else "")


SERVED_BY = {"toolkit": "nvidia", "cdi": "cdi", "cdi by index": "cdi", "hook in mode cdi": "runtime"}


@pytest.mark.parametrize("kind", SERVED_BY, indirect=True)
def test_two_exclusive_plugins_run_on_two_gpus_and_the_third_waits_for_one(
    orchestrated: LiveOrchestrator, kind: str
) -> None:
    """Different UUIDs, seen from inside; the third is parked, since nobody waits for it, and gets the freed one once a
    plugin is stopped. After a kill the next orchestrator resumes the leases. A run makes room.
    """
    live = orchestrated
    states = {name: live.health(name) for name in NAMES}
    up = [name for name in NAMES if states[name]["state"] == "INITIALIZED"]
    assert len(up) == 2, [(health["reason_code"], health["reason"]) for health in states.values()]
    (busy,) = set(NAMES) - set(up)
    assert states[busy]["reason_code"] == "PARKED", states
    inside = {name: live.run(name, "devices").json()["result"] for name in up}
    got = {name: _uuid(seen["nvidia_smi"]) for name, seen in inside.items()}
    assert set(got.values()) == {A, B}

    holders = {
        gpu["uuid"]: [h["plugin"] for h in gpu["holders"]] for gpu in live.client.get("/v1/gpus").json()["devices"]
    }
    assert holders == {got[name]: [name] for name in up}

    assert live.client.get("/v1/gpus").json()["engine"]["served_by"] == SERVED_BY[kind]

    live.client.post(f"/v1/plugins/{up[0]}/stop").raise_for_status()
    started = live.client.post(f"/v1/plugins/{busy}/start", params={"wait": 30}).json()
    assert started["state"] == "INITIALIZED", started
    assert _uuid(live.run(busy, "devices").json()["result"]["nvidia_smi"]) == got[up[0]]

    before = {name: live.health(name) for name in (up[1], busy)}
    live.kill()
    live.start()
    live.wait_until_serving()
    live.wait_ready(60)
    after = {name: live.health(name) for name in before}
    for name, health in after.items():
        assert (health["generation"], health["container"]["id"]) == (
            before[name]["generation"],
            before[name]["container"]["id"],
        )
        assert [gpu["uuid"] for gpu in health["gpus"]] == [gpu["uuid"] for gpu in before[name]["gpus"]]
    assert live.health(up[0])["reason_code"] == "STOPPED"  # and the others still hold their leases

    # An operator's start parks one of them, and a run of that one parks another: the GPU is really free in between.
    started = live.client.post(f"/v1/plugins/{up[0]}/start", params={"wait": 60}).json()
    assert started["state"] == "INITIALIZED", started
    (parked,) = [name for name in before if live.health(name)["reason_code"] == "PARKED"]
    assert up[0] in live.health(parked)["reason"]
    seen = live.run(parked, "devices").json()["result"]
    assert _uuid(seen["nvidia_smi"]) in (A, B)
    assert sorted(live.health(name)["reason_code"] or "" for name in NAMES) == ["", "", "PARKED"]


@pytest.mark.parametrize("kind", ["toolkit"], indirect=True)
def test_a_device_that_the_host_takes_from_a_running_container_is_a_lost_gpu(orchestrated: LiveOrchestrator) -> None:
    """As `systemctl daemon-reload` does; the tool's own words are CUDA's for much else."""
    live = orchestrated
    name = _serving(live)
    pid = _pid(live, name)
    _give_node(pid)
    assert live.run(name, "compute").json()["result"] == "computed"
    _take_nodes(pid)
    assert live.run(name, "compute").status_code != 200
    health = live.wait_for(name, "UNAVAILABLE")
    assert health["reason_code"] == "GPU_LOST", health
    for phrase in ("/dev/nvidia0", "systemctl daemon-reload", "restart the plugin", "CUDA error: unknown error"):
        assert phrase in health["reason"]


@pytest.mark.parametrize("kind", ["toolkit"], indirect=True)
def test_the_same_words_of_a_tool_whose_gpu_is_there_are_its_own_error(orchestrated: LiveOrchestrator) -> None:
    """The node was never there, so nothing was lost."""
    live = orchestrated
    name = _serving(live)
    assert live.run(name, "compute").status_code != 200
    health = live.wait_for(name, "FAILED")
    assert (health["reason_code"], "CUDA error: unknown error" in health["reason"]) == ("TOOL_ERROR", True), health


def _serving(live: LiveOrchestrator) -> str:
    """One that serves."""
    return next(name for name in NAMES if live.health(name)["state"] in ("INITIALIZED", "RUNNING"))


def _pid(live: LiveOrchestrator, name: str) -> str:
    container = live.health(name)["container"]["id"]
    command = ["docker", "inspect", "--format", "{{.State.Pid}}", container]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _give_node(pid: str) -> None:
    """A device node of the GPU: /dev/full by another name, since every container may open that."""
    for command in (["touch", "/dev/nvidia0"], ["mount", "--bind", "/dev/full", "/dev/nvidia0"]):
        subprocess.run(["nsenter", "--target", pid, "--mount", *command], check=True)


def _take_nodes(pid: str) -> None:
    """Rewrite the device rules of the container's cgroup without those of its GPU."""
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    if "devices" not in groups:
        pytest.skip("the device rules of cgroup v2 are programs of the kernel")
    (Path("/sys/fs/cgroup/devices") / groups["devices"].lstrip("/") / "devices.deny").write_text("c 1:7 rwm")


def _uuid(listed: str) -> str:
    """The one GPU that nvidia-smi lists."""
    (line,) = listed.splitlines()
    return re.search(r"UUID: ([^)]+)", line)[1]


@pytest.mark.parametrize("kind", ["no toolkit"], indirect=True)
def test_an_engine_without_the_toolkit_leaves_nothing_behind(orchestrated: LiveOrchestrator) -> None:
    """Every plugin is UNAVAILABLE with GPU_RUNTIME_MISSING; no `created` container and no lease remain."""
    live = orchestrated
    for name in NAMES:
        health = live.wait_for(name, "UNAVAILABLE")
        assert health["reason_code"] in ("GPU_RUNTIME_MISSING", "PARKED"), health
    assert any(live.health(name)["reason_code"] == "GPU_RUNTIME_MISSING" for name in NAMES)
    end = time.monotonic() + 20
    while live.containers() or "held" in _lease_states(live):
        assert time.monotonic() < end, _lease_states(live)
        time.sleep(0.1)


def _lease_states(live: LiveOrchestrator) -> set[str]:
    return {gpu["state"] for gpu in live.client.get("/v1/gpus").json()["devices"]}
