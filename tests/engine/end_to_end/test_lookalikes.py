"""Containers, images, volumes and networks of other software that look like ours are left alone, on every engine.

Some have some of our labels, some our names, some were made from our images.
"""

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

    def run(self, image: str, labels: dict[str, str], name: str | None = None) -> Any:
        container = self.engine.containers.run(
            image, labels=labels, name=name, entrypoint=["sleep", "900"], network_mode="none", detach=True
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


def planted(others: OtherSoftware, live: LiveOrchestrator) -> None:
    """Every kind of look-alike."""
    (ours,) = live.containers()
    all_labels = identity(ours)
    for missing in OURS:
        labels = {name: value for name, value in all_labels.items() if name != missing}
        others.run(PYTHON, labels, f"{ours.name}-without-{missing.rpartition('.')[2]}")
    others.run(PYTHON, {**all_labels, LABEL_DEPLOYMENT: "00000000"}, f"{ours.name}-of-another-deployment")
    others.run(PYTHON, {LABEL_DEPLOYMENT: all_labels[LABEL_DEPLOYMENT]}, f"{ours.name}-gateway")
    # An image that somebody derived from a plugin's hands its labels on; and its name.
    derived = f"other-software/{live.deployment}"
    others.engine.images.get(ours.image.id).tag(derived, "1")
    others.images.append(f"{derived}:1")
    others.run(f"{derived}:1", {LABEL_DEPLOYMENT: all_labels[LABEL_DEPLOYMENT]})
    others.volumes.append(others.engine.volumes.create(f"{ours.name}-gateway", labels={PLUGIN: "echo"}))
    others.volumes.append(others.engine.volumes.create("plugin-orchestrator-quota-trial"))


def settle(live: LiveOrchestrator) -> None:
    live.wait_until_serving()
    live.wait_ready(120)
    assert live.run("echo", "echo", {"text": "x"}).status_code == 200


def test_nothing_of_other_software_is_touched(others: OtherSoftware, only_echo: Path) -> None:
    """Not by a restart, an adoption after SIGKILL, a list of all containers, an end with `--stop-plugins`."""
    with live_orchestrator([only_echo]) as live:
        try:
            settle(live)
            planted(others, live)
            before = others.state()
            assert {status for _, status, _ in before} >= {"running"}
            live.restart("echo")
            generation = live.health("echo")["generation"]
            live.kill()
            live.start()
            settle(live)
            assert live.health("echo")["generation"] == generation  # adopted, whatever looks like it
            # Two full lists: the first at the start, another after 15 pings.
            time.sleep(35)
            assert live.health("echo")["generation"] == generation
            assert live.health("echo")["state"] == "RUNNING"
            assert others.state() == before
            # Their ends are not our plugin's.
            others.containers[-1].kill()
            others.containers.pop().remove(force=True, v=True)
            before = others.state()
            assert live.run("echo", "echo", {"text": "y"}).status_code == 200
            live.stop()
            assert others.state() == before
        finally:
            others.remove()  # before the context ends: it removes what has the deployment's label
