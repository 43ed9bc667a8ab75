"""What every supervisor works with; put together once, in the composition root."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

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

_CALLED_WITHIN: Final = timedelta(seconds=1)


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
    def start_slots(self) -> "StartSlots":
        """Bounds the containers that are started at the same time."""
        return StartSlots(self.settings.start_concurrency, self._is_called)

    def _is_called(self) -> bool:
        """Whether a plugin executes a run, or began one a moment ago."""
        since = datetime.now(UTC) - _CALLED_WITHIN
        return any(
            record.in_flight or (record.last_used is not None and record.last_used > since)
            for record in self.registry.list()
        )


class StartSlots:
    """Starts of containers at the same time: at most `limit`, and half as many as this host has cores while `called`,
    so that what serves keeps some. The first come is the first served.
    """

    # A start costs the engine some hundred milliseconds of a core, in which a plugin's calls would wait their turn.

    def __init__(self, limit: int, called: Callable[[], bool], cores: int | None = None) -> None:
        self._limit = limit
        self._called = called
        self._limit_while_called = min(limit, max(1, (cores or os.cpu_count() or 1) // 2))
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._waiting or not self._free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # its slot had just been given to it
                    self._give_back()
                raise
        else:
            self._taken += 1

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    @property
    def _free(self) -> bool:
        return self._taken < self._limit and (self._taken < self._limit_while_called or not self._called())

    def _give_back(self) -> None:
        self._taken -= 1
        while self._waiting and self._free:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
