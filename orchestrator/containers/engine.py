"""The protocol every kind of engine meets. One contract test suite runs over all of them."""

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
)


class ContainerEngine(Protocol):
    """Starts, watches and removes containers.

    Every call is bounded in time and raises `EngineUnreachableError` when the bound is over or nobody answers,
    `NotFoundError` for an unknown container or image, `DeviceRequestError` for devices that cannot be had,
    `EngineRefusedError` for any other refusal.
    """

    async def info(self) -> EngineInfo:
        """The engine itself."""

    async def ping(self) -> None:
        """Returns when it answers: the cheapest question there is."""

    async def image(self, reference: str) -> ImageStatus:
        """The local image of this name, tag or id."""

    async def images(self, labels: Mapping[str, str]) -> list[ImageStatus]:
        """All local images that carry these labels."""

    async def remove_image(self, reference: str) -> None:
        """Remove a local image. `EngineRefusedError` while a container, running or not, is made from it."""

    async def tag_image(self, reference: str, name: str) -> None:
        """Give a local image this name (with its tag) too, taking it from any other."""

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
        """Build the folder `context`. Output goes to `on_output` as it comes. Raises `BuildError` with the output's
        tail.
        """

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container, not yet started; its id."""

    async def start(self, container_id: str) -> None:
        """Start it. After a failure the container still exists: remove it."""

    async def shares_sockets(self) -> bool:
        """Whether a Unix socket in a folder of this host can be reached both here and from its containers. Where it
        cannot, a container needs a gateway.
        """

    async def endpoint(self, container_id: str, run_folder: Path) -> Endpoint:
        """Where the runtime of a container that was started is reached; `run_folder` is its folder on this host."""

    async def inspect(self, container_id: str) -> ContainerStatus:
        """What the engine says of it now."""

    async def isolation(self, container_id: str) -> ContainerIsolation:
        """What it holds this container to."""

    async def list(self, labels: Mapping[str, str]) -> list[ContainerStatus]:
        """All containers, in any state, that carry these labels."""

    async def stop(self, container_id: str, *, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds. No error when it has stopped already."""

    async def kill(self, container_id: str) -> None:
        """SIGKILL. No error when it has stopped already."""

    async def remove(self, container_id: str) -> None:
        """Remove it with its anonymous volumes, running or not. No error when it is gone."""

    async def sweep(self, labels: Mapping[str, str]) -> None:
        """Remove what stayed behind of containers with these labels that are gone."""

    async def logs(self, container_id: str, *, tail: int) -> str:
        """The last `tail` lines it printed, stdout and stderr, each with its time in front (RFC 3339)."""

    def follow_logs(self, container_id: str, *, tail: int) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """As `logs`, line by line, then on until the container ends. Leaving the context ends the stream."""

    def events(
        self, labels: Mapping[str, str], *, since: datetime | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[EngineEvent]]:
        """Changes of containers with these labels, from `since` on. The iterator ends or raises when the stream
        breaks; a message of an unknown shape is left out, never an error.
        """

    async def close(self) -> None:
        """Let go of connections and threads."""
