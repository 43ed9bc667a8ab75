"""What every supervisor works with; put together once, in the composition root."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import EngineInfo
from orchestrator.loader.dependency_checker import DependencyChecker
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.plugin_loader import PluginLoader
from orchestrator.registry import PluginRegistry
from orchestrator.registry.history import HistoryStore
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import LABEL_DEPLOYMENT
from orchestrator.supervisor.gpu_allocator import GpuAllocator
from orchestrator.supervisor.proof import Runner
from orchestrator.supervisor.release_store import ReleaseStore


@dataclass(frozen=True)
class SupervisorDeps:
    """`deployment` is the id of this state folder on the host: only containers that carry it are ours. `run_dir` is
    the deployment's own folder of sockets.
    """

    settings: Settings
    engine: ContainerEngine
    registry: PluginRegistry
    loader: PluginLoader
    checker: DependencyChecker
    builder: ImageBuilder
    gpus: GpuAllocator
    history: HistoryStore
    releases: ReleaseStore
    sandbox: Runner
    """Makes the sample calls that prove a release."""
    deployment: str
    run_dir: Path

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of a container of ours."""
        return {LABEL_DEPLOYMENT: self.deployment}

    async def engine_info(self) -> EngineInfo:
        """What the engine is and can, as first heard; one with a known trouble may have been exchanged since."""
        if not self._engine_info or self._engine_info[-1].known_trouble:
            self._engine_info.append(await self.engine.info())  # a look costs the engine 10 ms
        return self._engine_info[-1]

    @property
    def known_engine(self) -> EngineInfo | None:
        """As `engine_info`, without asking."""
        return self._engine_info[-1] if self._engine_info else None

    @cached_property
    def _engine_info(self) -> deque[EngineInfo]:
        return deque(maxlen=1)

    # One for all supervisors. Possible on a frozen class that has no slots: it is stored past `__setattr__`.
    @cached_property
    def start_slots(self) -> asyncio.Semaphore:
        """Bounds the containers that are started at the same time."""
        return asyncio.Semaphore(self.settings.start_concurrency)
