"""Gateways: containers that forward a plugin container's sockets here by TCP, where a Unix socket cannot be shared.

A plugin's container keeps its `network: none`. Its sockets are in an in-memory volume of the engine that its gateway
mounts too; only the gateway is on a network, and its one port is published on the loopback of the engine's machine.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from plugin_runtime.gateway import PORT, TOKEN_FILE

from orchestrator.containers.docker_engine import answers, bodies, podman
from orchestrator.containers.docker_engine.calls import EngineCalls
from orchestrator.containers.docker_engine.client import Client, create_container
from orchestrator.containers.endpoint import TcpEndpoint
from orchestrator.containers.spec import BindMount, ContainerSpec, ContainerStatus, EngineInfo, Gateway
from orchestrator.errors import EngineError, EngineRefusedError, NotFoundError

LABEL_GATEWAY: Final = "plugin-orchestrator.gateway"
"""On a plugin's container: the name of its gateway, and of the volume that the two share."""
LABEL_OF: Final = "plugin-orchestrator.gateway-of"
"""On a gateway and a volume: the name of the plugin's container."""

_SUFFIX: Final = "-gateway"
_PORT: Final = f"{PORT}/tcp"
_MEMORY: Final = 128 * 1024 * 1024
_USER: Final = "65531:65531"  # not the plugin's, so neither can replace the other's files in the folder they share
# Prefixes its plugin's labels on a gateway: it is found by them, and not mistaken for the plugin's container.
_LABEL_PREFIX: Final = "gateway."
_NETWORK: Final = "plugin-orchestrator"  # one for all gateways: Docker's addresses run out after some thirty networks
_NETWORK_OPTIONS: Final = {
    "com.docker.network.bridge.enable_icc": "false",  # gateways cannot reach each other
    "com.docker.network.bridge.enable_ip_masquerade": "false",  # nor anything outside
}
# A MiB, by pages of 4 KiB: Podman 4 takes a `size` for a quota of its disk, which few disks have.
_VOLUME_OPTIONS: Final = {"type": "tmpfs", "device": "tmpfs", "o": "nr_blocks=256,mode=1777,nosuid,nodev,noexec"}
_MAX_NETWORK_TRIES: Final = 3  # another orchestrator may remove the network after it was found and before it is joined
_PORT_SECONDS: Final = 5.0  # wait for the engine to publish a gateway's port
_PORT_POLL_SECONDS: Final = 0.02


