"""Builds of the memory engine that take their time, until a test lets them go on."""

import asyncio
from collections.abc import Callable

from orchestrator.containers.memory.images import Build
from orchestrator.containers.spec import ImageStatus
from support.harness import Harness


class SlowBuilds:
    """From its creation on, each build prints `line` and waits until it may go on."""

    def __init__(self, harness: Harness, line: str = "Collecting torch") -> None:
        store = harness.engine.image_store
        self.line = line
        self.begun: list[Build] = []
        self._store_build = store.build
        self._go = asyncio.Event()
        store.build = self._build  # type: ignore[method-assign]

    def go_on(self) -> None:
        """For this build and all later ones."""
        self._go.set()

    async def _build(self, build: Build, on_output: Callable[[str], None]) -> ImageStatus:
        self.begun.append(build)
        on_output(self.line)
        await self._go.wait()
        return await self._store_build(build, on_output)
