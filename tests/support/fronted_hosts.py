"""Several whole orchestrators over containers in memory, each behind a network that can be cut, and a front over them.

async with FrontedHosts(tmp_path, "a", "b") as hosts:
    hosts["a"].add("reader", tools={"read": read})
    client = await hosts.open()
    hosts.network["a"].cut()
"""

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import httpx

from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostEntry
from orchestrator.settings import Settings
from support.cut_link import CutLink
from support.harness import TIMEOUT, Harness, open_front


class FrontedHosts:
    """Add plugins to its hosts, then open it. `client` calls the front."""

    def __init__(self, folder: Path, *names: str, **settings: Any) -> None:
        """`settings`: of every host."""
        self._folder = folder
        self._harnesses: dict[str, Harness] = {}
        for name in names:
            (folder / name).mkdir()
            self._harnesses[name] = Harness(folder / name, **settings)
        self.network: dict[str, CutLink] = {}
        self.front_settings = Settings(state_dir=folder / "front")
        self._stack = AsyncExitStack()
        self.client: httpx.AsyncClient

    def __getitem__(self, name: str) -> Harness:
        return self._harnesses[name]

    async def __aenter__(self) -> Self:
        for harness in self._harnesses.values():
            await self._stack.enter_async_context(harness)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def known(self) -> Hosts:
        """What the front knows."""
        return self._known

    async def open(self) -> httpx.AsyncClient:
        """Start the hosts, wait until their plugins have come to a verdict, then start the front."""
        entries = []
        for name, harness in self._harnesses.items():
            await harness.open(direct=True)
            for plugin in (await harness.client.get("/v1/plugins")).json():
                await harness.settled(plugin["name"])
            port = int(harness.address.rpartition(":")[2])
            link = self.network[name] = await self._stack.enter_async_context(CutLink(port))
            entries.append(harness.host_entry(name).model_copy(update={"address": link.address}))
        self.client = await self.open_front(entries)
        return self.client

    async def open_front(
        self, entries: list[HostEntry], *, wait_for: Collection[str] | None = None
    ) -> httpx.AsyncClient:
        """One more front, which knows all hosts, or those in `wait_for`; returns a client of it."""
        self.entries = entries
        front = await open_front(self._stack, self.front_settings, entries, wait_for=wait_for)
        self._known = front.hosts
        return await self._stack.enter_async_context(
            httpx.AsyncClient(base_url=front.address, timeout=TIMEOUT * 2, trust_env=False, verify=False)
        )

    # Requests to the front

    async def health(self, name: str) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/plugins/{name}/health")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def run(
        self, name: str, tool: str, headers: dict[str, str] | None = None, **arguments: Any
    ) -> httpx.Response:
        return await self.client.post(f"/v1/plugins/{name}/tools/{tool}/run", json=arguments, headers=headers)

    async def states(self) -> dict[str, str]:
        """Of the hosts, by name."""
        return {host["name"]: host["state"] for host in (await self.client.get("/v1/hosts")).json()}

    async def until_host(self, name: str, state: str, *, within: float = TIMEOUT) -> float:
        """Wait until the host is in this state; returns the seconds that took."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while (states := await self.states())[name] != state:
            assert loop.time() - since < within, states
            await asyncio.sleep(0.02)
        return loop.time() - since
