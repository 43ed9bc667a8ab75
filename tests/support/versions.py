"""A plugin of which each version has an image, and what runs in it, of its own: for updates."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from orchestrator.supervisor.release_store import ReleaseStore, ReleaseStoreError
from orchestrator.supervisor.releases import PluginReleases
from support.harness import TIMEOUT, Harness
from support.scripted_runtime import ScriptedRuntime


class Versions:
    """The plugin `reader`; version N answers `vN`."""

    def __init__(self, harness: Harness, **manifest: Any) -> None:
        self.harness = harness
        self.manifest = manifest
        self.runtimes: dict[int, ScriptedRuntime] = {}
        self.write(1)

    def write(self, version: int, *, calls: bytes | None = None, **manifest: Any) -> ScriptedRuntime:
        """The plugin's folder has this version now."""
        if version not in self.runtimes:
            runtime = self.runtimes[version] = ScriptedRuntime(tools={"read": lambda: f"v{version}"})
            self.harness.engine.add_image(f"harness/reader:{version}", runtime)
        fields: dict[str, Any] = {
            "image": f"harness/reader:{version}",
            "version": f"{version}.0.0",
            **self.manifest,
            **manifest,
        }
        fields["update"] = {"observe": "1ms", **fields.get("update", {})}
        self.harness.write("reader", **fields)
        if calls is not None:
            folder = self.harness.plugins / "reader" / "samples"
            folder.mkdir(exist_ok=True)
            (folder / "calls.yaml").write_bytes(calls)
        return self.runtimes[version]

    async def serve(self) -> "Versions":
        await self.harness.open()
        await self.whole()
        return self

    async def whole(self) -> dict[str, Any]:
        """The plugin's health once all that are wanted serve, and no other instance is left."""

        def is_whole(health: dict[str, Any]) -> bool:
            replicas = health["replicas"]
            return replicas["ready"] == replicas["wanted"] == len(health["instances"])

        return await self.harness.until("reader", is_whole)

    async def update(self, wait: float = 30, **request: Any) -> dict[str, Any]:
        answer = await self.post("update", params={"wait": wait}, json=request)
        assert answer.status_code in {200, 202}, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def post(self, action: str, **options: Any) -> httpx.Response:
        return await self.harness.client.post(f"/v1/plugins/reader/{action}", timeout=40, **options)

    async def updates(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.harness.client.get("/v1/plugins/reader/updates")).json()
        return found

    async def releases(self) -> dict[str, dict[str, str] | None]:
        found: dict[str, dict[str, str] | None] = (await self.harness.client.get("/v1/plugins/reader/releases")).json()
        return found

    async def read(self) -> str:
        answer = await self.harness.run("reader", "read")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["result"])

    async def until_step(self, step: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            async with asyncio.timeout(TIMEOUT):
                while (found := (await self.updates())[0])["step"] != step:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"{step} was not reached: {found}") from None
        return found

    @asynccontextmanager
    async def callers(self, number: int = 4) -> AsyncIterator[list[httpx.Response]]:
        """They call without pause; all answers are those of the end."""
        answers: list[httpx.Response] = []
        ends = asyncio.Event()

        async def call() -> None:
            while not ends.is_set():
                answers.append(await self.harness.run("reader", "read"))

        tasks = [asyncio.create_task(call()) for _ in range(number)]
        try:
            yield answers
        finally:
            ends.set()
            await asyncio.gather(*tasks)


async def gone_at(
    plugin: Versions,
    monkeypatch: pytest.MonkeyPatch,
    reached: Callable[[PluginReleases], bool],
    **request: Any,
) -> None:
    """Update, and end the orchestrator as if it were killed when its file says so; the containers stay."""
    over, write = asyncio.Event(), ReleaseStore.write

    def write_until(store: ReleaseStore, name: str, state: PluginReleases) -> None:
        if over.is_set():
            raise ReleaseStoreError("The orchestrator is gone.")
        write(store, name, state)
        if reached(state):
            over.set()

    monkeypatch.setattr(ReleaseStore, "write", write_until)
    await plugin.update(wait=0, **request)
    async with asyncio.timeout(TIMEOUT):
        while not over.is_set():
            await asyncio.sleep(0.005)
    await plugin.harness.shut(containers_stay=True)
    monkeypatch.setattr(ReleaseStore, "write", write)
