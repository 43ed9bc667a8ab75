"""What the orchestrator's answers hold. Dictionaries as they came, with what a newer orchestrator adds."""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

State = Literal["LOADED", "INITIALIZED", "RUNNING", "FAILED", "UNAVAILABLE"]
RunState = Literal["queued", "running", "finished", "interrupted"]


class Check(TypedDict):
    """What one witness says."""

    name: str
    ok: bool
    detail: str
    source: str


class Plugin(TypedDict):
    """One plugin, as the list shows it. Times are ISO 8601 with their zone."""

    name: str
    state: State
    description: str
    version: str
    reason: str | None
    reason_code: str | None
    uptime_seconds: float | None
    last_used: str | None
    success_count: int
    error_count: int
    last_execution_time_ms: float | None
    avg_execution_time_ms: float | None
    in_flight: int
    queued: int
    generation: int
    observed_at: str
    stale: bool
    checks: list[Check]
    container: dict[str, Any]
    gpus: list[dict[str, Any]]
    limits: dict[str, Any]


class PluginDetail(Plugin):
    """As in the list, and what is kept of an instance that ended."""

    post_mortem: dict[str, Any] | None


class Tool(TypedDict):
    """A tool; `uploads` maps a parameter to `bytes` or `path`."""

    name: str
    description: str
    input_schema: dict[str, Any]
    streaming: bool
    uploads: dict[str, str]


class Envelope(TypedDict):
    """What came of a run."""

    ok: bool
    result: Any
    error: str | None
    error_type: str | None
    reason_code: str | None
    source: Literal["plugin", "orchestrator"]
    plugin: str | None
    tool: str | None
    run_id: str | None
    execution_time_ms: float


class Run(TypedDict):
    """A run. `queue_position` counts from 1, null unless queued; `progress` is {"fraction", "message"} or null."""

    id: int
    run_id: str
    plugin: str
    tool: str
    state: RunState
    asynchronous: bool
    accepted_at: str
    started_at: str | None
    finished_at: str | None
    generation: int | None
    outcome: str | None
    reason_code: str | None
    execution_time_ms: float | None
    request_bytes: int | None
    response_bytes: int | None
    queue_position: int | None
    cancel_requested: bool
    progress: dict[str, Any] | None


class LifecycleEvent(TypedDict):
    """A plugin's change of state."""

    id: int
    time: str
    plugin: str
    generation: int
    previous: State | None
    state: State
    reason_code: str | None
    reason: str | None


class Gpus(TypedDict):
    """The host's GPUs; `reason` says why there are none."""

    reason_code: str | None
    reason: str | None
    devices: list[dict[str, Any]]
    quarantines: list[str]


@dataclass(frozen=True, slots=True)
class Begun:
    """The first event: by this id the run can be looked up and cancelled."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Item:
    """What a streaming tool yielded."""

    data: Any


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a tool is: `fraction` from 0 to 1, None where it does not know."""

    fraction: float | None
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """The last event. The result is None where the tool yielded its items one by one."""

    envelope: Envelope


StreamEvent = Begun | Item | Progress | End
