"""Two engines under one contract: a test gets a `Kit` of an engine and an image of scripted containers."""

import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.waiting import PATIENCE, eventually

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.memory import MemoryEngine, ProgramHandle
from orchestrator.containers.spec import ContainerSpec

PYTHON_IMAGE = "plugin-orchestrator/python:3.11-bookworm"

COMMANDS = {
    "wait": "import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); print('up'); signal.pause()",
    "deaf": "import signal; signal.signal(15, signal.SIG_IGN); print('up'); signal.sigwait([10])",
    "fail": "raise SystemExit(3)",
    "count": "for i in range(5): print('line', i)",
    "long": "print('x' * 50_000); print('y')",
    "chatter": "import itertools, time\nfor i in itertools.count(): print('line', i); time.sleep(0.02)",
}
"""Behaviour of a container by name: as a command for Docker, and below for the memory engine."""


async def program(spec: ContainerSpec, handle: ProgramHandle) -> int:
    import asyncio

    behaviour = spec.environment["BEHAVIOUR"]
    if behaviour == "fail":
        return 3
    if behaviour == "count":
        for i in range(5):
            handle.log(f"line {i}")
        return 0
    if behaviour == "long":
        handle.log("x" * 50_000)
        handle.log("y")
        return 0
    if behaviour in {"wait", "deaf"}:
        handle.log("up")
    if behaviour == "wait":
        await handle.terminated()
        return 0
    number = 0
    while True:
        if behaviour == "chatter":
            handle.log(f"line {number}")
            number += 1
        await asyncio.sleep(0.02)


@dataclass
class Kit:
    """An engine, and containers with the labels of one test."""

    engine: ContainerEngine
    image: str
    folder: Path
    labels: dict[str, str] = field(default_factory=lambda: {"plugin-orchestrator.test": uuid.uuid4().hex})
    _count: int = 0

    def spec(self, behaviour: str = "wait", **changes: Any) -> ContainerSpec:
        self._count += 1
        spec = ContainerSpec(
            name=f"test-{self.labels['plugin-orchestrator.test'][:12]}-{self._count}",
            image=self.image,
            labels=self.labels,
            environment={"BEHAVIOUR": behaviour},
            memory=64 * 1024**2,
            pids=32,
            command=("python3", "-u", "-c", COMMANDS[behaviour]),
        )
        return replace(spec, **changes)

    async def started(self, behaviour: str = "wait", **changes: Any) -> str:
        container = await self.engine.create(self.spec(behaviour, **changes))
        await self.engine.start(container)
        if behaviour in {"wait", "deaf"}:  # wait for its signal handler

            async def is_up() -> bool:
                return "up" in await self.engine.logs(container, tail=1)

            await eventually(is_up)
        return container

    async def ended(self, container: str) -> None:
        async def has_ended() -> bool:
            return (await self.engine.inspect(container)).state == "exited"

        await eventually(has_ended)

    async def kill_outside(self, container: str) -> None:
        if isinstance(self.engine, MemoryEngine):
            await self.engine.kill_outside(container)
            return
        pid = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Pid}}", container], check=True, capture_output=True, text=True
        )
        try:
            os.kill(int(pid.stdout), signal.SIGKILL)
        except PermissionError:
            pytest.skip("only root can kill another user's process")

    async def clear(self) -> None:
        for status in await self.engine.list(self.labels):
            await self.engine.remove(status.id)
        for volume in await self.engine.volumes(self.labels):
            await self.engine.remove_volume(volume.name)
        for image in await self.engine.images(self.labels):
            for reference in image.tags or (image.id,):
                await self.engine.remove_image(reference)


@pytest.fixture
async def memory_kit(tmp_path: Path) -> AsyncIterator[Kit]:
    engine = MemoryEngine()
    engine.add_image("test-image", program)
    engine.image_store.built_program = program
    yield Kit(engine, "test-image", tmp_path)
    await engine.close()


@pytest.fixture
async def docker_kit(tmp_path: Path) -> AsyncIterator[Kit]:
    kit = Kit(DockerEngine.from_environment(timeout=10 * PATIENCE), PYTHON_IMAGE, tmp_path)
    yield kit
    await kit.clear()
    assert await kit.engine.list(kit.labels) == []
    await kit.engine.close()


@pytest.fixture(params=["memory", pytest.param("docker", marks=pytest.mark.engine)])
def kit(request: pytest.FixtureRequest) -> Kit:
    return request.getfixturevalue(f"{request.param}_kit")
