"""The engines: how each is had, and what its columns may take."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from platforms.docker_native import docker_native
from platforms.guests import guest
from platforms.podman_native import podman_native
from platforms.rooms import Room, host_engine

IN_GUEST = {
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
    "TEST_PATIENCE": "4",
    "ORCHESTRATOR_ENGINE_TIMEOUT": "40s",
}
"""The guest's bundle is this machine's. A start of a process takes it many times as long."""
AS_ROOT_DOCKER = IN_GUEST | {"DOCKER_HOST": "unix:///var/run/docker.sock"}
AS_ROOT_PODMAN = IN_GUEST | {"DOCKER_HOST": "unix:///run/podman/podman.sock"}
AS_DEV = IN_GUEST | {"XDG_RUNTIME_DIR": "/run/user/1000"}
AS_DEV_DOCKER = AS_DEV | {"DOCKER_HOST": "unix:///run/user/1000/docker.sock"}
AS_DEV_PODMAN = AS_DEV | {"DOCKER_HOST": "unix:///run/user/1000/podman/podman.sock"}
DOCKER_UNITS = ("docker.service", "docker.socket", "containerd.service")
PODMAN_UNITS = ("netavark-dhcp-proxy.socket",)


@dataclass(frozen=True)
class Row:
    """One engine."""

    about: str
    how: str
    enter: Callable[[], AbstractContextManager[Room]]
    patience: float = 1.0
    """By how much its columns' time limits are multiplied."""
    not_for: dict[str, str] = field(default_factory=dict)
    """Column → why it cannot be run here, whatever is done."""


ROWS = {
    "docker": Row("Docker, this machine's", "`make engine`", host_engine),
    "docker-26": Row(
        "Docker 26.1, containerd image store",
        "Debian 13's packages, unpacked",
        lambda: docker_native(settings={"features": {"containerd-snapshotter": True}}),
    ),
    "docker-26-userns": Row(
        "Docker 26.1, userns-remap",
        "Debian 13's packages, unpacked",
        lambda: docker_native(settings={"userns-remap": "default"}),
        not_for={"compose": "such an engine shares the host's network, which compose.yaml uses, with no container"},
    ),
    "podman-4.3": Row("Podman 4.3, root", "`tests/platforms/podman-native`", podman_native, patience=2),
    "guest-docker-26": Row(
        "Docker 26.1, systemd",
        "Debian 13 in a guest",
        lambda: guest("docker", without=PODMAN_UNITS, environment=AS_ROOT_DOCKER),
        patience=4,
    ),
    "guest-podman-5.4": Row(
        "Podman 5.4, root, systemd",
        "Debian 13 in a guest",
        lambda: guest("podman", without=DOCKER_UNITS, environment=AS_ROOT_PODMAN),
        patience=4,
    ),
    "guest-docker-26-rootless": Row(
        "Docker 26.1, rootless, systemd",
        "Debian 13 in a guest",
        lambda: guest("rootless-docker", without=DOCKER_UNITS, environment=AS_DEV_DOCKER, user="dev"),
        patience=4,
    ),
    "guest-podman-5.4-rootless": Row(
        "Podman 5.4, rootless, systemd",
        "Debian 13 in a guest",
        lambda: guest("rootless-podman", without=DOCKER_UNITS, environment=AS_DEV_PODMAN, user="dev"),
        patience=4,
    ),
}
"""Name on the command line → row, cheapest first."""