class Gateways:
    """All gateways of one engine, created, started and removed along with their containers."""

    def __init__(self, calls: EngineCalls) -> None:
        self._calls = calls
        self._names: dict[str, str] = {}  # id of a container → name of its gateway
        self._network = asyncio.Lock()
        # Gateways that are being started: meanwhile the network is not removed.
        self._joining = 0

    def adopt(self, containers: Iterable[ContainerStatus]) -> None:
        """Adopt the gateways of containers that an earlier orchestrator created."""
        for container in containers:
            if name := container.labels.get(LABEL_GATEWAY):
                self._names[container.id] = name

    def has(self, container_id: str) -> bool:
        return container_id in self._names

    async def create(
        self,
        spec: ContainerSpec,
        gateway: Gateway,
        body: dict[str, Any],
        warnings: list[str],
        *,
        extra_labels: Mapping[str, str],
        info: EngineInfo,
    ) -> str:
        """Create the container of `spec` and `body` with its volume and gateway; its id. `gateway` has host paths;
        `warnings` gets what the engine says of the container; `extra_labels` are those of every container.
        """
        name = _name(spec.name)
        labels = _labels(spec)
        beside = gateway_body(spec, gateway, extra_labels, info)

        def create_volume(client: Client) -> Any:
            return client.create_volume(name, driver="local", driver_opts=_VOLUME_OPTIONS, labels=labels)

        # Engines answer with an existing volume of that name, whosever it is.
        if not answers.carries(answers.labels_of(await self._calls.change(create_volume)), labels):
            raise EngineRefusedError(f"another volume is called {name}: remove it")
        try:
            await self._calls.change(lambda client: create_container(client, beside, name))
            with_sockets = _with_sockets(body, spec, gateway, selinux=info.selinux)
            container_id = await self._calls.change(
                lambda client: create_container(client, with_sockets, spec.name, warnings)
            )
        except BaseException:
            with suppress(EngineError):
                await self._remove(name)
            raise
        self._names[container_id] = name
        return container_id

    async def start(self, container_id: str) -> None:
        """Start the gateway of this container."""
        self._joining += 1
        try:
            await self._start(self._names[container_id])
        finally:
            self._joining -= 1

    async def endpoint(self, container_id: str, token: str) -> TcpEndpoint:
        """Raises `EngineRefusedError` where the engine publishes no port for the gateway."""
        name = self._names.get(container_id)
        if name is None:
            raise NotFoundError("the container has a token and no gateway")
        deadline = monotonic() + _PORT_SECONDS
        while True:
            answer = await self._calls.query(lambda client: client.inspect_container(name))
            if (port := _published_port(answer)) is not None:
                return TcpEndpoint("127.0.0.1", port, token)
            if monotonic() > deadline:
                raise EngineRefusedError(f"the engine publishes no port of the container {name}")
            await asyncio.sleep(_PORT_POLL_SECONDS)

    async def remove(self, container_id: str) -> None:
        """Remove gateway and volume of a removed container."""
        if (name := self._names.get(container_id)) is not None:
            await self._remove(name)
            self._names.pop(container_id, None)

    async def sweep(self, labels: Mapping[str, str], *, alive: Iterable[ContainerStatus]) -> None:
        """Remove gateways and volumes of containers with these labels, except those of `alive`."""
        in_use = {container.labels.get(LABEL_GATEWAY) for container in alive}
        wanted = _prefixed(labels)
        filters = {"label": bodies.label_filter(wanted)}
        containers = await self._calls.query(lambda client: client.containers(all=True, filters=filters))
        found = [(name.lstrip("/"), answers.labels_of(entry)) for entry in containers for name in entry["Names"] or ()]
        volumes = await self._calls.query(lambda client: client.volumes(filters=filters))
        found += [(entry["Name"], answers.labels_of(entry)) for entry in volumes.get("Volumes") or ()]
        names = {name for name, carried in found if answers.carries(carried, {**wanted, **_mark(name)})}
        for name in names - in_use:
            await self._remove(name)

    async def _start(self, name: str) -> None:
        tries_left = _MAX_NETWORK_TRIES
        while True:
            async with self._network:
                await self._create_network()
            tries_left -= 1
            try:
                await self._calls.change(lambda client: client.start(name))
            except NotFoundError:
                if not tries_left:
                    raise
            else:
                return

    async def _create_network(self) -> None:
        def create(client: Client) -> None:
            # `check_duplicate`: engines before Docker 25 make a second network of the same name without it.
            client.create_network(
                _NETWORK, driver="bridge", options=_NETWORK_OPTIONS, labels={LABEL_OF: ""}, check_duplicate=True
            )

        try:
            await self._calls.change(create)
        except EngineRefusedError as error:
            try:
                ours = await self._network_is_ours()
            except NotFoundError:
                raise error from None
            if not ours:
                raise EngineRefusedError(
                    f"the network {_NETWORK} exists and is not the orchestrator's: it lacks its label. Remove it"
                ) from error

    async def _network_is_ours(self) -> bool:
        found = await self._calls.query(lambda client: client.inspect_network(_NETWORK))
        return LABEL_OF in answers.labels_of(found)

    async def _remove(self, name: str) -> None:
        """Remove the gateway of this name with its volume. What has another's label is left alone."""
        with suppress(NotFoundError):
            found = await self._calls.query(lambda client: client.inspect_container(name))
            if answers.carries(answers.container(found).labels, _mark(name)):
                await self._calls.remove(lambda client: client.remove_container(found["Id"], v=True, force=True))
        with suppress(NotFoundError):
            volume = await self._calls.query(lambda client: client.inspect_volume(name))
            if answers.carries(answers.labels_of(volume), _mark(name)):
                await self._calls.remove(lambda client: client.remove_volume(name))
        async with self._network:
            if not self._joining:
                with suppress(NotFoundError, EngineRefusedError):  # other gateways are on it
                    if await self._network_is_ours():
                        await self._calls.remove(lambda client: client.remove_network(_NETWORK))


