"""The whole orchestrator with a simulation, over containers in memory that run the real runtime."""

from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from support.harness import Harness
from support.real_runtime import RealRuntime

from orchestrator.simulation.app import create_simulated_app
from orchestrator.simulation.gpus import gpus_of
from orchestrator.simulation.simulation import SimulationPlan

DETECTOR = """
from collections.abc import Iterator
from plugin_runtime import tool

class Plugin:
    def validate(self) -> None:
        pass

    @tool
    def detect(self, size: int = 1) -> int:
        return size

    @tool
    def track(self, frames: int) -> Iterator[int]:
        yield from range(frames)
"""


class Simulated:
    """A harness whose orchestrator makes faults, from a test's side."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.gpus: str | None = None
        self.faults: tuple[Any, ...] = ()
        self.stand_ins: frozenset[str] = frozenset()
        harness.make_app = self._make_app

    def _make_app(self, settings: Any, *, gpu_host: object, **options: Any) -> Any:
        plan = SimulationPlan(None if self.gpus is None else gpus_of(self.gpus), self.faults, self.stand_ins)
        return create_simulated_app(settings, plan, **options)

    def add(self, name: str = "detector", source: str = DETECTOR, **manifest: Any) -> None:
        self.harness.add(
            name, program=RealRuntime(source), **{"image": "base", "entrypoint": "plugin:Plugin", **manifest}
        )

    async def open(self) -> httpx.AsyncClient:
        client = await self.harness.open()
        for plugin in (await client.get("/v1/plugins")).json():
            await self.harness.settled(plugin["name"])
        return client

    async def arm(self, code: str, plugin: str = "detector", **fields: Any) -> str:
        answer = await self.harness.client.post("/testing/faults", json={"plugin": plugin, "code": code, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    async def disarm(self, number: str) -> None:
        assert (await self.harness.client.delete(f"/testing/faults/{number}")).status_code == 200

    async def started_anew(self, code: str, plugin: str = "detector", **fields: Any) -> dict[str, Any]:
        """The plugin's health after a start with this fault."""
        client = self.harness.client
        assert (await client.post(f"/v1/plugins/{plugin}/stop")).status_code == 200
        await self.arm(code, plugin, **fields)
        await client.post(f"/v1/plugins/{plugin}/start")
        return await self.harness.until(plugin, lambda health: health["reason_code"] not in (None, "STOPPED"))


@pytest.fixture
def simulated(harness: Harness) -> Simulated:
    return Simulated(harness)


@pytest.fixture
def detects(harness: Harness) -> Callable[..., Any]:
    return partial(harness.run, "detector", "detect")
