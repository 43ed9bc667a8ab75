"""ObservedEngine: wraps a container engine, times its requests and counts its errors. Engines know nothing of it."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from orchestrator.containers.endpoint import Endpoint
from orchestrator.containers.engine import ContainerEngine, ignore
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
    BuildError,
    DeviceRequestError,
    EngineRefusedError,
    EngineUnreachableError,
    NotFoundError,
    OrchestratorError,
)
from orchestrator.telemetry.run_metrics import PREFIX

_ERROR_KINDS: Final[Mapping[type[OrchestratorError], str]] = {
    EngineUnreachableError: "unreachable",
    NotFoundError: "not_found",
    DeviceRequestError: "device_request",
    BuildError: "build",
    EngineRefusedError: "refused",
}
# Seconds. Queries take milliseconds, a start some hundred, a build up to many minutes.
_DURATIONS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1200)
_LAGS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class ObservedEngine:
    """A `ContainerEngine` that records in `metrics` how `engine` answers."""

    def __init__(self, engine: ContainerEngine, metrics: CollectorRegistry) -> None:
        self._engine = engine
        self._durations = Histogram(
            f"{PREFIX}engine_request_duration_seconds",
            "Time that a request to the container engine took, errors included.",
            ("operation",),
            buckets=_DURATIONS,
            registry=metrics,
        )
        self._errors = Counter(
            f"{PREFIX}engine_errors",
            "Failed requests to the container engine; the kind not_found is often expected.",
            ("operation", "kind"),
            registry=metrics,
        )
        self._reachable = Gauge(
            f"{PREFIX}engine_reachable",
            "1 if the container engine answered the last request, even with an error; else 0.",
            registry=metrics,
        )
        self._lag = Histogram(
            f"{PREFIX}engine_event_lag_seconds",
            "Time from a container's change, by the engine's clock, until its event was received.",
            buckets=_LAGS,
            registry=metrics,
        )

    @contextmanager
    def _request(self, operation: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except OrchestratorError as error:
            kind = next((kind for known, kind in _ERROR_KINDS.items() if isinstance(error, known)), "other")
            self._errors.labels(operation, kind).inc()
            self._record(operation, started, reachable=kind != "unreachable")
            raise
        else:  # not after a cancellation, which says nothing about the engine
            self._record(operation, started, reachable=True)

    def _record(self, operation: str, started: float, *, reachable: bool) -> None:
        self._durations.labels(operation).observe(time.perf_counter() - started)
        self._reachable.set(reachable)

    # ContainerEngine

    async def info(self) -> EngineInfo:
        with self._request("info"):
            return await self._engine.info()

    async def ping(self) -> None:
        with self._request("ping"):
            await self._engine.ping()

    async def image(self, reference: str) -> ImageStatus:
        with self._request("image"):
            return await self._engine.image(reference)

    async def images(self, labels: Mapping[str, str]) -> list[ImageStatus]:
        with self._request("images"):
            return await self._engine.images(labels)

    async def remove_image(self, reference: str) -> None:
        with self._request("remove_image"):
            await self._engine.remove_image(reference)

    async def tag_image(self, reference: str, name: str) -> None:
        with self._request("tag_image"):
            await self._engine.tag_image(reference, name)

    async def pull(self, reference: str) -> ImageStatus:
        with self._request("pull"):
            return await self._engine.pull(reference)

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
        with self._request("build"):
            return await self._engine.build(
                context, tag=tag, dockerfile=dockerfile, labels=labels, build_args=build_args, on_output=on_output
            )

    async def install(self, installation: Installation, on_output: Callable[[str], None]) -> ImageStatus:
        with self._request("install"):
            return await self._engine.install(installation, on_output)

    async def create(self, spec: ContainerSpec, *, on_warning: Callable[[str], None] = ignore) -> str:
        with self._request("create"):
            return await self._engine.create(spec, on_warning=on_warning)

    async def start(self, container_id: str) -> None:
        with self._request("start"):
            await self._engine.start(container_id)

    async def shares_sockets(self) -> bool:
        return await self._engine.shares_sockets()

    async def endpoint(self, container_id: str, run_folder: Path) -> Endpoint:
        return await self._engine.endpoint(container_id, run_folder)

    async def holds_volumes_to_size(self) -> bool:
        return await self._engine.holds_volumes_to_size()

    async def volumes(self, labels: Mapping[str, str]) -> tuple[VolumeStatus, ...]:
        with self._request("volumes"):
            return await self._engine.volumes(labels)

    async def remove_volume(self, name: str) -> None:
        with self._request("remove_volume"):
            await self._engine.remove_volume(name)

    async def sweep(self, labels: Mapping[str, str]) -> None:
        with self._request("sweep"):
            await self._engine.sweep(labels)

    async def inspect(self, container_id: str) -> ContainerStatus:
        with self._request("inspect"):
            return await self._engine.inspect(container_id)

    async def isolation(self, container_id: str) -> ContainerIsolation:
        with self._request("isolation"):
            return await self._engine.isolation(container_id)

    async def processes(self, container_id: str) -> frozenset[int]:
        with self._request("processes"):
            return await self._engine.processes(container_id)

    async def list(self, labels: Mapping[str, str]) -> list[ContainerStatus]:
        with self._request("list"):
            return await self._engine.list(labels)

    async def stop(self, container_id: str, *, grace: float) -> None:
        with self._request("stop"):
            await self._engine.stop(container_id, grace=grace)

    async def kill(self, container_id: str) -> None:
        with self._request("kill"):
            await self._engine.kill(container_id)

    async def remove(self, container_id: str) -> None:
        with self._request("remove"):
            await self._engine.remove(container_id)

    async def logs(self, container_id: str, *, tail: int) -> str:
        with self._request("logs"):
            return await self._engine.logs(container_id, tail=tail)

    def follow_logs(self, container_id: str, *, tail: int) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        # Not timed: a stream lasts for as long as it is read.
        return self._engine.follow_logs(container_id, tail=tail)

    @asynccontextmanager
    async def events(
        self, labels: Mapping[str, str], *, since: datetime | None = None
    ) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        async with self._engine.events(labels, since=since) as events:
            yield self._with_lag(events)

    async def close(self) -> None:
        await self._engine.close()

    async def _with_lag(self, events: AsyncIterator[EngineEvent]) -> AsyncIterator[EngineEvent]:
        async for event in events:
            self._lag.observe(max(0.0, (datetime.now(UTC) - event.time).total_seconds()))
            yield event
