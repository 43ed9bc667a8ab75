"""The protocol of every kind of engine. One contract test suite runs over all of them."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from orchestrator.containers.endpoint import Endpoint
from orchestrator.containers.spec import (
    ContainerIsolation,
    ContainerSpec,
    ContainerStatus,
    EngineEvent,
    EngineInfo,
    ImageStatus,
    Installation,
    VolumeStatus,
)


def ignore(_: str) -> None:
    """Take no notice of what is said."""


class ContainerEngine(Protocol):
    """Starts, watches and removes containers.

    Every call is bounded in time. Raises `EngineUnreachableError` after the bound or without an answer, `NotFoundError`
    for an unknown container or image, `DeviceRequestError` for devices that cannot be provided, `EngineRefusedError`
    for any other refusal.
    """

    async def info(self) -> EngineInfo:
        """What the engine is and can."""

    async def ping(self) -> None:
        """Return when the engine answers; the cheapest call."""

    async def image(self, reference: str) -> ImageStatus:
        """The local image of this name, tag or id."""

    async def images(self, labels: Mapping[str, str]) -> list[ImageStatus]:
        """All local images with these labels."""

    async def remove_image(self, reference: str) -> None:
        """Remove a local image. `EngineRefusedError` while a container, running or not, is made from it."""

    async def tag_image(self, reference: str, name: str) -> None:
        """Add this name (with its tag) to a local image, and take it from any other."""

    async def pull(self, reference: str) -> ImageStatus:
        """Fetch an image from its registry."""

    async def build(
        self,
        context: Path,
        *,
        tag: str,
        dockerfile: str = "Dockerfile",
        labels: Mapping[str, str],
        build_args: Mapping[str, str],
        on_output: Callable[[str], None],
    ) -> ImageStatus:
        """Build the folder `context`; `on_output` gets each line. Raises `BuildError` with the output's tail."""

    async def install(self, installation: Installation, on_output: Callable[[str], None]) -> ImageStatus:
        """Run the script and store its container as an image; `on_output` gets each line. Besides the image, only the
        volume is left. Raises `BuildError` with the output's tail where the script fails.
        """

    async def create(self, spec: ContainerSpec, *, on_warning: Callable[[str], None] = ignore) -> str:
        """Create a container without starting it; its id. `on_warning` gets each thing that the engine accepts and does
        not do, in its own words: a limit that it discards, most of all.
        """

    async def start(self, container_id: str) -> None:
        """Start it. After a failure the container still exists and must be removed."""

    async def shares_sockets(self) -> bool:
        """Whether a Unix socket in a folder of this host can be reached both here and in containers. Where it cannot, a
        container needs a gateway.
        """

    async def endpoint(self, container_id: str, run_folder: Path) -> Endpoint:
        """Where the runtime of a started container is reached; `run_folder` is its folder on this host."""

    async def inspect(self, container_id: str) -> ContainerStatus:
        """Its status now."""

    async def isolation(self, container_id: str) -> ContainerIsolation:
        """The limits and restrictions that the engine enforces on it."""

    async def processes(self, container_id: str) -> frozenset[int]:
        """The numbers of its processes, as the engine's host counts them. Empty for one that does not run."""

    async def list(self, labels: Mapping[str, str]) -> list[ContainerStatus]:
        """All containers with these labels, in any state."""

    async def stop(self, container_id: str, *, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds. No error if it has stopped already."""

    async def kill(self, container_id: str) -> None:
        """SIGKILL. No error if it has stopped already."""

    async def remove(self, container_id: str) -> None:
        """Remove it with its anonymous volumes, running or not. No error if it does not exist."""

    async def holds_volumes_to_size(self) -> bool:
        """Whether a volume can be held to a size, by a quota of its file system. Found by trying, once."""

    async def volumes(self, labels: Mapping[str, str]) -> "tuple[VolumeStatus, ...]":
        """All named volumes with these labels."""

    async def remove_volume(self, name: str) -> None:
        """Remove it with all that it holds. `EngineRefusedError` while a container, running or not, has it."""

    async def sweep(self, labels: Mapping[str, str]) -> None:
        """Remove leftovers (gateways, volumes) of removed containers with these labels."""

    async def logs(self, container_id: str, *, tail: int) -> str:
        """The last `tail` lines of stdout and stderr, each preceded by its time (RFC 3339)."""

    def follow_logs(self, container_id: str, *, tail: int) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """As `logs`, line by line, then further lines until the container ends. Leaving the context ends the stream."""

    def events(
        self, labels: Mapping[str, str], *, since: datetime | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[EngineEvent]]:
        """Changes of containers with these labels, from `since` on. The iterator ends or raises when the stream breaks;
        a message of unknown form is skipped.
        """

    async def close(self) -> None:
        """Release connections and threads."""
