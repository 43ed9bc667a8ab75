"""Types for containers: the specification that an engine gets, and the status that it reports."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

UNPRIVILEGED_USER: Final = "65532:65532"
"""Numbers of a user and group that do not exist on the host."""
BUILD_TAIL: Final = 30
"""Lines of output in the error of a failed build."""


@dataclass(frozen=True, slots=True)
class BindMount:
    """A host folder or file mounted into the container."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder on the engine's disk, mounted at `target`. With a `name` it outlives the container, and is made, with
    these labels, where it does not exist; without, it is removed with the container. `size`: bytes it is held to, where
    the engine can.
    """

    target: str
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """A named volume. `size`: bytes in use, None where the engine does not say."""

    name: str
    labels: Mapping[str, str]
    size: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceGrant:
    """`driver`: that of a device request, `nvidia` or `cdi`; or `runtime`, the OCI runtime `nvidia`. `uuids`: the
    devices, whatever `device_ids` call them. `groups`: numbers of the groups that may open their nodes.
    """

    driver: str
    # Never a count: every container would get GPU 0.
    device_ids: tuple[str, ...]
    capabilities: tuple[str, ...] = ("gpu", "compute", "utility")
    uuids: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Gateway:
    """Forwards a container's sockets here by TCP. `image` contains the runtime's gateway, `token_file` the token that
    callers need; `folder` is the folder of the sockets in the container.
    """

    image: str
    token_file: Path
    folder: str


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """The complete specification of a container. Sizes in bytes, `cpus` in cores."""

    name: str
    image: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    memory: int
    pids: int
    cpus: float | None = None
    unlimited: frozenset[str] = frozenset()
    """Of `memory`, `swap` and `pids`: what the engine is not to limit."""
    shm: int = 64 * 1024 * 1024
    user: str = UNPRIVILEGED_USER
    network: Literal["none", "bridge"] = "none"
    read_only: bool = True
    mounts: tuple[BindMount, ...] = ()
    volumes: tuple[Volume, ...] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    devices: DeviceGrant | None = None
    gateway: Gateway | None = None  # for an engine that does not share sockets; created and removed with the container
    entrypoint: tuple[str, ...] = ()  # overrides the image's, where given
    command: tuple[str, ...] = ()
    log_bytes: int = 10 * 1024 * 1024  # maximum bytes of output that the engine stores


@dataclass(frozen=True, slots=True)
class Installation:
    """An image made by running a script in a container of another: unlike a step of a Dockerfile, it can have a volume,
    which outlives it and is no part of the image.
    """

    tag: str
    base: str  # the image that it starts from, and whose user, entry point and environment the new image has
    files: Path  # folder whose content is put at / before
    script: str  # for `sh -ec`, as root
    labels: Mapping[str, str]
    volume: str  # name
    volume_path: str  # where the script finds it
    owner_labels: Mapping[str, str]
    """On the container while it runs, and on the volume; not on the image."""


OVER: Final = frozenset({"exited", "dead", "removing"})
"""States of a container that has ended."""


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """A container's status as the engine reports it."""

    id: str
    name: str
    image_id: str
    labels: Mapping[str, str]
    state: Literal["created", "running", "paused", "exited", "dead", "removing"]
    exit_code: int | None = None
    oom_killed: bool | None = None
    """Some process in it, not necessarily the first, was killed for memory at any time. None in lists."""
    health: Literal["none", "starting", "healthy", "unhealthy"] = "none"
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str = ""

    @property
    def over(self) -> bool:
        """It ran and has ended. Its removal may be in progress, for seconds on a busy disk."""
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class ContainerIsolation:
    """What the engine enforces on a container, as it reports. Sizes in bytes, `cpus` in cores; None: no limit."""

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
    restarts: str  # Docker's name of its restart policy
    bounded_logs: bool
    mounts: tuple[BindMount, ...]
    devices: tuple[str, ...]  # ids of its requested devices
    runtime: str = ""  # its OCI runtime
    visible_gpus: str = "void"  # what that runtime gives it, if it is NVIDIA's (NVIDIA_VISIBLE_DEVICES)
    cuda_gpus: frozenset[str] = frozenset()  # those that CUDA is held to (CUDA_VISIBLE_DEVICES)
    capabilities: int | None = None
    """Mask of those that a process in it could have, as seen from inside; None where it was not looked at."""
    writable: tuple[str, ...] = ()
    """Mount points in it that can be written to, as seen from inside; none where it was not looked at."""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """A change of a container. `action` is Docker's: create, start, oom, die, stop, kill, destroy, health_status…
    Engines differ in which they report; all report create, start, die and destroy.
    """

    action: str
    container_id: str
    labels: Mapping[str, str]
    time: datetime
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """A local image."""

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and can. `gpu_drivers`: those of `nvidia` and `cdi` whose device requests it serves;
    `cdi_devices`: the names of its CDI devices that are NVIDIA GPUs, None where it does not list them.
    """

    version: str
    operating_system: str
    storage_driver: str
    cgroup_version: str
    gpu_drivers: tuple[str, ...]
    rootless: bool
    selinux: bool
    limits: frozenset[str] = frozenset({"memory", "swap", "pids", "cpus"})  # those of these that its kernel can limit
    kernel: str = ""  # release of the kernel that its containers run on; empty where unknown
    data_dir: str = ""  # its folder of images and containers, on its own machine
    cores: int = 0  # CPU cores of its machine; 0 where unknown
    cdi_devices: tuple[str, ...] | None = None
    userns: bool = False  # users and groups of containers have other numbers on its machine
    product: Literal["Docker", "Podman"] = "Docker"
    memory: int = 0  # bytes of its machine; 0 where unknown

    @property
    def snap(self) -> bool:
        """It is Docker's snap, whose confinement executes nothing in a container that may gain no privileges."""
        return self.data_dir.startswith("/var/snap/docker/")

    @property
    def too_old(self) -> bool:
        """Docker before 20.10.10: its seccomp profile lets no thread start in images with glibc 2.34 or newer."""
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])
        return self.product == "Docker" and _FIRST_DOCKER <= numbers < _OLDEST_DOCKER

    @property
    def known_trouble(self) -> str:
        """Why this engine is known to run no plugin, and what to do; empty for most."""
        if self.snap:
            return (
                "the engine is Docker's snap, whose confinement executes nothing in a container that may gain no "
                "privileges, as no plugin's may, and sees only folders below /home. Install Docker's own packages "
                "(https://docs.docker.com/engine/install) or the distribution's, and remove the snap"
            )
        if self.too_old:
            return (
                f"the engine is Docker {self.version}, and before 20.10.10 its seccomp profile lets no thread start in "
                "images with glibc 2.34 or newer, such as Debian 12's, on which plugins are built. Install a newer one "
                "(https://docs.docker.com/engine/install)"
            )
        return ""


_FIRST_DOCKER: Final = (1,)  # a double has 0
_OLDEST_DOCKER: Final = (20, 10, 10)
