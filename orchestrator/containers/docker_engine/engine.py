"""The `ContainerEngine` that speaks to Docker Engine over its API."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, Self, TypeVar

from orchestrator.containers.docker_engine import answers, bodies, decoding, gateways
from orchestrator.containers.docker_engine.bounds import USUAL, Bounds
from orchestrator.containers.docker_engine.build import BuildRequest, run_build
from orchestrator.containers.docker_engine.client import Client, ClientPool, raise_for_status, url
from orchestrator.containers.docker_engine.gateway_keeper import GatewayKeeper
from orchestrator.containers.docker_engine.log_frames import LogLines
from orchestrator.containers.docker_engine.own_container import HostFolders, host_folders, own_container_id
from orchestrator.containers.docker_engine.streams import Streams
from orchestrator.containers.docker_engine.thread_pool import BoundedThreadPool
from orchestrator.containers.endpoint import Endpoint, UnixEndpoint, token_file
from orchestrator.containers.spec import (
    ContainerIsolation,
    ContainerSpec,
    ContainerStatus,
    EngineEvent,
    EngineInfo,
    ImageStatus,
)
from orchestrator.errors import EngineRefusedError, NotFoundError

T = TypeVar("T")


class DockerEngine:
    """Docker Engine. Every blocking call runs in a `BoundedThreadPool`, every stream in a thread of its own."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        bounds: Bounds = USUAL,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`environment` says where the engine is (DOCKER_HOST and its like). Nothing is connected yet.

        `labels`: for every container beside its own.
        """
        self._labels = dict(labels)
        self._bounds = bounds
        self._pool = ClientPool(environment)
        self._streams = Streams(self._pool, limit=256)
        # Apart, so that a kill never waits behind stops in their grace, nor a question behind starts.
        self._asking = BoundedThreadPool("ask", 4)
        self._starting = BoundedThreadPool("start", 16)
        self._stopping = BoundedThreadPool("stop", 32)
        self._killing = BoundedThreadPool("kill", 8)
        self._pulling = BoundedThreadPool("pull", 4)
        self._told: EngineInfo | None = None
        self._gateways = GatewayKeeper(
            ask=lambda function: self._call(self._asking, function, self._bounds.ask),
            change=lambda function: self._call(self._starting, function, self._bounds.change),
            end=lambda function: self._call(self._killing, function, self._bounds.change),
        )
        self._host_folders: HostFolders | None = None

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        timeout: float = 10,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """The engine that `docker` on the command line would speak to. `timeout`: seconds for an answer."""
        return cls(os.environ if environment is None else environment, bounds=Bounds(ask=timeout), labels=labels)

    async def info(self) -> EngineInfo:
        self._told = await self._call(self._asking, lambda client: answers.info(client.info()), self._bounds.ask)
        return self._told

    async def ping(self) -> None:
        # `info` starts runc and docker-init for their versions: 10 ms of CPU each time.
        await self._call(self._asking, lambda client: client.ping(), self._bounds.ask)

    async def image(self, reference: str) -> ImageStatus:
        def inspect(client: Client) -> ImageStatus:
            return answers.image(client.inspect_image(reference))  # type: ignore[no-untyped-call]

        return await self._call(self._asking, inspect, self._bounds.ask)

    async def images(self, labels: Mapping[str, str]) -> list[ImageStatus]:
        filters = {"label": bodies.label_filter(dict(labels))}
        told = await self._call(self._asking, lambda client: client.images(filters=filters), self._bounds.ask)
        return [answers.image(entry) for entry in (told if isinstance(told, list) else [])]

    async def remove_image(self, reference: str) -> None:
        def remove(client: Client) -> None:
            client.remove_image(reference)

        await self._call(self._killing, remove, self._bounds.change)

    async def tag_image(self, reference: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")

        def give(client: Client) -> None:
            client.tag(reference, repository, tag)

        await self._call(self._killing, give, self._bounds.change)

    async def pull(self, reference: str) -> ImageStatus:
        def pull(client: Client) -> None:
            for message in client.pull(reference, stream=True, decode=True):
                if isinstance(message, dict) and (error := message.get("error")):
                    kind = NotFoundError if "not found" in error or "denied" in error else EngineRefusedError
                    raise kind(f"{reference} cannot be pulled: {error}")

        await self._call(self._pulling, pull, self._bounds.pull)
        return await self.image(reference)

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
        request = BuildRequest(context, tag, dockerfile, labels, build_args)
        await run_build(
            self._streams, request, on_output=on_output, bound=self._bounds.build, silence=self._bounds.silence
        )
        return await self.image(tag)

    async def create(self, spec: ContainerSpec) -> str:
        selinux = (self._told or await self.info()).selinux
        folders = await self._folders()
        for_host = replace(spec, mounts=folders.translated(spec.mounts), labels={**self._labels, **spec.labels})
        body = bodies.create_body(for_host, selinux=selinux)
        if spec.gateway is None:
            return await self._create(body, spec.name)
        gateway = replace(spec.gateway, token_file=folders.on_host(spec.gateway.token_file))
        beside = gateways.gateway_body(spec, gateway, self._labels, selinux=selinux)
        return await self._gateways.create(
            spec, beside, lambda: self._create(gateways.with_sockets(body, spec, gateway), spec.name)
        )

    async def start(self, container_id: str) -> None:
        starts = [self._call(self._starting, lambda client: client.start(container_id), self._bounds.change)]
        if self._gateways.has(container_id):
            starts.append(self._gateways.start(container_id))
        for failure in await asyncio.gather(*starts, return_exceptions=True):
            if failure is not None:
                raise failure

    async def shares_sockets(self) -> bool:
        inside = (await self._folders()).by_place is not None
        return gateways.sockets_cross(self._told or await self.info(), inside=inside)

    async def endpoint(self, container_id: str, run_folder: Path) -> Endpoint:
        token = token_file(run_folder)
        if not await asyncio.to_thread(token.exists):
            return UnixEndpoint(run_folder)
        return await self._gateways.endpoint(container_id, (await asyncio.to_thread(token.read_text)).strip())

    async def inspect(self, container_id: str) -> ContainerStatus:
        return await self._call(
            self._asking, lambda client: answers.container(client.inspect_container(container_id)), self._bounds.ask
        )

    async def isolation(self, container_id: str) -> ContainerIsolation:
        return await self._call(
            self._asking, lambda client: answers.isolation(client.inspect_container(container_id)), self._bounds.ask
        )

    async def list(self, labels: Mapping[str, str]) -> list[ContainerStatus]:
        filters = {"label": bodies.label_filter(dict(labels))}
        told = await self._call(
            self._asking, lambda client: client.containers(all=True, filters=filters), self._bounds.ask
        )
        entries = told if isinstance(told, list) else []
        found = [status for entry in entries if (status := answers.listed(entry)) is not None]
        self._gateways.take_note(found)
        return found

    async def stop(self, container_id: str, *, grace: float) -> None:
        seconds = bodies.whole_seconds(grace)
        await self._call(
            self._stopping, lambda client: client.stop(container_id, timeout=seconds), self._bounds.end + seconds
        )

    async def kill(self, container_id: str) -> None:
        try:
            await self._call(self._killing, lambda client: client.kill(container_id), self._bounds.end)
        except EngineRefusedError as error:
            if "is not running" not in str(error):
                raise

    async def remove(self, container_id: str) -> None:
        """A removal that somebody else has begun is waited for."""
        deadline = monotonic() + self._bounds.change
        while not await self._remove_once(container_id):
            if monotonic() > deadline:
                raise EngineRefusedError(
                    f"container {container_id[:12]} is still being removed after {self._bounds.change:g} s"
                )
            await asyncio.sleep(0.1)
        await self._gateways.remove(container_id)

    async def sweep(self, labels: Mapping[str, str]) -> None:
        await self._gateways.sweep(labels, alive=await self.list(labels))

    async def logs(self, container_id: str, *, tail: int) -> str:
        lines = LogLines()

        def fetch(client: Client) -> bytes:
            response = client.get(
                url(client, f"/containers/{container_id}/logs"), params=bodies.log_query(tail), timeout=self._bounds.ask
            )
            raise_for_status(response)
            return bytes(response.content)

        told = lines.feed(await self._call(self._asking, fetch, self._bounds.ask))
        return "\n".join([*told, *lines.rest()])

    @asynccontextmanager
    async def follow_logs(self, container_id: str, *, tail: int) -> AsyncIterator[AsyncIterator[str]]:
        def request(client: Client) -> Any:
            return client.get(
                url(client, f"/containers/{container_id}/logs"),
                params={**bodies.log_query(tail), "follow": "1"},
                stream=True,
                timeout=self._bounds.ask,
            )

        async with self._streams.open(request, bound=self._bounds.ask) as pieces:
            yield decoding.log_lines(pieces)

    @asynccontextmanager
    async def events(
        self, labels: Mapping[str, str], *, since: datetime | None = None
    ) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        query = bodies.events_query(dict(labels), since)
        query["filters"] = json.dumps(query["filters"])

        def request(client: Client) -> Any:
            return client.get(url(client, "/events"), params=query, stream=True, timeout=self._bounds.ask)

        async with self._streams.open(request, bound=self._bounds.ask) as pieces:
            yield decoding.events(pieces)

    async def close(self) -> None:
        self._streams.close()
        for lane in (self._asking, self._starting, self._stopping, self._killing, self._pulling):
            lane.close()

    async def _create(self, body: Mapping[str, Any], name: str) -> str:
        def create(client: Client) -> str:
            return str(client.create_container_from_config(body, name)["Id"])  # type: ignore[no-untyped-call]

        return await self._call(self._starting, create, self._bounds.change)

    async def _folders(self) -> HostFolders:
        if self._host_folders is None:
            self._host_folders = await self._find_host_folders()
        return self._host_folders

    async def _find_host_folders(self) -> HostFolders:
        own = await asyncio.to_thread(own_container_id)
        if own is None:
            return HostFolders()
        try:
            told = await self._call(self._asking, lambda client: client.inspect_container(own), self._bounds.ask)
        except NotFoundError:  # a container, and none of this engine's: its dockerd runs in it too
            return HostFolders()
        return host_folders(told)

    async def _remove_once(self, container_id: str) -> bool:
        def remove(client: Client) -> None:
            client.remove_container(container_id, v=True, force=True)

        try:
            await self._call(self._killing, remove, self._bounds.change)
        except NotFoundError:
            return True
        except EngineRefusedError as error:
            if "already in progress" not in str(error):
                raise
            return False
        return True

    async def _call(self, lane: BoundedThreadPool, function: Callable[[Client], T], bound: float) -> T:
        return await lane.run(lambda: self._pool.call(function, bound=bound), bound=bound)
