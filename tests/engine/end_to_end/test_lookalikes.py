"""Containers, images, volumes and networks of other software that look like ours are left alone, on every engine.

Some have some of our labels, some our names, some were made from our images.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator
from support.waiting import PATIENCE

from orchestrator.supervisor.container_policy import LABEL_CONTENT, LABEL_DEPLOYMENT, LABEL_GENERATION, LABEL_INSTANCE

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PYTHON = "plugin-orchestrator/python:3.11-bookworm"
PLUGIN = "plugin-orchestrator.plugin"
OURS = (LABEL_DEPLOYMENT, PLUGIN, LABEL_GENERATION, LABEL_INSTANCE, LABEL_CONTENT)


@dataclass
class OtherSoftware:
    """What a test plants on the engine, and how it was."""

    engine: docker.DockerClient
    containers: list[Any] = field(default_factory=list)
    volumes: list[Any] = field(default_factory=list)
    networks: list[Any] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def run(self, image: str, labels: dict[str, str], name: str | None = None, **options: Any) -> Any:
        """A container that sleeps, or what `options` say."""
        options.setdefault("entrypoint", ["sleep", "900"])
        container = self.engine.containers.run(
            image, labels=labels, name=name, network_mode="none", detach=True, **options
        )
        self.containers.append(container)
        return container

    def remove(self) -> None:
        for thing in self.containers:
            with suppress(docker.errors.APIError):
                thing.remove(force=True, v=True)
        for thing in (*self.volumes, *self.networks):
            with suppress(docker.errors.APIError):
                thing.remove()
        for name in self.images:
            with suppress(docker.errors.APIError):
                self.engine.images.remove(name)

    def state(self) -> list[tuple[str, str, str]]:
        """Of every container, volume, network and image that it is there, and of the containers since when they run."""
        there = []
        for container in self.containers:
            container.reload()
            there.append((container.name, container.status, container.attrs["State"]["StartedAt"]))
        there += [(self.engine.volumes.get(volume.name).name, "volume", "") for volume in self.volumes]
        there += [(self.engine.networks.get(network.id).name, "network", "") for network in self.networks]
        there += [(name, self.engine.images.get(name).id, "") for name in self.images]
        return there


@pytest.fixture
def others() -> Iterator[OtherSoftware]:
    engine = docker.from_env()
    others = OtherSoftware(engine)
    yield others
    others.remove()
    engine.close()


@pytest.fixture
def only_echo(tmp_path: Path) -> Path:
    (tmp_path / "echo").symlink_to(TESTS / "fixtures" / "plugins" / "echo")
    return tmp_path


def identity(container: Any) -> dict[str, str]:
    return {name: container.labels[name] for name in OURS}


def instances(live: LiveOrchestrator) -> list[Any]:
    return [container for container in live.containers() if container.labels.keys() >= {*OURS}]


def lookalikes(ours: dict[str, str]) -> dict[str, dict[str, str]]:
    """What it lacks, or has of its own → the labels of a container of other software."""
    without = {f"without-{name.rpartition('.')[2]}": {k: v for k, v in ours.items() if k != name} for name in OURS}
    return {
        **without,
        "of-another-deployment": {**ours, LABEL_DEPLOYMENT: "00000000"},
        "with-values-of-its-own": dict.fromkeys(OURS, "latest"),
        "gateway": {LABEL_DEPLOYMENT: ours[LABEL_DEPLOYMENT]},
    }


def planted(others: OtherSoftware, live: LiveOrchestrator) -> None:
    """Every kind of look-alike."""
    (ours,) = instances(live)
    labels = identity(ours)
    for kind, each in lookalikes(labels).items():
        others.run(PYTHON, each, f"{ours.name}-{kind}")
    # An image that somebody derived from a plugin's hands its labels on; and its name.
    derived = f"other-software/{live.deployment}"
    others.engine.images.get(ours.image.id).tag(derived, "1")
    others.images.append(f"{derived}:1")
    others.run(f"{derived}:1", {LABEL_DEPLOYMENT: labels[LABEL_DEPLOYMENT]})
    others.volumes.append(others.engine.volumes.create(f"{ours.name}-gateway", labels={PLUGIN: "echo"}))
    others.volumes.append(others.engine.volumes.create("plugin-orchestrator-quota-trial"))
    name = f"{ours.name}-network"
    others.networks.append(others.engine.networks.create(name, driver="bridge", labels={PLUGIN: "echo"}))


def end_by_memory(others: OtherSoftware, ours: Any) -> None:
    """Containers that look like this one are killed for their memory, and removed: `oom`, `die` and `destroy`."""
    greedy = ["python3", "-c", "held = bytearray(1 << 29)"]
    for labels in lookalikes(identity(ours)).values():
        container = others.run(PYTHON, labels, entrypoint=greedy, mem_limit="32m", memswap_limit="32m")
        assert container.wait(timeout=60 * PATIENCE)["StatusCode"] == 137
        others.containers.pop().remove(v=True)


def settle(live: LiveOrchestrator) -> None:
    live.wait_until_serving()
    live.wait_ready(120)
    assert live.run("echo", "echo", {"text": "x"}).status_code == 200


def wait_until_removed(container: Any, seconds: float) -> None:
    end = time.monotonic() + seconds * PATIENCE
    with suppress(docker.errors.NotFound):
        while time.monotonic() < end:
            container.reload()
            time.sleep(0.2)
        pytest.fail(f"{container.name} is still there")


def test_nothing_of_other_software_is_touched(others: OtherSoftware, only_echo: Path) -> None:
    """Not by a restart, a stop and a start, an adoption after SIGKILL, a list of all containers that removes an orphan,
    an end with `--stop-plugins`, `down`; and nothing that becomes of it ends our plugin.
    """
    with live_orchestrator([only_echo]) as live:
        try:
            settle(live)
            planted(others, live)
            before = others.state()
            assert {status for _, status, _ in before} >= {"running"}
            live.restart("echo")
            live.client.post("/v1/plugins/echo/stop").raise_for_status()
            assert instances(live) == []
            live.client.post("/v1/plugins/echo/start", params={"wait": 60 * PATIENCE}).raise_for_status()
            assert others.state() == before
            generation = live.health("echo")["generation"]
            live.kill()
            live.start()
            settle(live)
            assert live.health("echo")["generation"] == generation  # adopted, whatever looks like it
            (ours,) = instances(live)
            # The list of all containers, which comes twice a minute, removes this one: it has all labels.
            orphan = others.run(PYTHON, {**identity(ours), LABEL_INSTANCE: "0123abcd", LABEL_GENERATION: "1"})
            others.containers.pop()
            end_by_memory(others, ours)
            wait_until_removed(orphan, 90)
            health = live.health("echo")
            assert (health["generation"], health["state"]) == (generation, "RUNNING")
            assert live.run("echo", "echo", {"text": "y"}).status_code == 200
            assert others.state() == before
            live.stop()
            assert instances(live) == []
            assert others.state() == before
            live.start()
            settle(live)
            live.kill()
            command = [live.python, "-m", "orchestrator", "down"]
            subprocess.run(command, env=live.environment, check=True, capture_output=True, timeout=120 * PATIENCE)
            assert instances(live) == []
            assert others.state() == before
        finally:
            others.remove()  # before the context ends: it removes what has the deployment's label
