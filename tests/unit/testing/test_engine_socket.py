"""The orchestrator's container in a test session is given the engine's socket by its path on the engine's machine."""

import platform
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from support.checkout import PROJECT
from testcontainers.core.config import testcontainers_config

from orchestrator.testing.orchestrator_container import OrchestratorContainer, engine_socket

HERE = {"OperatingSystem": "Debian GNU/Linux 12", "KernelVersion": platform.release()}


@pytest.fixture(autouse=True)
def reached_by(monkeypatch: pytest.MonkeyPatch) -> str:
    """The path by which it is reached from here."""
    path = "/home/ada/.docker/desktop/docker.sock"
    monkeypatch.delenv("TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE", raising=False)
    monkeypatch.setattr(testcontainers_config, "ryuk_docker_socket", path)
    return path


@pytest.mark.parametrize("info", [HERE | {"OperatingSystem": "Docker Desktop"}, HERE | {"KernelVersion": "6.8.0-lima"}])
def test_in_a_virtual_machine_it_has_its_usual_place(info: dict[str, Any]) -> None:
    assert engine_socket(info) == "/var/run/docker.sock"


def test_on_this_kernel_it_is_where_it_is_reached(reached_by: str) -> None:
    """A rootless engine has its socket elsewhere."""
    assert engine_socket(HERE) == reached_by


def test_a_path_that_is_set_is_used(monkeypatch: pytest.MonkeyPatch, reached_by: str) -> None:
    monkeypatch.setenv("TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE", reached_by)
    assert engine_socket(HERE | {"OperatingSystem": "Docker Desktop"}) == reached_by


def test_with_selinux_it_may_connect_to_that_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same options as the shipped container."""
    shipped = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]["orchestrator"]["security_opt"]
    with monkeypatch.context() as patched:
        patched.setattr("testcontainers.core.container.DockerClient", MagicMock())
        patched.setattr(OrchestratorContainer, "_fill_volume", lambda _: None)
        patched.setattr("orchestrator.testing.orchestrator_container.engine_socket", lambda _: "/run/docker.sock")
        container = OrchestratorContainer("plugins", image="plugin-orchestrator/orchestrator:latest")
        container._configure()
    assert container._kwargs["security_opt"] == [option.removesuffix(":true") for option in shipped]
