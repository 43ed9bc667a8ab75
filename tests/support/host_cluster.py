"""Several orchestrators over containers in memory, each behind a connection that can be cut, and a front over all."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from orchestrator.front.directory import KnownHost
from orchestrator.front.front_app import create_front
from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostEntry
from orchestrator.settings import Settings
from support.cut_link import CutLink
from support.harness import TIMEOUT, Harness, eventually, serve_app


class HostCluster:
    """`harnesses` by host name; add plugins to them, then `open`."""

    def __init__(self, folder: Path, *names: str, placed: bool = True, **settings: Any) -> None:
        self.harnesses: dict[str, Harness] = {}
        for name in names:
            (folder / name).mkdir()
            self.harnesses[name] = Harness(folder / name, placed=placed, **settings)
        self.labels: dict[str, dict[str, str]] = {}
        self.links: dict[str, CutLink] = {}
        self.settings = Settings(state_dir=folder / "front")
        self._stack = AsyncExitStack()
        self._client: httpx.AsyncClient | None = None
        self._front: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def add(self, name: str, **plugin: Any) -> None:
        """The plugin's folder on all hosts."""
        for harness in self.harnesses.values():
            harness.add(name, **plugin)

    async def open(self) -> httpx.AsyncClient:
        """Start all hosts and one front; returns a client of the front, which knows all hosts."""
        for name, harness in self.harnesses.items():
            await self._stack.enter_async_context(harness)
            await harness.open(direct=True)
            link = CutLink(urlsplit(harness.address).port or 80)
            self.links[name] = await self._stack.enter_async_context(link)
        return await self.open_front()

    async def open_front(self) -> httpx.AsyncClient:
        """Another front over the same hosts; returns its client."""
        entries = [
            HostEntry(name=name, address=link.address, labels=self.labels.get(name, {}))
            for name, link in self.links.items()
        ]
        front = self._front = create_front(self.settings, entries)
        await self._stack.enter_async_context(front.router.lifespan_context(front))
        address = await serve_app(self._stack, front, front.state.shutdown.requested)
        await eventually(lambda: all(host.status.answers for host in self.hosts.directory), "all hosts are known")
        self._client = await self._stack.enter_async_context(
            httpx.AsyncClient(base_url=address, timeout=TIMEOUT * 4, trust_env=False, verify=False)
        )
        return self._client

    @property
    def client(self) -> httpx.AsyncClient:
        assert self._client is not None, "open the cluster first"
        return self._client

    @property
    def hosts(self) -> Hosts:
        found = self._front.state.hosts
        assert isinstance(found, Hosts)
        return found

    def known(self, host: str) -> KnownHost:
        return self.hosts.directory.hosts[host]

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(path, json=body) if body else await self.client.post(path)

    async def serving(self, plugin: str) -> list[str]:
        """The hosts on which it lives, as they say themselves."""
        found = []
        for name, harness in self.harnesses.items():
            health = (await harness.client.get(f"/v1/plugins/{plugin}/health")).json()
            if health.get("state") in ("INITIALIZED", "RUNNING", "LOADED"):
                found.append(name)
        return found
