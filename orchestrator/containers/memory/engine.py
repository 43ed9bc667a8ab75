"""MemoryEngine: containers as coroutines in this process, and faults that a test sets."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.containers.endpoint import Endpoint, UnixEndpoint
from orchestrator.containers.engine import ignore
from orchestrator.containers.memory.container import MemoryContainer, Program
from orchestrator.containers.memory.images import Build, ImageStore
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
from orchestrator.errors import (
    DeviceRequestError,
    EngineError,
    EngineRefusedError,
    EngineUnreachableError,
    NotFoundError,
)


@dataclass(eq=False)
class EventStream:
    """One listener's queue of events."""

    labels: Mapping[str, str]
    waiting: asyncio.Queue[EngineEvent | EngineError | None] = field(default_factory=asyncio.Queue)

    async def events(self, thawed: asyncio.Event) -> AsyncIterator[EngineEvent]:
        """Events until the stream is closed; silent while the engine is frozen."""
        while (event := await self.waiting.get()) is not None:
            await thawed.wait()
            if isinstance(event, EngineError):
                raise event
            yield event

    def offer(self, event: EngineEvent) -> None:
        """Queue it if its labels match."""
        if self.labels.items() <= dict(event.labels).items():
            self.waiting.put_nowait(event)


class EventLog:
    """All events so far and all open streams."""

    def __init__(self) -> None:
        self._past: list[EngineEvent] = []
        self._streams: set[EventStream] = set()

    def emit(self, container_id: str, labels: Mapping[str, str], action: str, exit_code: int | None) -> None:
        event = EngineEvent(action, container_id, dict(labels), datetime.now(UTC), exit_code)
        self._past.append(event)
        for stream in self._streams:
            stream.offer(event)

    def open(self, labels: Mapping[str, str], since: datetime) -> EventStream:
        """A stream that replays past events from `since` on."""
        stream = EventStream(labels)
        for event in self._past:
            if event.time >= since:
                stream.offer(event)
        self._streams.add(stream)
        return stream

    def close(self, stream: EventStream) -> None:
        self._streams.discard(stream)

    def end_all(self, error: EngineError | None) -> None:
        """End every stream, with `error` or as if the engine had closed it."""
        for stream in self._streams:
            stream.waiting.put_nowait(error)
        self._streams.clear()


