"""Values in answers, and arguments of tools. Answers are dictionaries as received, with fields of newer versions."""

import base64
import os
from dataclasses import dataclass
from typing import IO, Any, Literal, NotRequired, TypedDict

from orchestrator.client.errors import UnexpectedAnswer

State = Literal["LOADED", "INITIALIZED", "RUNNING", "FAILED", "UNAVAILABLE"]
RunState = Literal["queued", "running", "finished", "interrupted"]
AskedStrategy = Literal["auto", "overlap", "replace"]
UpdateStep = Literal["PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED", "REJECTED", "REVERTED"]


class Check(TypedDict):
    """The result of one check of a plugin."""

    name: str
    ok: bool
    detail: str
    source: str


class Activity(TypedDict):
    """What goes on for a plugin and takes minutes, such as `building its image`; `line`: its newest output."""

    what: str
    since: str
    line: str


class Restart(TypedDict):
    """A restart that has not replaced the instance, which serves on; the reason where it was refused."""

    state: Literal["preparing", "refused"]
    requested_at: str
    reason_code: str | None
    reason: str | None


class Replicas(TypedDict):
    """How many instances are to serve at a time, and how many do."""

    wanted: int
    ready: int
    in_manifest: int


class Instance(TypedDict):
    """One instance of a plugin; the fields as the plugin's, of this instance alone."""

    generation: int
    state: State
    role: Literal["serving", "draining", "candidate"]
    version: str
    reason_code: str | None
    reason: str | None
    uptime_seconds: float | None
    in_flight: int
    container: dict[str, Any]
    gpus: list[dict[str, Any]]
    checks: list[Check]
    host: str | None


class Plugin(TypedDict):
    """One plugin, as in the list. Times are ISO 8601 with a time zone."""

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
    activity: Activity | None
    restart: Restart | None
    replicas: Replicas
    degraded: bool
    degraded_reason: str | None
    parked_since: str | None
    start_estimate_seconds: float | None
    host: str | None
    """Behind a front, the host that the best instance is on."""
    instances: list[Instance]
    candidate: Instance | None
    removed: NotRequired[bool]
    """True in `watch()` of a plugin that is no longer listed; else absent."""


class PluginDetail(Plugin):
    """As in the list, with the post-mortem of an instance that ended."""

    post_mortem: dict[str, Any] | None


class Release(TypedDict):
    """What instances are made from; two releases of one version may differ in everything else."""

    id: str
    version: str


class Update(TypedDict):
    """An update or a revert. `step_times`: when each step was reached, in their order."""

    id: str
    plugin: str
    kind: Literal["update", "revert"]
    step: UpdateStep
    ended: bool
    """Whether nothing more will be done: SETTLED, REJECTED or REVERTED."""
    requested_at: str
    step_times: dict[str, str]
    strategy_asked: AskedStrategy
    strategy: Literal["overlap", "replace"] | None
    strategy_reason: str | None
    from_release: Release | None
    to_release: Release | None
    replicas: int
    """Instances of the new release that it brings up."""
    replicas_updated: int
    switch_times: list[str]
    """When each instance took over that it has begun, in their order."""
    candidate: int | None
    """The generation of the instance that starts or is proven."""
    draining: int | None
    proof: str | None
    """What the first instance was proven by."""
    reason_code: str | None
    """Why it was REJECTED; with SETTLED, why the rollout stopped before its last instance."""
    reason: str | None
    post_mortem: dict[str, Any] | None
    """Of the candidate that it failed for."""


class Batch(TypedDict):
    """At most `max_size` items at once; each waits for others for at most `max_wait_ms`."""

    max_size: int
    max_wait_ms: float


class Tool(TypedDict):
    """A tool; `uploads` maps a parameter to `bytes` or `path`."""

    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    """Of the result, or of each item of a streaming tool; None where the plugin does not say."""
    streaming: bool
    uploads: dict[str, str]
    batch: Batch | None
    """Where items of several callers are worked on together; each caller sends one."""
    idempotent: bool
    """Whether a run that its instance did not survive may be made again, if its caller asks for that."""


class FileReference(TypedDict):
    """A file of a result. `sha256`: 64 hexadecimal digits; `url`: where it is, `/v1/runs/<run_id>/files/<name>`."""

    file: str
    media_type: str
    size: int
    sha256: str
    url: str


class Envelope(TypedDict):
    """The outcome of a run. `files`: those in `result`, in their order."""

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
    files: list[FileReference]


