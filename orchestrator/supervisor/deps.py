"""What every supervisor works with; put together once, in the composition root."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.containers.engine import ContainerEngine
from orchestrator.loader.dependency_checker import DependencyChecker
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.plugin_loader import PluginLoader
from orchestrator.registry import PluginRegistry
from orchestrator.registry.history import HistoryStore
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import LABEL_DEPLOYMENT
from orchestrator.supervisor.gpu_keeper import GpuKeeper


@dataclass(frozen=True)
class SupervisorDeps:
    """`deployment` names this state folder on the host: containers that carry it are ours, all others are not.
    `run_dir` is the deployment's own folder of sockets.
    """

    settings: Settings
    engine: ContainerEngine
    registry: PluginRegistry
    loader: PluginLoader
    checker: DependencyChecker
    builder: ImageBuilder
    gpus: GpuKeeper
    history: HistoryStore
    deployment: str
    run_dir: Path
    start_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))

    @property
    def labels(self) -> Mapping[str, str]:
        """What marks a container as ours."""
        return {LABEL_DEPLOYMENT: self.deployment}
