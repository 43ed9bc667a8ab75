"""The escape probe: ten ways out of a plugin's container. Each is refused, and each works once only the restriction
that refuses it is removed.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import docker
import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable

FIXTURES = TESTS / "fixtures" / "plugins"
NOBODY = "65532:65532"
MUCH_MEMORY = 512 * 1024 * 1024
MANY_PROCESSES = 120

STRICT: dict[str, Any] = {
    "user": NOBODY,
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "pids_limit": 64,
    "mem_limit": "128m",
    "memswap_limit": "128m",
    "network_mode": "none",
    "volumes": {},
}
"""A plugin's restrictions; each control removes one."""

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    folder = tmp_path_factory.mktemp("plugins")
    for name in ("echo", "escape-probe"):
        (folder / name).symlink_to(FIXTURES / name)
    with live_orchestrator([folder]) as orchestrator:
        orchestrator.wait_ready(300)
        yield orchestrator


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(live: LiveOrchestrator) -> str:
    return next(c.image.id for c in live.containers() if "escape-probe" in c.name)


@pytest.fixture(scope="module")
def neighbour(engine: docker.DockerClient, image: str) -> Iterator[dict[str, str]]:
    """A container on the engine's bridge that accepts connections on port 9000: its `IPAddress` and the `Gateway`."""
    code = "import socket\ns = socket.create_server(('', 9000))\nwhile True: s.accept()[0].close()"
    container = engine.containers.run(image, ["-c", code], entrypoint="python", detach=True, network_mode="bridge")
    try:
        container.reload()
        # Not from the network's own IPAM settings: they lack the gateway after an engine's first start.
        # The default network is called `bridge` by Docker, `podman` by Podman.
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        yield network
    finally:
        container.remove(force=True, v=True)


@pytest.fixture(scope="module")
def host_port() -> Iterator[int]:
    """A port of this host that accepts connections on every address."""
    with socket.create_server(("", 0)) as server:
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        over.set()
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def aims(live: LiveOrchestrator, neighbour: dict[str, str], host_port: int) -> dict[str, Any]:
    """The target of each attempt."""
    address, gateway = neighbour["IPAddress"], neighbour["Gateway"]
    assert address, "the neighbour has no address on the bridge"
    assert gateway, "the bridge has no gateway"
    instances = live.run_dir / live.deployment
    engine_sockets = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", engine_socket()]
    return {
        "root": {},
        "new privileges": {},
        "capabilities": {},
        "write to root": {},
        "network": {"addresses": [[address, 9000]]},
        "host addresses": {"addresses": [[gateway, host_port], [outward_address(), host_port]]},
        "other plugins' sockets": {"paths": [str(path) for path in instances.glob("*/*.sock")]},
        "engine socket": {"paths": sorted(set(engine_sockets))},
        "fork bomb": {"processes": MANY_PROCESSES, "seconds": 1.0},
        "memory": {"bytes": MUCH_MEMORY},
    }


def engine_socket() -> str:
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