class Run(TypedDict):
    """A run. `queue_position` counts from 1, None unless queued; `progress` is {"fraction", "message"} or None."""

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
    caller: str | None
    retried_from: int | None
    """The generation of the instance that ended under it, where it was made again (`retry_idempotent`)."""
    host: str | None
    cursor: NotRequired[str]
    """Behind a front over several hosts, what `before` of the next page is; else that is the `id`."""


class LifecycleEvent(TypedDict):
    """A change of a plugin's state."""

    id: int
    time: str
    plugin: str
    generation: int
    previous: State | None
    state: State
    reason_code: str | None
    reason: str | None
    caller: str | None
    """The name of the key whose run or command it comes of, as far as yours may know it."""
    host: str | None
    cursor: NotRequired[str]
    """Behind a front over several hosts, what `after` takes; else that is the `id`, which is each host's own."""


DeliveryState = Literal["pending", "delivered", "failed"]


class Webhook(TypedDict):
    """A webhook of the operator's file, and the numbers of its deliveries on file. `paused`: why nothing is sent."""

    name: str
    url: str
    events: list[str]
    plugins: list[str]
    pending: int
    delivered: int
    failed: int
    paused: str | None


class Delivery(TypedDict):
    """A message for one webhook, and what has become of it. `body` is what is sent."""

    id: int
    delivery_id: str
    message_id: str
    webhook: str
    plugin: str
    type: str
    state: DeliveryState
    created_at: str
    attempts: int
    attempted_at: str | None
    status: int | None
    error: str | None
    body: dict[str, Any]


class WebhookTest(TypedDict):
    """What a test message was answered with."""

    webhook: str
    ok: bool
    status: int | None
    error: str | None
    duration_ms: float


class Gpus(TypedDict):
    """The host's GPUs; `reason` says why there is none. `engine`: in which way it hands them out (`served_by`), and why
    it refused others. `waiting`: instances that wait for GPUs, and for whom.
    """

    reason_code: str | None
    reason: str | None
    devices: list[dict[str, Any]]
    engine: dict[str, Any]
    quarantines: list[str]
    waiting: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Begun:
    """The first event of a stream. The run can be looked up and cancelled by its id."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Item:
    """One item that a streaming tool yielded."""

    data: Any

    @property
    def content(self) -> bytes:
        """The bytes of a part: the tool yielded `bytes`, or `{"media_type", "data"}`. Raises `UnexpectedAnswer`."""
        data: Any = self.data.get("data") if isinstance(self.data, dict) else self.data
        try:
            return base64.b64decode(data, validate=True)
        except (TypeError, ValueError):
            raise UnexpectedAnswer("The item is no part of a file.") from None


@dataclass(frozen=True, slots=True)
class Progress:
    """A tool's progress: `fraction` from 0 to 1, None if unknown."""

    fraction: float | None
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """The last event of a stream. Its result is None if the tool yielded items."""

    envelope: Envelope


StreamEvent = Begun | Item | Progress | End


@dataclass(frozen=True, slots=True)
class Upload:
    """A file for a tool. `content`: bytes, a path, or a binary file object, read from its start if it can seek."""

    content: bytes | bytearray | os.PathLike[str] | IO[bytes]
    filename: str = ""
    content_type: str = ""


class FormText(str):
    """A value as a person typed it: the plugin parses it by the parameter's type. A list repeats the parameter."""

    __slots__ = ()


class Host(TypedDict):
    """One host of a front; its state JOINING, ONLINE, DRAINING or STALE. `problem`: why it does not answer."""

    name: str
    address: str
    labels: dict[str, str]
    state: str
    draining: bool
    silent_seconds: float | None
    problem: str | None
    plugins: int


class Drained(TypedDict):
    """What became of a drained or resumed host's plugins: `plugin` and `to`, or `plugin` and `reason`."""

    host: str
    moved: list[dict[str, str]]
    remaining: list[dict[str, str]]


class HostRule(TypedDict):
    """Why a host was accepted or refused for a plugin: a rule for programs, a sentence for people."""

    host: str
    rule: str
    accepted: bool
    chosen: bool
    replicas: int
    reason: str


class PluginPlacement(TypedDict):
    """What a plugin's manifest wants of hosts. `hosts`: at a front alone, each with its rule."""

    plugin: str
    wants: dict[str, Any] | None
    hosts: NotRequired[list[HostRule]]
