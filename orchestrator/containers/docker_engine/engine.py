"""DockerEngine: the `ContainerEngine` over the API of Docker Engine."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, Self

from orchestrator.containers.docker_engine import answers, bodies, capabilities, decoding, permissions, podman
from orchestrator.containers.docker_engine.build import BuildRequest, run_build
from orchestrator.containers.docker_engine.calls import DEFAULT_BOUNDS, Bounds, EngineCalls
from orchestrator.containers.docker_engine.client import (
    Client,
    ClientPool,
    create_container,
    credentials,
    is_podman,
    refused_permissions,
    url,
)
from orchestrator.containers.docker_engine.gateways import Gateways
from orchestrator.containers.docker_engine.install import run_installation
from orchestrator.containers.docker_engine.logs import Logs
from orchestrator.containers.docker_engine.own_container import HostFolders, find_host_folders, own_view
from orchestrator.containers.docker_engine.streams import Streams
from orchestrator.containers.endpoint import Endpoint, UnixEndpoint, token_file
from orchestrator.containers.engine import ignore
from orchestrator.containers.spec import (
    BindMount,
    ContainerIsolation,
    ContainerSpec,
    ContainerStatus,
    EngineEvent,
    EngineInfo,
    ImageStatus,
    Installation,
    Volume,
    VolumeStatus,
)
from orchestrator.errors import EngineError, EngineRefusedError, NotFoundError

_QUOTA_TRIAL: Final = "plugin-orchestrator-quota-trial"  # one name, so that a crash leaves no more than one
_TRIAL_LABELS: Final = {_QUOTA_TRIAL: ""}
_TRIED_QUOTA: Final = 1024 * 1024  # bytes of the volume by which quotas are tried


class DockerEngine:
    """Docker Engine. Every blocking call runs in a `BoundedThreadPool`, every stream in its own thread."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        bounds: Bounds = DEFAULT_BOUNDS,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`environment` has the engine's address (DOCKER_HOST etc.). Nothing is connected yet.

        `labels`: for every container and named volume, besides its own.
        """
        self._labels = dict(labels)
        self._bounds = bounds
        self._clients = clients = ClientPool(environment)
        self._calls = EngineCalls(clients, bounds)
        self._streams = Streams(clients, limit=256)
        self._logs = Logs(self._calls, self._streams)
        self._gateways = Gateways(self._calls)
        self._info: EngineInfo | None = None
        self._host_folders: HostFolders | None = None
        self._quota: bool | None = None

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        timeout: float = 10,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """The engine that the docker command would use: by DOCKER_HOST, or its context. `timeout`: seconds for an
        answer to a query; where it is long, other requests have at least as much.
        """
        usual = DEFAULT_BOUNDS
        bounds = Bounds(query=timeout, change=max(usual.change, timeout), end=max(usual.end, timeout))
        return cls(os.environ if environment is None else environment, bounds=bounds, labels=labels)

    @property
    def address(self) -> str:
        """Where the engine is, and what says so. Raises `EngineAddressError`."""
        return str(self._clients.address)

    needed_permissions = permissions.NEEDED

    async def refused_permissions(self) -> tuple[str, ...]:
        """What a proxy of the engine's socket does not allow, of all that is needed. Changes nothing."""
        return await self._calls.query(refused_permissions)

    async def info(self) -> EngineInfo:
        self._info = await self._calls.query(lambda client: capabilities.engine_info(client.info()))
        return self._info

    async def ping(self) -> None:
        # `info` starts runc and docker-init for their versions: 10 ms of CPU each time.
        await self._calls.query(lambda client: client.ping())

    async def image(self, reference: str) -> ImageStatus:
        def inspect(client: Client) -> ImageStatus:
            return answers.image(client.inspect_image(reference))  # type: ignore[no-untyped-call]

        return await self._calls.query(inspect)

    async def images(self, labels: Mapping[str, str]) -> list[ImageStatus]:
        filters = {"label": bodies.label_filter(dict(labels))}
        entries = await self._calls.query(lambda client: client.images(filters=filters))
        found = map(answers.image, answers.items(entries))
        return [image for image in found if answers.carries(image.labels, labels)]

    async def remove_image(self, reference: str) -> None:
        def remove(client: Client) -> None:
            client.remove_image(reference)

        await self._calls.remove(remove)

    async def tag_image(self, reference: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")

        def add_tag(client: Client) -> None:
            client.tag(reference, repository, tag)

        await self._calls.remove(add_tag)

    async def pull(self, reference: str) -> ImageStatus:
        problem = ""

        def pull(client: Client) -> None:
            nonlocal problem
            found, problem = credentials(reference)
            for message in client.pull(reference, stream=True, decode=True, auth_config=found):
                if isinstance(message, dict) and (error := message.get("error")):
                    # Registries say "denied" also where there is no such repository.
                    kind = NotFoundError if "not found" in error or "denied" in error else EngineRefusedError
                    raise kind(f"{reference} cannot be pulled: {error}")

        try:
            await self._calls.pull(pull)
        except (NotFoundError, EngineRefusedError) as error:
            raise type(error)(f"{error}; {problem}" if problem else str(error)) from error
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

    async def install(self, installation: Installation, on_output: Callable[[str], None]) -> ImageStatus:
        await self._make_volume(installation.volume, installation.owner_labels, shared=True)
        labelled = replace(installation, owner_labels={**self._labels, **installation.owner_labels})
        await run_installation(self._calls, self._streams, labelled, on_output)
        return await self.image(installation.tag)

    async def create(self, spec: ContainerSpec, *, on_warning: Callable[[str], None] = ignore) -> str:
        info = self._info or await self.info()
        selinux = info.selinux
        folders = await self._folders()
        await self._require_sources(spec)
        for_host = replace(
            spec,
            mounts=folders.translated(spec.mounts),
            labels={**self._labels, **spec.labels},
            volumes=tuple(self._labelled(volume) for volume in spec.volumes),
        )
        if info.product == "Podman":
            for_host = podman.adapted(for_host, info)
        for volume in spec.volumes:
            if volume.name:
                await self._make_volume(volume.name, volume.labels, size=volume.size)
        body = bodies.create_body(for_host, selinux=selinux)
        warnings: list[str] = []
        if spec.gateway is None:
            container_id = await self._calls.change(lambda client: create_container(client, body, spec.name, warnings))
        else:
            gateway = replace(spec.gateway, token_file=folders.on_host(spec.gateway.token_file))
            container_id = await self._gateways.create(
                spec, gateway, body, warnings, extra_labels=self._labels, info=info
            )
        for warning in warnings:
            on_warning(warning)
        return container_id

    def _labelled(self, volume: Volume) -> Volume:
        return replace(volume, labels={**self._labels, **volume.labels}) if volume.name else volume

    async def _require_sources(self, spec: ContainerSpec) -> None:
        """Raise `EngineRefusedError` for a mount whose source does not exist, where this host has it."""
        # Podman would create the folder; Docker says the same with a path of the host.
        if spec.mounts and await self.shares_sockets():
            for mount in await asyncio.to_thread(_without_source, spec.mounts):
                raise EngineRefusedError(f"the source of the mount {mount.target} does not exist")

    async def _make_volume(
        self, name: str, labels: Mapping[str, str], *, size: int | None = None, shared: bool = False
    ) -> None:
        """Make the named volume where it does not exist. Raises `EngineRefusedError` for one that is somebody else's.

        `shared`: between owners, whose labels differ by their values.
        """
        options = bodies.quota_options(size) if size is not None else None

        def create(client: Client) -> Any:
            return client.create_volume(name, driver="local", driver_opts=options, labels={**self._labels, **labels})

        # Not left to the creation of a container: Podman leaves out the labels. Engines answer with an existing volume,
        # which has the operator's labels of the day that it was made on.
        made = answers.labels_of(await self._calls.change(create))
        if not answers.carries(made, dict.fromkeys(labels) if shared else labels):
            raise EngineRefusedError(
                f"the volume {name} exists and is not this orchestrator's: it lacks its labels. Rename or remove it"
            )

    async def start(self, container_id: str) -> None:
        # At once: a gateway delays no start. Both are awaited, so that none is under way when one raises.
        starts = [self._calls.change(lambda client: client.start(container_id))]
        if self._gateways.has(container_id):
            starts.append(self._gateways.start(container_id))
        for failure in await asyncio.gather(*starts, return_exceptions=True):
            if failure is not None:
                raise failure

    async def shares_sockets(self) -> bool:
        inside = (await self._folders()).by_mount_point is not None
        return capabilities.shares_sockets(self._info or await self.info(), inside=inside)

    async def endpoint(self, container_id: str, run_folder: Path) -> Endpoint:
        token = token_file(run_folder)
        if not await asyncio.to_thread(token.exists):
            return UnixEndpoint(run_folder)
        return await self._gateways.endpoint(container_id, (await asyncio.to_thread(token.read_text)).strip())

    async def inspect(self, container_id: str) -> ContainerStatus:
        return await self._calls.query(lambda client: answers.container(client.inspect_container(container_id)))

    async def isolation(self, container_id: str) -> ContainerIsolation:
        reported = await self._calls.query(lambda client: answers.isolation(client.inspect_container(container_id)))
        if not await self._is_podman():
            return reported
        return await self._calls.query(lambda client: podman.isolation(client, container_id, reported))

    async def processes(self, container_id: str) -> frozenset[int]:
        # Podman's own column for the host's number: its PID is the one inside the container.
        columns = podman.HOST_PID if await self._is_podman() else None
        try:
            return answers.processes(await self._calls.query(lambda client: client.top(container_id, columns)))
        except EngineRefusedError:
            # Engines refuse for a container that does not run, each in its own words, Podman 4 in none that is JSON.
            if (await self.inspect(container_id)).state in {"running", "paused"}:
                raise
            return frozenset()

    async def list(self, labels: Mapping[str, str]) -> list[ContainerStatus]:
        filters = {"label": bodies.label_filter(dict(labels))}
        entries = await self._calls.query(lambda client: client.containers(all=True, filters=filters))
        statuses = [status for entry in answers.items(entries) if (status := answers.listed(entry)) is not None]
        found = [status for status in statuses if answers.carries(status.labels, labels)]
        # After a restart, only the labels show which container has a gateway.
        self._gateways.adopt(found)
        return found

    async def stop(self, container_id: str, *, grace: float) -> None:
        seconds = bodies.whole_seconds(grace)
        await self._calls.stop(lambda client: client.stop(container_id, timeout=seconds), grace=seconds)

    async def kill(self, container_id: str) -> None:
        try:
            await self._calls.kill(lambda client: client.kill(container_id))
        except EngineRefusedError:
            # Engines refuse for a container that does not run, each in its own words.
            if (await self.inspect(container_id)).state in {"running", "paused"}:
                raise

    async def remove(self, container_id: str) -> None:
        # A removal that is already in progress is waited for.
        deadline = monotonic() + self._bounds.change
        while not await self._remove_once(container_id):
            if monotonic() > deadline:
                raise EngineRefusedError(
                    f"container {container_id[:12]} is still being removed after {self._bounds.change:g} s"
                )
            await asyncio.sleep(0.1)
        # Afterwards: a container that is still there needs it.
        await self._gateways.remove(container_id)

    async def holds_volumes_to_size(self) -> bool:
        if self._quota is None:
            self._quota = await self._try_quota()
        return self._quota

    async def volumes(self, labels: Mapping[str, str]) -> tuple[VolumeStatus, ...]:
        filters = {"label": bodies.label_filter(dict(labels))}
        listed = await self._calls.query(lambda client: client.volumes(filters=filters))
        found = tuple(each for each in answers.volumes(listed) if answers.carries(each.labels, labels))
        if not found:
            return ()
        try:
            # The engine measures all volumes of its disk for this: not for a list without any.
            sizes = answers.volume_sizes(await self._calls.change(lambda client: client.df()))
        except EngineError:
            return found
        return tuple(replace(volume, size=sizes.get(volume.name)) for volume in found)

    async def remove_volume(self, name: str) -> None:
        def remove(client: Client) -> None:
            client.remove_volume(name)

        await self._calls.remove(remove)

    async def _try_quota(self) -> bool:
        # Only the engine knows its disk: XFS and ext4 have project quotas where they are mounted with them.
        def create(client: Client) -> Any:
            options = bodies.quota_options(_TRIED_QUOTA)
            return client.create_volume(_QUOTA_TRIAL, driver="local", driver_opts=options, labels=_TRIAL_LABELS)

        try:
            made = await self._calls.change(create)
        except EngineRefusedError:
            return False
        # Engines answer with an existing volume of that name, whosever it is.
        if not answers.carries(answers.labels_of(made), _TRIAL_LABELS):
            return False
        with suppress(NotFoundError):  # another start tries the same
            await self.remove_volume(_QUOTA_TRIAL)
        return True

    async def sweep(self, labels: Mapping[str, str]) -> None:
        await self._gateways.sweep(labels, alive=await self.list(labels))

    async def logs(self, container_id: str, *, tail: int) -> str:
        return "\n".join(await self._logs.last(container_id, tail, whole=await self._is_podman()))

    @asynccontextmanager
    async def follow_logs(self, container_id: str, *, tail: int) -> AsyncIterator[AsyncIterator[str]]:
        async with self._logs.follow(container_id, tail, whole=await self._is_podman()) as lines:
            yield lines

    @asynccontextmanager
    async def events(
        self, labels: Mapping[str, str], *, since: datetime | None = None
    ) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        query = bodies.events_query(dict(labels), since)
        query["filters"] = json.dumps(query["filters"])

        def request(client: Client) -> Any:
            return client.get(url(client, "/events"), params=query, stream=True, timeout=self._bounds.query)

        async with self._streams.open(request, bound=self._bounds.query) as pieces:
            yield decoding.events(pieces, labels)

    async def close(self) -> None:
        self._streams.close()
        self._calls.close()

    async def _is_podman(self) -> bool:
        if self._info is not None:
            return self._info.product == "Podman"
        return await self._calls.query(is_podman)

    async def _folders(self) -> HostFolders:
        if self._host_folders is None:
            view = await asyncio.to_thread(own_view, hostname=socket.gethostname())
            self._host_folders = await find_host_folders(self._calls, view)
        return self._host_folders

    async def _remove_once(self, container_id: str) -> bool:
        def remove(client: Client) -> None:
            client.remove_container(container_id, v=True, force=True)

        try:
            await self._calls.remove(remove)
        except NotFoundError:
            return True
        except EngineRefusedError as error:
            if "already in progress" not in str(error):
                raise
            return False
        return True


def _without_source(mounts: Iterable[BindMount]) -> list[BindMount]:
    missing = []
    for mount in mounts:
        try:
            mount.source.stat()
        except FileNotFoundError:
            missing.append(mount)
        except OSError:
            continue  # not for this user to see: the engine may
    return missing
