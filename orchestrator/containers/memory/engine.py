"""The fake that ships: an engine whose containers are coroutines in this process, and which can be told to fail.

It keeps the contract of `ContainerEngine` as Docker Engine does (one test suite runs over both), down to the order of
events, so that what is built on engines can be tested without one.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.containers.endpoint import Endpoint, UnixEndpoint
from orchestrator.containers.memory.container import MemoryContainer
from orchestrator.containers.memory.events import EventBoard
from orchestrator.containers.memory.images import Build, ImageShelf
from orchestrator.containers.memory.program import Program
from orchestrator.containers.spec import (
    ContainerIsolation,
    ContainerSpec,
    ContainerStatus,
    EngineEvent,
    EngineInfo,
    ImageStatus,
)
from orchestrator.errors import DeviceRequestError, EngineRefusedError, EngineUnreachableError, NotFoundError


class MemoryEngine:
    """Containers without an engine.

    A program sees the host's own file system: where a bind mount lies is in its specification.
    """

    def __init__(self, *, device_drivers: tuple[str, ...] = (), bound: float = 1.0) -> None:
        """`device_drivers`: the device requests it serves. `bound`: seconds a call lasts while the engine is frozen."""
        self.device_drivers = device_drivers
        self.refuse: dict[str, str] = {}
        """Name of a call (`stop`, `kill`, `create`, …) → the error it answers with, and then nothing else happens."""
        self.shelf = ImageShelf()
        self.calls: list[str] = []
        """The name of every call so far that was not a question."""
        self._bound = bound
        self._containers: dict[str, MemoryContainer] = {}
        self._events = EventBoard()
        self._reachable = True
        self._thawed = asyncio.Event()
        self._thawed.set()

    # What a test does to it.

    def add_image(self, reference: str, program: Program, *, labels: Mapping[str, str] | None = None) -> ImageStatus:
        """Put an image there whose containers run `program`."""
        return self.shelf.add(reference, program, labels or {})

    def set_reachable(self, reachable: bool) -> None:  # noqa: FBT001  it is the whole message
        """Out of reach, calls fail at once and open streams break. Containers go on, as they do without dockerd."""
        self._reachable = reachable
        if not reachable:
            self.break_streams()

    def set_frozen(self, frozen: bool) -> None:  # noqa: FBT001  it is the whole message
        """Frozen, calls hang until their bound and streams are silent; what happens meanwhile is told afterwards."""
        if frozen:
            self._thawed.clear()
        else:
            self._thawed.set()

    def break_streams(self) -> None:
        """Cut every open stream of events."""
        self._events.cut(EngineUnreachableError("the stream of events broke"))

    def out_of_memory(self, container_id: str) -> None:
        """The kernel kills some process in it for memory. Its program goes on; `kill_outside` ends that as well."""
        self._find(container_id).run_out_of_memory()

    async def kill_outside(self, container_id: str) -> None:
        """SIGKILL that did not come through the engine: no `kill` event goes before the end."""
        await self._find(container_id).kill()

    # The contract.

    async def info(self) -> EngineInfo:
        async with self._question("info"):
            return EngineInfo("0-memory", "none", "memory", "2", self.device_drivers, rootless=False, selinux=False)

    async def ping(self) -> None:
        async with self._question("ping"):
            pass

    async def image(self, reference: str) -> ImageStatus:
        async with self._question("image"):
            return self.shelf.find(reference)

    async def images(self, labels: Mapping[str, str]) -> list[ImageStatus]:
        async with self._question("images"):
            return self.shelf.carrying(labels)

    async def remove_image(self, reference: str) -> None:
        async with self._call("remove_image"):
            image = self.shelf.find(reference)
            if self.shelf.untag(image, reference):
                return
            if any(container.image_id == image.id for container in self._containers.values()):
                raise EngineRefusedError(f"the image {reference} is being used by a container")
            self.shelf.remove(image)

    async def tag_image(self, reference: str, name: str) -> None:
        async with self._call("tag_image"):
            self.shelf.tag(self.shelf.find(reference), name)

    async def pull(self, reference: str) -> ImageStatus:
        async with self._call("pull"):
            return self.shelf.pull(reference)

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
        async with self._call("build", extra=60):
            build = Build(tag, (context / dockerfile).read_text(), dict(labels), dict(build_args))
            return await self.shelf.build(build, on_output)

    async def create(self, spec: ContainerSpec) -> str:
        async with self._call("create"):
            image = self.shelf.find(spec.image)
            if any(container.spec.name == spec.name for container in self._containers.values()):
                raise EngineRefusedError(f'the container name "/{spec.name}" is already in use')
            for mount in spec.mounts:
                if not mount.source.exists():
                    raise EngineRefusedError(f"bind source path does not exist: {mount.source}")
            container_id = secrets.token_hex(32)
            program = self.shelf.program(image)
            container = MemoryContainer(container_id, image.id, spec, program, self._events.tell)
            self._containers[container_id] = container
            self._events.tell(container.id, container.spec.labels, "create", None)
            return container_id

    async def start(self, container_id: str) -> None:
        async with self._call("start"):
            container = self._find(container_id)
            devices = container.spec.devices
            if devices is not None and devices.driver not in self.device_drivers:
                error = f'could not select device driver "{devices.driver}" with capabilities: [[gpu]]'
                container.fail_to_start(error)
                raise DeviceRequestError(error)
            container.start()

    async def shares_sockets(self) -> bool:
        return True

    async def endpoint(self, container_id: str, run_folder: Path) -> Endpoint:  # noqa: ARG002 - the protocol's
        return UnixEndpoint(run_folder)

    async def sweep(self, labels: Mapping[str, str]) -> None:
        """Nothing stays behind here."""

    async def inspect(self, container_id: str) -> ContainerStatus:
        async with self._question("inspect"):
            return self._find(container_id).status

    async def isolation(self, container_id: str) -> ContainerIsolation:
        async with self._question("isolation"):
            spec = self._find(container_id).spec
            return ContainerIsolation(
                user=spec.user,
                network=spec.network,
                read_only=spec.read_only,
                privileged=False,
                capabilities_dropped=("ALL",),
                capabilities_added=(),
                security_options=("no-new-privileges",),
                memory=spec.memory,
                memory_and_swap=spec.memory,
                pids=spec.pids,
                cpus=spec.cpus,
                shm=spec.shm,
                restarts="no",
                bounded_logs=True,
                mounts=spec.mounts,
                devices=spec.devices.device_ids if spec.devices else (),
            )

    async def list(self, labels: Mapping[str, str]) -> list[ContainerStatus]:
        async with self._question("list"):
            return [
                container.listed()
                for container in self._containers.values()
                if labels.items() <= dict(container.spec.labels).items()
            ]

    async def stop(self, container_id: str, *, grace: float) -> None:
        async with self._call("stop", extra=grace):
            container = self._find(container_id)
            if container.running:
                await container.stop(grace)

    async def kill(self, container_id: str) -> None:
        async with self._call("kill"):
            container = self._find(container_id)
            if container.running:
                await container.kill(through_engine=True)

    async def remove(self, container_id: str) -> None:
        async with self._call("remove"):
            try:
                container = self._find(container_id)
            except NotFoundError:
                return
            if container.running:
                await container.kill(through_engine=True)
            if self._containers.pop(container.id, None) is not None:
                container.leave()

    async def logs(self, container_id: str, *, tail: int) -> str:
        async with self._question("logs"):
            return "\n".join(self._find(container_id).last_lines(tail))

    @asynccontextmanager
    async def follow_logs(self, container_id: str, *, tail: int) -> AsyncIterator[AsyncIterator[str]]:
        async with self._question("follow_logs"):
            lines = self._find(container_id).lines(tail)
        yield lines

    @asynccontextmanager
    async def events(
        self, labels: Mapping[str, str], *, since: datetime | None = None
    ) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        async with self._question("events"):
            stream = self._events.open(dict(labels), since or datetime.now(UTC))
        try:
            yield stream.told(self._thawed)
        finally:
            self._events.close(stream)

    async def close(self) -> None:
        """Unlike an engine's, its containers cannot outlive the process: they are killed."""
        running = [container for container in self._containers.values() if container.running]
        if running:
            await asyncio.wait([asyncio.create_task(container.kill()) for container in running], timeout=self._bound)
        self._events.cut(None)

    # How.

    @asynccontextmanager
    async def _question(self, name: str, *, extra: float = 0) -> AsyncIterator[None]:
        """What is wrong with the engine now, and the bound of the call."""
        try:
            async with asyncio.timeout(self._bound + extra):
                await self._thawed.wait()
                if not self._reachable:
                    raise EngineUnreachableError("cannot reach the container engine: Connection refused")
                if (error := self.refuse.get(name)) is not None:
                    raise EngineRefusedError(error)
                yield
        except TimeoutError:
            raise EngineUnreachableError(
                f"the container engine gave no answer within {self._bound + extra:g} s"
            ) from None

    @asynccontextmanager
    async def _call(self, name: str, *, extra: float = 0) -> AsyncIterator[None]:
        self.calls.append(name)
        async with self._question(name, extra=extra):
            yield

    def _find(self, container_id: str) -> MemoryContainer:
        for container in self._containers.values():
            if container_id in {container.id, container.spec.name}:
                return container
        raise NotFoundError(f"No such container: {container_id}")
