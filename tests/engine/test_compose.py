"""compose.yaml, with this machine's compose (1.29 or v2): up, plugins, down, and what remains."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
import yaml
from support.checkout import PROJECT
from support.waiting import PATIENCE

FIXTURES = PROJECT / "tests" / "fixtures" / "plugins"

pytestmark = pytest.mark.engine


@dataclass
class Composed:
    """One compose project."""

    name: str
    plugins: Path
    port: int
    image: str

    def __call__(self, *arguments: str) -> str:
        tool = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        done = subprocess.run(
            [*tool, "--project-name", self.name, "--file", str(PROJECT / "compose.yaml"), *arguments],
            env=os.environ
            | {"PLUGINS": str(self.plugins), "ORCHESTRATOR_PORT": str(self.port), "ORCHESTRATOR_IMAGE": self.image},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=120 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def labels(self) -> dict[str, str]:
        return {"label": f"com.docker.compose.project={self.name}"}

    def get(self, path: str) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30 * PATIENCE, trust_env=False).json()

    def wait_until_initialized(self, plugin: str) -> None:
        end = time.monotonic() + 120 * PATIENCE
        while (health := self.get(f"/v1/plugins/{plugin}/health"))["state"] == "LOADED":
            assert time.monotonic() < end, health
            time.sleep(0.1)
        assert health["state"] == "INITIALIZED", health


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def composed(own_image: str, tmp_path: Path, engine: docker.DockerClient) -> Iterator[Composed]:
    """A project of its own with the plugin `echo`; removed afterwards in any case."""
    shutil.copytree(FIXTURES / "echo", tmp_path / "echo")
    tmp_path.chmod(0o755)  # the orchestrator's user in the container is another
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    composed = Composed(f"po-{secrets.token_hex(4)}", tmp_path, port, own_image)
    try:
        yield composed
    finally:
        composed("down", "--volumes")
        for container in engine.containers.list(all=True, filters=composed.labels, ignore_removed=True):
            container.remove(force=True, v=True)


def _plugin_containers(engine: docker.DockerClient) -> set[str]:
    listed = engine.containers.list(all=True, filters={"label": "plugin-orchestrator.plugin=echo"}, ignore_removed=True)
    return {container.id for container in listed}


def test_up_and_down(composed: Composed, engine: docker.DockerClient) -> None:
    """It is healthy soon (15 s, on an idle machine), its plugins run, and `down` removes it and every plugin."""
    started = time.monotonic()
    composed("up", "--detach")
    (container,) = engine.containers.list(filters=composed.labels)
    # Podman runs no health checks without systemd: here the test does.
    podman = "podman" in str(engine.version().get("Components")).lower()
    while (health := container.attrs["State"]["Health"]["Status"]) != "healthy":
        if podman and container.exec_run(["python", "-I", "-m", "orchestrator.own_image.healthcheck"]).exit_code == 0:
            break
        assert time.monotonic() - started < 60 * PATIENCE, (health, container.logs().decode())
        time.sleep(0.1)
        container.reload()
    print(f"healthy after {time.monotonic() - started:.1f} s")  # noqa: T201 - a figure
    assert [plugin["name"] for plugin in composed.get("/v1/plugins")] == ["echo"]
    composed.wait_until_initialized("echo")
    identity = container.exec_run(["cat", "/var/lib/plugin-orchestrator/deployment-id"], user="orchestrator").output
    ours = {"label": f"plugin-orchestrator.deployment={identity.decode().strip()}"}
    assert len(engine.containers.list(filters=ours)) == 1
    address = f"http://127.0.0.1:{composed.port}/v1/plugins/echo/tools/echo/run"
    answer = httpx.post(address, json={"text": "composed"}, timeout=30 * PATIENCE, trust_env=False).json()
    assert answer["result"] == "composed", answer
    composed("down")
    assert engine.containers.list(all=True, filters=composed.labels, ignore_removed=True) == []
    assert engine.containers.list(all=True, filters=ours, ignore_removed=True) == []
    assert engine.networks.list(filters=composed.labels) == []
    volumes = {volume.name for volume in engine.volumes.list(filters=composed.labels)}
    assert f"{composed.name}_state" in volumes, "the history stays"
    composed("down", "--volumes")
    assert engine.volumes.list(filters=composed.labels) == []


def test_it_has_no_more_rights_than_it_needs(composed: Composed, engine: docker.DockerClient) -> None:
    """Except for the engine's socket: an unprivileged user, no capability, a read-only root, loopback only."""
    composed("up", "--detach")
    (container,) = engine.containers.list(filters=composed.labels)
    end = time.monotonic() + 30 * PATIENCE
    while container.exec_run(["python", "-I", "-m", "orchestrator.own_image.healthcheck"]).exit_code != 0:
        assert time.monotonic() < end, container.logs().decode()
        time.sleep(0.2)
    status = dict(
        line.split(":\t", 1) for line in container.exec_run(["cat", "/proc/1/status"]).output.decode().splitlines()
    )
    assert status["Uid"].split() == ["65531"] * 4
    assert status["CapEff"] == status["CapPrm"] == "0" * 16
    assert status["NoNewPrivs"] == "1"
    assert status["Groups"].split() == [str(Path("/var/run/docker.sock").stat().st_gid)]
    assert container.exec_run(["touch", "/anything"], user="orchestrator").exit_code != 0
    listening = Path("/proc/net/tcp").read_text().split()
    assert f"0100007F:{composed.port:04X}" in listening
    assert f"00000000:{composed.port:04X}" not in listening


def test_every_service_of_every_profile_is_understood(composed: Composed) -> None:
    """Even if its image cannot be pulled here."""
    text = composed("--profile", "gpu", "--profile", "metrics", "config")
    services = yaml.safe_load(text)["services"]
    assert services.keys() == {"orchestrator", "orchestrator-gpu", "prometheus"}
    (request,) = services["orchestrator-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert request["driver"] == "nvidia"
    for service in services.values():
        assert service["network_mode"] == "host" and service["cap_drop"] == ["ALL"] and service["read_only"] is True
        assert service["restart"] == "unless-stopped"
