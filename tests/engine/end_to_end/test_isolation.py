"""The container is the sandbox: as seen from inside a plugin, and by the engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator

ECHO = TESTS / "fixtures" / "plugins"

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "echo").symlink_to(ECHO / "echo")
    with live_orchestrator([folder]) as orchestrator:
        orchestrator.wait_ready(300)
        yield orchestrator


def _inside(live: LiveOrchestrator, tool: str, **arguments: object) -> object:
    envelope = live.run("echo", tool, arguments).json()
    assert envelope["ok"], envelope
    return envelope["result"]


def test_a_plugin_has_no_privileges(live: LiveOrchestrator) -> None:
    """Not root, no capability in any set, no new privileges, a seccomp filter."""
    seen = _inside(live, "whoami")
    assert seen["uid"] == 65532
    capabilities = {value for field, value in seen["caps"].items() if field.startswith("Cap")}
    assert capabilities == {"0000000000000000"}
    assert seen["caps"]["NoNewPrivs"] == "1"
    assert seen["caps"]["Seccomp"] == "2"
    assert seen["engine_sockets"] == []


def test_a_plugin_has_no_network(live: LiveOrchestrator) -> None:
    """Only a loopback of its own: it cannot even reach the orchestrator."""
    assert _inside(live, "whoami")["interfaces"] == ["lo"]
    port = live.client.base_url.port
    assert _inside(live, "connect", host="127.0.0.1", port=port) == "ECONNREFUSED"
    assert _inside(live, "connect", host="172.17.0.1", port=port) == "ENETUNREACH"


@pytest.mark.parametrize("path", ["/x", "/etc/x", "/usr/bin/x", "/plugin/x", "/opt/venv/x"])
def test_a_plugin_cannot_write_to_its_image(live: LiveOrchestrator, path: str) -> None:
    """The root file system is read-only."""
    assert _inside(live, "write", path=path) != "written"


@pytest.mark.parametrize("path", ["/scratch/x", "/tmp/x"])
def test_a_plugin_can_write_to_scratch_and_tmp(live: LiveOrchestrator, path: str) -> None:
    """/tmp is for programs that write nowhere else."""
    assert _inside(live, "write", path=path) == "written"


def test_the_engine_enforces_every_limit(live: LiveOrchestrator) -> None:
    """The limits of the health API are those of the container."""
    (container,) = live.containers()
    host = container.attrs["HostConfig"]
    limits = live.health("echo")["limits"]
    assert host["Memory"] == host["MemorySwap"] == limits["memory_bytes"]
    assert host["PidsLimit"] == limits["pids"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in host["SecurityOpt"][0]
    assert host["NetworkMode"] == "none"
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert not any("docker.sock" in mount["Source"] for mount in container.attrs["Mounts"])


def test_other_plugins_sockets_are_not_visible(live: LiveOrchestrator) -> None:
    """Only the orchestrator can enter the run folder, and a container gets only its own subfolder."""
    (container,) = live.containers()
    sources = [m["Source"] for m in container.attrs["Mounts"] if m["Destination"] == "/run/plugin"]
    assert len(sources) == 1
    assert Path(sources[0]).parent == live.run_dir / live.deployment
    assert (live.run_dir / live.deployment).stat().st_mode & 0o777 == 0o700