class MemoryEngine:
    """A `ContainerEngine` without containers.

    A program sees the host's own file system: the path of a bind mount is in its specification.
    """

    def __init__(self, *, device_drivers: tuple[str, ...] = (), bound: float = 1.0) -> None:
        """`device_drivers`: drivers whose device requests it serves. `bound`: seconds until a call to the frozen engine
        fails.
        """
        self.device_drivers = device_drivers
        self.refuse: dict[str, str] = {}
        """Name of a call (`stop`, `kill`, `create`, …) → its `EngineRefusedError`; the call then has no effect."""
        self.cdi_devices: tuple[str, ...] | None = None
        """Those that it lists."""
        self.device_refusals: dict[str, str] = {}
        """Driver of a device request, or `runtime` → the error of a start with it."""
        self.image_store = ImageStore()
        self.calls: list[str] = []
        """Names of all calls so far that change something."""
        self.quotas = False
        """Whether it holds volumes to their sizes, or says so."""
        self.discards: frozenset[str] = frozenset()
        """Those of `memory`, `swap` and `pids` that its kernel cannot limit: it accepts them, with a warning."""
        self._volumes: dict[str, VolumeStatus] = {}
        self._bound = bound
        self._containers: dict[str, MemoryContainer] = {}
        self._events = EventLog()
        self._reachable = True
        self._thawed = asyncio.Event()
        self._thawed.set()

    # For tests

    def add_image(self, reference: str, program: Program, *, labels: Mapping[str, str] | None = None) -> ImageStatus:
        """Add a local image whose containers run `program`."""
        return self.image_store.add(reference, program, labels or {})

    def set_reachable(self, reachable: bool) -> None:  # noqa: FBT001  the only argument
        """While unreachable, calls fail at once and open streams break; containers continue, as without dockerd."""
        self._reachable = reachable
        if not reachable:
            self.break_streams()

    def set_frozen(self, frozen: bool) -> None:  # noqa: FBT001  the only argument
        """While frozen, calls hang until their bound and streams are silent; events are delivered afterwards."""
        if frozen:
            self._thawed.clear()
        else:
            self._thawed.set()

    def break_streams(self) -> None:
        """Break every open stream of events."""
        self._events.end_all(EngineUnreachableError("the stream of events broke"))

    def out_of_memory(self, container_id: str) -> None:
        """The kernel kills some process in it for memory. Its program continues; `kill_outside` ends that too."""
        self._find(container_id).run_out_of_memory()

    def pause_outside(self, container_id: str) -> None:
        """`docker pause`. Its program continues here."""
        self._find(container_id).pause()

    async def kill_outside(self, container_id: str) -> None:
        """SIGKILL from outside the engine: no `kill` event precedes the end."""
        await self._find(container_id).kill()

    # The contract of ContainerEngine

    async def info(self) -> EngineInfo:
        async with self._query("info"):
            return EngineInfo(
                "0-memory",
                "none",
                "memory",
                "2",
                self.device_drivers,
                rootless=False,
                selinux=False,
                cdi_devices=self.cdi_devices,
            )

    async def ping(self) -> None:
        async with self._query("ping"):
            pass

    async def image(self, reference: str) -> ImageStatus:
        async with self._query("image"):
            return self.image_store.find(reference)

    async def images(self, labels: Mapping[str, str]) -> list[ImageStatus]:
        async with self._query("images"):
            return self.image_store.with_labels(labels)

    async def remove_image(self, reference: str) -> None:
        async with self._call("remove_image"):
            image = self.image_store.find(reference)
            if self.image_store.untag(image, reference):
                return
            if any(container.image_id == image.id for container in self._containers.values()):
                raise EngineRefusedError(f"the image {reference} is being used by a container")
            self.image_store.remove(image)

    async def tag_image(self, reference: str, name: str) -> None:
        async with self._call("tag_image"):
            self.image_store.tag(self.image_store.find(reference), name)

    async def pull(self, reference: str) -> ImageStatus:
        async with self._call("pull"):
            return self.image_store.pull(reference)

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
        # Not bounded as the others: a test's build may take its time.
        async with self._call("build", extra=60):
            build = Build(tag, (context / dockerfile).read_text(), dict(labels), dict(build_args))
            return await self.image_store.build(build, on_output)

    async def install(self, installation: Installation, on_output: Callable[[str], None]) -> ImageStatus:
        async with self._call("install", extra=60):
            self.image_store.find(installation.base)
            build = Build(installation.tag, installation.script, dict(installation.labels), {})
            return await self.image_store.build(build, on_output)

    async def create(self, spec: ContainerSpec, *, on_warning: Callable[[str], None] = ignore) -> str:
        async with self._call("create"):
            image = self.image_store.find(spec.image)
            if any(container.spec.name == spec.name for container in self._containers.values()):
                raise EngineRefusedError(f'the container name "/{spec.name}" is already in use')
            for mount in spec.mounts:
                if not mount.source.exists():
                    raise EngineRefusedError(f"bind source path does not exist: {mount.source}")
            for volume in spec.volumes:
                if volume.name:
                    self._volumes.setdefault(volume.name, VolumeStatus(volume.name, dict(volume.labels), size=0))
            for limit in sorted(self.discards):
                on_warning(f"Your kernel does not support {limit} limit capabilities. Limitation discarded.")
            container_id = secrets.token_hex(32)
            program = self.image_store.program(image)
            container = MemoryContainer(container_id, image.id, spec, program, self._events.emit)
            self._containers[container_id] = container
            self._events.emit(container.id, container.spec.labels, "create", None)
            return container_id

    async def start(self, container_id: str) -> None:
        async with self._call("start"):
            container = self._find(container_id)
            devices = container.spec.devices
            if devices is not None and (error := self._device_refusal(devices.driver)):
                container.fail_to_start(error)
                raise DeviceRequestError(error)
            container.start()

    def _device_refusal(self, driver: str) -> str:
        served = (*self.device_drivers, *(("runtime",) if "nvidia" in self.device_drivers else ()))
        refusal = "" if driver in served else f'could not select device driver "{driver}" with capabilities: [[gpu]]'
        return self.device_refusals.get(driver, refusal)

    async def shares_sockets(self) -> bool:
        return True

    async def endpoint(self, container_id: str, run_folder: Path) -> Endpoint:  # noqa: ARG002 - the protocol's
        return UnixEndpoint(run_folder)

    async def holds_volumes_to_size(self) -> bool:
        return self.quotas

    async def volumes(self, labels: Mapping[str, str]) -> tuple[VolumeStatus, ...]:
        async with self._query("volumes"):
            return tuple(volume for volume in self._volumes.values() if labels.items() <= dict(volume.labels).items())

    async def remove_volume(self, name: str) -> None:
        async with self._call("remove_volume"):
            if name not in self._volumes:
                raise NotFoundError(f"get {name}: no such volume")
            for container in self._containers.values():
                if name in {volume.name for volume in container.spec.volumes}:
                    raise EngineRefusedError(f"remove {name}: volume is in use - [{container.id}]")
            del self._volumes[name]

    async def sweep(self, labels: Mapping[str, str]) -> None:
        """Nothing to do: nothing is left behind here."""

    async def inspect(self, container_id: str) -> ContainerStatus:
        async with self._query("inspect"):
            return self._find(container_id).status

    async def isolation(self, container_id: str) -> ContainerIsolation:
        async with self._query("isolation"):
            spec = self._find(container_id).spec
            return ContainerIsolation(
                user=spec.user,
                network=spec.network,
                read_only=spec.read_only,
                privileged=False,
                capabilities_dropped=("ALL",),
                capabilities_added=(),
                security_options=("no-new-privileges",),
                memory=None if "memory" in self.discards | spec.unlimited else spec.memory,
                memory_and_swap=None if (self.discards | spec.unlimited) & {"memory", "swap"} else spec.memory,
                pids=None if "pids" in self.discards | spec.unlimited else spec.pids,
                cpus=spec.cpus,
                shm=spec.shm,
                restarts="no",
                bounded_logs=True,
                mounts=spec.mounts,
                devices=spec.devices.device_ids if spec.devices else (),
            )

    async def processes(self, container_id: str) -> frozenset[int]:
        async with self._query("processes"):
            container = self._find(container_id)
            return frozenset({container.pid}) if container.running else frozenset()

    async def list(self, labels: Mapping[str, str]) -> list[ContainerStatus]:
        async with self._query("list"):
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
                container.removed()

    async def logs(self, container_id: str, *, tail: int) -> str:
        async with self._query("logs"):
            return "\n".join(self._find(container_id).last_lines(tail))

    @asynccontextmanager
    async def follow_logs(self, container_id: str, *, tail: int) -> AsyncIterator[AsyncIterator[str]]:
        async with self._query("follow_logs"):
            lines = self._find(container_id).follow(tail)
        yield lines

    @asynccontextmanager
    async def events(
        self, labels: Mapping[str, str], *, since: datetime | None = None
    ) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        async with self._query("events"):
            stream = self._events.open(dict(labels), since or datetime.now(UTC))
        try:
            yield stream.events(self._thawed)
        finally:
            self._events.close(stream)

    async def close(self) -> None:
        # Unlike a real engine's, these containers cannot outlive the process: they are killed.
        running = [container for container in self._containers.values() if container.running]
        if running:
            await asyncio.wait([asyncio.create_task(container.kill()) for container in running], timeout=self._bound)
        self._events.end_all(None)

    @asynccontextmanager
    async def _query(self, name: str, *, extra: float = 0) -> AsyncIterator[None]:
        """Apply the bound and the faults set on the engine to one call."""
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
        async with self._query(name, extra=extra):
            yield

    def _find(self, container_id: str) -> MemoryContainer:
        for container in self._containers.values():
            if container_id in {container.id, container.spec.name}:
                return container
        raise NotFoundError(f"No such container: {container_id}")