def outward_address() -> str:
    """This host's own address as others see it, found without sending anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_ten_ways_out_are_refused(
    live: LiveOrchestrator, aims: dict[str, Any], reliability: ReliabilityTable, engine: docker.DockerClient
) -> None:
    """Each was tried, none worked; meanwhile and afterwards a neighbour answers."""
    refused = {}
    # Podman's own filter of system calls lets everybody make a user namespace, and no other one is taken by its API.
    podman = "podman" in str(engine.version().get("Components")).lower()
    allowed = ["user namespace"] if podman else []
    for name, aim in aims.items():  # the last of them ends the plugin
        with answering_neighbour(live) as answers:
            envelope = live.run("escape-probe", "attempt", {"name": name, "aims": aim}).json()
        assert answers and set(answers) == {200}, name
        refused[name] = killed_for_memory(envelope) if name == "memory" else all_refused(envelope, allowed)
    reliability.count("escape probe, run inside a plugin: refused", right=sum(refused.values()), of=len(refused))
    assert refused == dict.fromkeys(aims, True)
    assert len(refused) == 10
    assert live.wait_for("escape-probe", "FAILED")["reason_code"] == "OUT_OF_MEMORY"
    assert live.health("echo")["state"] == "RUNNING"


def all_refused(envelope: dict[str, Any], allowed: Sequence[str] = ()) -> bool:
    assert envelope["ok"], envelope
    outcome = envelope["result"]
    assert outcome["exit_code"] == 0, outcome["errors"]
    assert outcome["refused"], "nothing was tried"
    assert set(outcome["worked"]) <= {*allowed}
    return True


def killed_for_memory(envelope: dict[str, Any]) -> bool:
    assert (envelope["ok"], envelope["reason_code"]) == (False, "OUT_OF_MEMORY")
    return True


@contextmanager
def answering_neighbour(live: LiveOrchestrator) -> Iterator[list[int]]:
    answers: list[int] = []
    over = threading.Event()

    def call() -> None:
        while True:
            answers.append(live.run("echo", "echo", {"text": "here"}).status_code)
            if over.wait(0.1):
                return

    calling = threading.Thread(target=call)
    calling.start()
    try:
        yield answers
    finally:
        over.set()
        calling.join()


def test_the_controls_have_a_plugins_restrictions(live: LiveOrchestrator) -> None:
    """Otherwise they would prove something about other containers."""
    container = next(c for c in live.containers() if "-echo-" in c.name)
    host = container.attrs["HostConfig"]
    # Podman names each capability of its default set.
    named = {"SETUID", "SETGID", "SETPCAP", "CHOWN", "DAC_OVERRIDE", "NET_BIND_SERVICE", "SYS_CHROOT"}
    assert host["CapDrop"] == STRICT["cap_drop"] or named <= set(host["CapDrop"])
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == STRICT["security_opt"]
    assert (host["ReadonlyRootfs"], host["NetworkMode"]) == (STRICT["read_only"], STRICT["network_mode"])
    assert container.attrs["Config"]["User"] == STRICT["user"]


LAX: list[tuple[str, dict[str, Any]]] = [
    ("root", {"user": "0:0"}),
    ("new privileges", {"security_opt": []}),
    ("capabilities", {"user": "0:0", "cap_drop": []}),
    ("write to root", {"user": "0:0", "read_only": False}),
    ("network", {"network_mode": "bridge"}),
    ("host addresses", {"network_mode": "bridge"}),
    ("other plugins' sockets", {"user": "0:0", "volumes": "run_dir"}),
    ("engine socket", {"user": "0:0", "volumes": "engine"}),
    ("fork bomb", {"pids_limit": 0}),
    ("memory", {"mem_limit": "1g", "memswap_limit": "1g"}),
]


@pytest.mark.parametrize(("name", "relaxed"), LAX, ids=[name for name, _ in LAX])
def test_each_works_where_its_restriction_is_removed(
    live: LiveOrchestrator,
    engine: docker.DockerClient,
    image: str,
    aims: dict[str, Any],
    name: str,
    relaxed: dict[str, Any],
) -> None:
    """An attempt that could not work anywhere would prove nothing."""
    shown = {"run_dir": str(live.run_dir), "engine": engine_socket()}
    options = {**STRICT, **relaxed}
    if isinstance(options["volumes"], str):
        path = shown[options["volumes"]]
        options["volumes"] = {path: {"bind": path, "mode": "rw"}}
        if (
            "name=userns" in engine.info()["SecurityOptions"]
        ):  # another restriction: root in the container is nobody here
            options["userns_mode"] = "host"
    command = ["-m", "escape_probe.attempts", name, json.dumps(aims[name])]
    output = engine.containers.run(image, command, entrypoint="python", remove=True, **options)
    assert json.loads(output)["worked"], output
