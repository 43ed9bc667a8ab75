"""One container started for a plugin, from its folder of sockets to its end."""

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.gpus import Grant
from orchestrator.loader.manifest import Manifest
from orchestrator.registry import Check, EffectiveLimits, PostMortem
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.runtime_client.status import RunInContainer
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.container_policy import InstanceIdentity

# Above the 1.6 s that `Watch.find_end` waits between its inspections.
_VERDICT_TIMEOUT: Final = 5.0  # seconds that a run waits for the verdict on its instance, after its connection broke


class InstanceEndedError(OrchestratorError):
    """The plugin has no instance that can take a run. `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


@dataclass(eq=False, slots=True)
class Instance:
    """Mutable, and changed only within this package."""

    manifest: Manifest
    limits: EffectiveLimits
    identity: InstanceIdentity
    run_folder: Path
    container_id: str | None = None
    image_id: str | None = None
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grant: Grant | None = None
    """The GPUs it holds."""
    granted_at: float | None = None
    """When it got them; by the event loop's clock, as the next."""
    used_at: float | None = None
    """When its last run ended."""
    runs: tuple[RunInContainer, ...] = ()
    """Those that execute in it, by its last status."""
    oom_kills: int = 0
    checks: tuple[Check, ...] = ()
    """The latest of each witness."""
    engine_said: tuple[str, ...] = ()
    """What the engine said of its container: limits that it does not set."""
    unlimited: tuple[str, ...] = ()
    """Limits that its container is not held to, as the operator allows."""
    scratch_quota: bool = False
    """Whether the engine holds its scratch volume to `limits.scratch`."""
    ended: Verdict | None = None
    peak_memory: int | None = None
    container_died: asyncio.Event = field(default_factory=asyncio.Event)
    """The engine reported the container's end."""
    exit_code: int | None = None
    """The container's, as the engine's event of its end had it."""
    oom_reported: bool = False
    """The engine reported that a process in it was killed for memory."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """Its container has a log."""
    post_mortem: PostMortem | None = None
    torn_down: asyncio.Event = field(default_factory=asyncio.Event)
    """Its post-mortem is complete, and stored."""
    bring_up: asyncio.Task[None] | None = None
    """The whole start; may be cancelled."""
    # Never cancelled, so that no container is made whose id is not known.
    launch: asyncio.Task[None] | None = None
    """Create and start of the container."""
    # Fields, since each run looks at them several times.
    generation: int = field(init=False)
    ready: bool = field(default=False, init=False)
    """It takes runs."""
    _channel: RuntimeChannel | None = None
    _ready_or_ended: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.generation = self.identity.generation

    @property
    def channel(self) -> RuntimeChannel:
        """Raises `RuntimeError` while there is none yet."""
        if self._channel is None:
            raise RuntimeError("the instance has no channel yet")
        return self._channel

    @property
    def memory_limit(self) -> int | None:
        """Bytes; None where the engine does not hold it to its limit."""
        return None if "memory" in self.unlimited else self.limits.memory

    @property
    def output_limit(self) -> int:
        """Bytes of the files of one run."""
        return self.limits.output

    @property
    def has_channel(self) -> bool:
        return self._channel is not None

    def open_channel(self, channel: RuntimeChannel) -> None:
        self._channel = channel

    async def close_channel(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def mark_ready(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self.tools = tools
        self.ready = self.ended is None
        self._ready_or_ended.set()

    def mark_ended(self, verdict: Verdict) -> None:
        self.ended = verdict
        self.ready = False
        self._ended.set()
        self._ready_or_ended.set()

    async def wait_ready(self) -> None:
        """Returns when it takes runs. Raises `InstanceEndedError` where it ended before."""
        await self._ready_or_ended.wait()
        if self.ended is not None:
            raise InstanceEndedError(self.ended)

    async def ends_within(self, seconds: float) -> Verdict | None:
        """Why it ended; None where it lives as long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self.ended

    async def verdict(self) -> Verdict:
        """Why it ended. Raises `TimeoutError` where there is no verdict within five seconds."""
        async with asyncio.timeout(_VERDICT_TIMEOUT):
            await self._ended.wait()
        assert self.ended is not None  # noqa: S101 - `mark_ended` sets it before the event
        return self.ended


def new_identity(deployment: str, plugin: str, generation: int) -> InstanceIdentity:
    return InstanceIdentity(deployment, plugin, generation, secrets.token_hex(4))