def gateway_body(
    spec: ContainerSpec, gateway: Gateway, extra_labels: Mapping[str, str], info: EngineInfo
) -> dict[str, Any]:
    """The body of `POST /containers/create` for the gateway of `spec`'s container."""
    own = ContainerSpec(
        name=_name(spec.name),
        image=gateway.image,
        labels={**extra_labels, **_labels(spec)},
        environment={},
        memory=_MEMORY,
        pids=16,
        user=_USER,
        mounts=(BindMount(gateway.token_file, TOKEN_FILE),),
        entrypoint=("python", "-I", "-m", "plugin_runtime.gateway"),
    )
    if info.product == "Podman":
        own = podman.adapted(own, info)
    body = bodies.create_body(own, selinux=info.selinux)
    body = _with_sockets(body, spec, gateway, selinux=info.selinux)
    del body["Labels"][LABEL_GATEWAY]
    host = {
        **body["HostConfig"],
        "NetworkMode": _NETWORK,
        "PortBindings": {_PORT: [{"HostIp": "127.0.0.1", "HostPort": ""}]},
    }
    # The base image's own health check is for a plugin's runtime.
    return {**body, "Healthcheck": {"Test": ["NONE"]}, "ExposedPorts": {_PORT: {}}, "HostConfig": host}


def _with_sockets(body: dict[str, Any], spec: ContainerSpec, gateway: Gateway, *, selinux: bool) -> dict[str, Any]:
    """`body` with the volume that holds the sockets of `spec`'s container."""
    name = _name(spec.name)
    # NoCopy: else the engine copies what the image has at this path into the volume.
    volume = {"Type": "volume", "Source": name, "Target": gateway.folder, "VolumeOptions": {"NoCopy": True}}
    host = body["HostConfig"]
    return {
        **body,
        "Labels": {**body["Labels"], LABEL_GATEWAY: name},
        "HostConfig": {
            **host,
            "Mounts": [*host.get("Mounts", ()), volume],
            "SecurityOpt": [*host["SecurityOpt"], *([f"label=level:{_selinux_level(name)}"] if selinux else [])],
        },
    }


def _selinux_level(name: str) -> str:
    """The level of a gateway and of its plugin's container, which no others have. Each would get one of its own, and
    SELinux lets none connect to a socket of another level.
    """
    first, second = sorted(random.Random(name).sample(range(1024), 2))  # noqa: S311 - to tell apart, as engines do
    return f"s0:c{first},c{second}"


def _name(container_name: str) -> str:
    # After the container: whatever knows that can remove gateway and volume.
    return f"{container_name}{_SUFFIX}"


def _mark(name: str) -> dict[str, str]:
    return {LABEL_OF: name.removesuffix(_SUFFIX)}


def _labels(spec: ContainerSpec) -> dict[str, str]:
    return {LABEL_OF: spec.name, **_prefixed(spec.labels)}


def _prefixed(labels: Mapping[str, str]) -> dict[str, str]:
    return {f"{_LABEL_PREFIX}{name}": value for name, value in labels.items()}


def _published_port(answer: Any) -> int | None:
    try:
        return int(answer["NetworkSettings"]["Ports"][_PORT][0]["HostPort"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
