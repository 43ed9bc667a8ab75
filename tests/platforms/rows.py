"""The engines: how each is had, and what its columns may take."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from platforms.docker_native import docker_native
from platforms.guests import DOCKER, PODMAN, guest
from platforms.rooms import Room, host_engine, podman_native

TRUST = {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}
"""The guest's bundle is this machine's."""
AS_ROOT_DOCKER = TRUST | {"DOCKER_HOST": "unix:///var/run/docker.sock"}
AS_ROOT_PODMAN = TRUST | {"DOCKER_HOST": "unix:///run/podman/podman.sock"}
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
    ),
    "podman-4.3": Row("Podman 4.3, root", "`tests/platforms/podman-native`", podman_native, patience=2),
    "guest-docker-26": Row(
        "Docker 26.1, systemd",
        "Debian 13 in a guest",
        lambda: guest(without=PODMAN_UNITS, environment=AS_ROOT_DOCKER, prepare=DOCKER),
        patience=4,
    ),
    "guest-podman-5.4": Row(
        "Podman 5.4, root, systemd",
        "Debian 13 in a guest",
        lambda: guest(without=DOCKER_UNITS, environment=AS_ROOT_PODMAN, prepare=PODMAN),
        patience=4,
    ),
}
"""Name on the command line → row, cheapest first."""
