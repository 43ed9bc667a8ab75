"""The gateways of one engine: made, started and removed along with the containers that they belong to."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from orchestrator.containers.docker_engine import bodies, gateways
from orchestrator.containers.docker_engine.client import Client
from orchestrator.containers.endpoint import TcpEndpoint
from orchestrator.containers.spec import ContainerSpec, ContainerStatus
from orchestrator.errors import EngineError, EngineRefusedError, NotFoundError

T = TypeVar("T")

_NETWORK_TRIES: Final = 3
"""Another orchestrator may remove the network between its being found and its being joined."""
_PORT_SECONDS: Final = 5.0
_PORT_LOOK: Final = 0.02


class _Ask(Protocol):
    def __call__(self, function: Callable[[Client], T]) -> Awaitable[T]: ...


class GatewayKeeper:
    """`ask`, `change` and `end` put a call to the engine, each in its own lane and within its own bound."""

    def __init__(self, *, ask: _Ask, change: _Ask, end: _Ask) -> None:
        self._ask = ask
        self._change = change
        self._end = end
        self._names: dict[str, str] = {}
        """Of gateways, by the id of the container that they belong to."""
        self._network = asyncio.Lock()
        self._joining = 0

    def take_note(self, containers: Iterable[ContainerStatus]) -> None:
        """Of containers of an orchestrator before this one."""
        for container in containers:
            if name := container.labels.get(gateways.LABEL_GATEWAY):
                self._names[container.id] = name

    def has(self, container_id: str) -> bool:
        """Whether this container has a gateway."""
        return container_id in self._names

    async def create(self, spec: ContainerSpec, body: dict[str, Any], create: Callable[[], Awaitable[str]]) -> str:
        """The container that `create` makes, with its volume and gateway; its id."""
        name = gateways.gateway_name(spec.name)
        labels = gateways.gateway_labels(spec.labels, spec.name)

        def make_volume(client: Client) -> None:
            client.create_volume(name, driver="local", driver_opts=gateways.VOLUME_OPTIONS, labels=labels)

        def make_gateway(client: Client) -> None:
            client.create_container_from_config(body, name)  # type: ignore[no-untyped-call]

        await self._change(make_volume)
        try:
            await self._change(make_gateway)
            container_id = await create()
        except BaseException:
            with suppress(EngineError):
                await self._remove(name)
            raise
        self._names[container_id] = name
        return container_id

    async def start(self, container_id: str) -> None:
        """The gateway of this container."""
        self._joining += 1
        try:
            await self._start(self._names[container_id])
        finally:
            self._joining -= 1

    async def endpoint(self, container_id: str, token: str) -> TcpEndpoint:
        """Raises `EngineRefusedError` where the engine publishes no port for it."""
        name = self._names.get(container_id)
        if name is None:
            raise NotFoundError("the container has a token and no gateway")
        deadline = monotonic() + _PORT_SECONDS
        while True:
            answer = await self._ask(lambda client: client.inspect_container(name))
            if (port := gateways.published_port(answer)) is not None:
                return TcpEndpoint("127.0.0.1", port, token)
            if monotonic() > deadline:
                raise EngineRefusedError(f"the engine publishes no port of the container {name}")
            await asyncio.sleep(_PORT_LOOK)

    async def remove(self, container_id: str) -> None:
        """What belongs to this container, which is gone."""
        if (name := self._names.get(container_id)) is not None:
            await self._remove(name)
            self._names.pop(container_id, None)

    async def sweep(self, labels: Mapping[str, str], *, alive: Iterable[ContainerStatus]) -> None:
        """Gateways and volumes of containers with these labels that are not among those `alive`."""
        kept = {container.labels.get(gateways.LABEL_GATEWAY) for container in alive}
        filters = {"label": bodies.label_filter(gateways.marked(labels))}
        told = await self._ask(lambda client: client.containers(all=True, filters=filters))
        names = {name.lstrip("/") for entry in told for name in entry.get("Names") or ()}
        volumes = await self._ask(lambda client: client.volumes(filters=filters))
        names |= {entry["Name"] for entry in volumes.get("Volumes") or ()}
        for name in names - kept:
            await self._remove(name)

    async def _start(self, name: str) -> None:
        tries_left = _NETWORK_TRIES
        while True:
            async with self._network:
                await self._make_network()
            tries_left -= 1
            try:
                await self._change(lambda client: client.start(name))
            except NotFoundError:
                if not tries_left:
                    raise
            else:
                return

    async def _make_network(self) -> None:
        def make(client: Client) -> None:
            client.create_network(
                gateways.NETWORK,
                driver="bridge",
                options=gateways.NETWORK_OPTIONS,
                labels={gateways.LABEL_OF: ""},
                check_duplicate=True,
            )

        try:
            await self._change(make)
        except EngineRefusedError as error:
            if "already exists" not in str(error):
                raise

    async def _remove(self, name: str) -> None:
        with suppress(NotFoundError):
            await self._end(lambda client: client.remove_container(name, v=True, force=True))
        with suppress(NotFoundError):
            await self._end(lambda client: client.remove_volume(name))
        async with self._network:
            if not self._joining:
                with suppress(NotFoundError, EngineRefusedError):  # others are on it
                    await self._end(lambda client: client.remove_network(gateways.NETWORK))
