"""Containers that request GPUs, for tests over a real engine."""

import uuid
from collections.abc import Sequence

from support.waiting import eventually

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.spec import ContainerSpec, DeviceGrant
from orchestrator.gpus.device_requests import EngineGpus, device_requests

IMAGE = "plugin-orchestrator/python:3.11-bookworm"
CU_INIT = "import ctypes; print('cuInit', ctypes.CDLL('libcuda.so.1').cuInit(0))"


def requesting(uuids: Sequence[str], *command: str, video: bool = False, drivers: Sequence[str] = ()) -> ContainerSpec:
    """A container with these devices, as the orchestrator requests them from an engine that serves `drivers`."""
    fields = device_requests(uuids, EngineGpus(tuple(drivers)), video=video)[0]
    return ContainerSpec(
        name=f"gpu-{uuid.uuid4().hex[:8]}",
        image=IMAGE,
        labels={"test": "gpu"},
        environment={},
        memory=256 * 1024**2,
        pids=64,
        devices=DeviceGrant(fields.driver, fields.device_ids, fields.capabilities, tuple(uuids)),
        command=command or ("nvidia-smi",),
    )


async def run(engine: DockerEngine, spec: ContainerSpec) -> tuple[int | None, str]:
    """Start it as the orchestrator does, wait for its end; its exit code and what it printed, without times."""
    container = await engine.create(spec)
    await engine.start(container)

    async def ended() -> bool:
        return (await engine.inspect(container)).state == "exited"

    await eventually(ended, within=30)
    lines = [line.partition(" ")[2] for line in (await engine.logs(container, tail=100)).splitlines()]
    return (await engine.inspect(container)).exit_code, "\n".join(lines)
