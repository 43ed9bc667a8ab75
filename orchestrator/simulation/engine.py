"""FaultyEngine: a container engine that answers for some containers as one in trouble would, and hands out GPUs that
are not there. Everything else it passes on.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final, cast

from orchestrator.containers.engine import ContainerEngine, ignore
from orchestrator.containers.spec import ContainerSpec, EngineInfo
from orchestrator.errors import (
    DeviceRequestError,
    EngineError,
    EngineRefusedError,
    EngineUnreachableError,
)
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.image_recipe import PLUGIN_LABEL
from orchestrator.simulation.simulation import FAULTS_FOLDER, Simulation
from orchestrator.simulation.worker import STAND_IN
from orchestrator.supervisor.container_policy import LABEL_GENERATION, RUN_FOLDER, is_instance
from orchestrator.supervisor.limits import unlimited_spec

_NO_TOOLKIT: Final = 'could not select device driver "nvidia" with capabilities: [[gpu compute utility]]'
_NO_ANSWER: Final = "cannot reach the container engine: Connection refused"
_NOT_KILLED: Final = "cannot kill container: tried to kill container, but did not receive an exit event"


class FaultyEngine:
    """`engine` with the faults of `simulation`."""

    def __init__(self, engine: ContainerEngine, simulation: Simulation) -> None:
        self._engine = engine
        self._simulation = simulation
        self._program = (files(__package__) / "worker.py").read_text("utf-8")
        self._plugins: dict[str, str] = {}
        """Container → its plugin, of those that were made or asked about here."""
        self._spared: set[str] = set()
        """Containers that could not be killed."""

    def as_engine(self) -> ContainerEngine:
        return cast("ContainerEngine", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def info(self) -> EngineInfo:
        found = await self._engine.info()
        if self._simulation.gpus is None:
            return found
        return replace(found, gpu_drivers=("nvidia", "cdi"), cdi_devices=None)

    async def create(self, spec: ContainerSpec, *, on_warning: Callable[[str], None] = ignore) -> str:
        if not is_instance(spec.labels):
            return await self._engine.create(spec, on_warning=on_warning)
        plugin = spec.labels[PLUGIN_LABEL]
        if self._simulation.faults_of(plugin):
            self._simulation.touch(plugin, int(spec.labels[LABEL_GENERATION]))
        self._refuse(plugin, spec)
        found = await self._engine.create(await self._prepared(plugin, spec), on_warning=on_warning)
        self._plugins[found] = plugin
        return found

    async def stop(self, container_id: str, *, grace: float) -> None:
        await self._require_mercy(container_id)
        await self._engine.stop(container_id, grace=grace)

    async def kill(self, container_id: str) -> None:
        await self._require_mercy(container_id)
        await self._engine.kill(container_id)

    async def remove(self, container_id: str) -> None:
        await self._require_mercy(container_id)
        await self._engine.remove(container_id)

    async def relent(self) -> None:
        """End the containers that could not be killed, where they can be now: their orchestrator sees it, and removes
        them.
        """
        for container in tuple(self._spared):
            if not self._simulation.has(self._plugins[container], ReasonCode.KILL_FAILED):
                self._spared.discard(container)
                with contextlib.suppress(EngineError):
                    await self._engine.kill(container)

    def _refuse(self, plugin: str, spec: ContainerSpec) -> None:
        if self._simulation.has(plugin, ReasonCode.ENGINE_UNREACHABLE):
            raise EngineUnreachableError(_NO_ANSWER)
        if spec.devices is not None and self._simulation.has(plugin, ReasonCode.GPU_RUNTIME_MISSING):
            raise DeviceRequestError(_NO_TOOLKIT)

    async def _prepared(self, plugin: str, spec: ContainerSpec) -> ContainerSpec:
        variables = dict(spec.environment)
        if self._simulation.gpus is not None and spec.devices is not None:
            uuids: Sequence[str] = spec.devices.uuids
            variables |= {"PLUGIN_SIMULATED_GPUS": ", ".join(uuids), "CUDA_VISIBLE_DEVICES": ",".join(uuids)}
            spec = replace(spec, devices=None)
        if plugin in self._simulation.stand_ins:
            variables[STAND_IN] = "1"
        if self._simulation.has(plugin, ReasonCode.LIMITS_UNSUPPORTED):
            spec = unlimited_spec(spec, ("pids",))
        folder = next((mount.source for mount in spec.mounts if mount.target == RUN_FOLDER), None)
        if folder is not None and await self.has_runtime(plugin, spec.image):
            self._simulation.carry(plugin, folder, self._program)
            spec = replace(spec, entrypoint=("python", "-I", f"{RUN_FOLDER}/{FAULTS_FOLDER}/worker.py"))
        elif "PLUGIN_SIMULATED_GPUS" in variables:
            # Nothing in it would say that its GPU is there.
            variables.pop("PLUGIN_REQUIRES_GPU", None)
        return replace(spec, environment=variables)

    async def has_runtime(self, plugin: str, image: str) -> bool:
        """Whether the image is one that was built here, with this project's runtime."""
        return (await self._engine.image(image)).labels.get(PLUGIN_LABEL) == plugin

    async def _require_mercy(self, container_id: str) -> None:
        """Raise where the container is one that cannot be killed now."""
        if container_id not in self._plugins:
            try:
                labels = (await self._engine.inspect(container_id)).labels
            except EngineError:
                return
            self._plugins[container_id] = labels.get(PLUGIN_LABEL, "")
        if self._simulation.has(self._plugins[container_id], ReasonCode.KILL_FAILED):
            self._spared.add(container_id)
            raise EngineRefusedError(_NOT_KILLED)
