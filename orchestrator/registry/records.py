"""What is known of one plugin. Immutable: a change is a new record, so a reader never sees half of one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec

from orchestrator.lifecycle import FINAL_STATES, PluginLifecycleState, ReasonCode

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Check:
    """What one witness says: a dependency check, the engine, the control socket."""

    name: str
    ok: bool
    detail: str
    source: str
    """Who says so: `host`, `container` or `engine`."""


@dataclass(frozen=True, slots=True)
class PostMortem:
    """What is kept of an instance that ended."""

    ended_at: datetime
    exit_code: int | None = None
    signal: str | None = None
    peak_memory_bytes: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What the witnesses said, by which the reason was found."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    container: str | None = None
    """Its name."""
    image_id: str | None = None
    gpus: tuple[str, ...] = ()
    """UUIDs."""
    stacks: str = ""
    traceback: str = ""
    build_output: str = ""
    log_tail: str = ""


class PluginRecord(msgspec.Struct, frozen=True):
    """The state of one plugin's current instance, and the counters of the plugin over all its instances.

    A msgspec struct, since each call of a tool makes two new ones: a dataclass takes some fifteen times as long.
    """

    name: str
    version: str
    description: str
    state: PluginLifecycleState
    observed_at: datetime
    """When any of this was last seen to be so."""
    generation: int = 0
    earlier_generations: int = 0
    """Those of the time before the orchestrator was started."""
    reason_code: ReasonCode | None = None
    reason: str | None = None
    ready_tick: float | None = None
    """When it became ready, in seconds of the monotonic clock: an uptime does not jump when the time of day does."""
    ended_tick: float | None = None
    last_used: datetime | None = None
    success_count: int = 0
    error_count: int = 0
    last_execution_ms: float | None = None
    total_execution_ms: float = 0.0
    in_flight: int = 0
    queued: int = 0
    stale: bool = False
    checks: tuple[Check, ...] = ()
    container: Mapping[str, Any] = EMPTY
    gpus: tuple[Mapping[str, Any], ...] = ()
    limits: Mapping[str, Any] = EMPTY
    tools: tuple[Mapping[str, Any], ...] = ()
    post_mortem: PostMortem | None = None

    @property
    def first(self) -> bool:
        """No instance has ended since the orchestrator was started."""
        return self.generation <= self.earlier_generations + 1

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One step of one instance. `id` grows by one with every event."""

    id: int
    time: datetime
    plugin: str
    generation: int
    previous: PluginLifecycleState | None
    state: PluginLifecycleState
    reason_code: ReasonCode | None
    reason: str | None
