"""The words for a container: what is asked of an engine, and what it says of one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

UNPRIVILEGED_USER: Final = "65532:65532"
"""User and group, by number, that are nobody's on the host."""
BUILD_TAIL: Final = 30
"""Lines of its output that the error of a failed build carries."""


@dataclass(frozen=True, slots=True)
class BindMount:
    """A host folder or file seen in the container."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class DeviceGrant:
    """Devices by id, always by id: `count` would hand everyone GPU 0. `driver` is `nvidia` or `cdi`."""

    driver: str
    device_ids: tuple[str, ...]
    capabilities: tuple[str, ...] = ("gpu", "compute", "utility")


@dataclass(frozen=True, slots=True)
class Gateway:
    """What brings a container's sockets here by TCP: `image` has the runtime's gateway, `token_file` what it admits
    callers by, `folder` is where the container has its sockets.
    """

    image: str
    token_file: Path
    folder: str


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container, completely. Sizes in bytes, `cpus` in cores, `stop_grace` in seconds."""

    name: str
    image: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    memory: int
    pids: int
    cpus: float | None = None
    shm: int = 64 * 1024 * 1024
    user: str = UNPRIVILEGED_USER
    network: Literal["none", "bridge"] = "none"
    read_only: bool = True
    mounts: tuple[BindMount, ...] = ()
    scratch_volumes: tuple[str, ...] = ()
    """Paths that get an anonymous volume on disk, removed with the container."""
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    devices: DeviceGrant | None = None
    gateway: Gateway | None = None
    """Where its sockets cannot be reached as files; it comes and goes with the container."""
    entrypoint: tuple[str, ...] = ()
    """In place of the image's own, where given."""
    command: tuple[str, ...] = ()
    log_bytes: int = 10 * 1024 * 1024
    """Most bytes of output that the engine keeps."""


OVER: Final = frozenset({"exited", "dead", "removing"})
"""States of a container that has ended."""


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What the engine says of one container."""

    id: str
    name: str
    image_id: str
    labels: Mapping[str, str]
    state: Literal["created", "running", "paused", "exited", "dead", "removing"]
    exit_code: int | None = None
    oom_killed: bool | None = None
    """Some process in it was killed for memory, at any time; says nothing about which. None where not told (lists)."""
    health: Literal["none", "starting", "healthy", "unhealthy"] = "none"
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str = ""

    @property
    def over(self) -> bool:
        """It ran and has ended; its removal, which may take seconds on a busy disk, may be under way."""
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class ContainerIsolation:
    """What the engine holds a container to, as it says itself. Sizes in bytes, `cpus` in cores; None: no limit."""

    user: str
    network: str
    read_only: bool
    privileged: bool
    capabilities_dropped: tuple[str, ...]
    capabilities_added: tuple[str, ...]
    security_options: tuple[str, ...]
    memory: int | None
    memory_and_swap: int | None
    pids: int | None
    cpus: float | None
    shm: int | None
    restarts: str
    """Docker's word for its restart policy."""
    bounded_logs: bool
    mounts: tuple[BindMount, ...]
    devices: tuple[str, ...]
    """Ids of the devices it requested."""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """A change that the engine tells of. `action` is Docker's word: create, start, oom, die, stop, kill, destroy,
    health_status…
    """

    action: str
    container_id: str
    labels: Mapping[str, str]
    time: datetime
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """An image the engine has."""

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The engine itself. `gpu_drivers` holds `nvidia` and/or `cdi` where it can serve such device requests."""

    version: str
    operating_system: str
    storage_driver: str
    cgroup_version: str
    gpu_drivers: tuple[str, ...]
    rootless: bool
    selinux: bool
    limits: frozenset[str] = frozenset({"memory", "swap", "pids"})
    """What its kernel lets it limit, of these three."""
    kernel: str = ""
    """The release of the kernel that its containers run on; empty where not told."""
    data_dir: str = ""
    """Where it keeps images and containers, on its own machine."""
