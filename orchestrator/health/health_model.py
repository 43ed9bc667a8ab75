"""The health API's answers: models of a plugin and its instances, made from their records. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from pydantic import AwareDatetime, BaseModel, Field

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, ContainerFacts, InstanceRecord, PendingRestart, PluginRecord, PostMortem, Role


class CheckReport(BaseModel):
    """One finding: of a dependency check, the engine, the control socket."""

    name: str
    ok: bool
    detail: str
    source: str


class ActivityReport(BaseModel):
    """What goes on for a plugin and takes minutes: the build of its image, the download of its models."""

    what: str
    """A phrase such as `building its image`."""
    since: AwareDatetime
    line: str
    """Its newest line of output; empty before the first."""


class RestartReport(BaseModel):
    """A restart that has not replaced the instance, which serves on."""

    state: Literal["preparing", "refused"]
    requested_at: AwareDatetime
    reason_code: ReasonCode | None
    """Why it was refused."""
    reason: str | None


class ReplicasReport(BaseModel):
    """How many instances are to serve at a time, and how many do: INITIALIZED or RUNNING."""

    wanted: int
    ready: int
    in_manifest: int = Field(description="The manifest's number, which `wanted` is unless an operator has set another.")


class InstanceReport(BaseModel):
    """One instance of a plugin."""

    generation: int
    state: PluginLifecycleState
    role: Role = Field(
        description="`draining`: it takes no new runs and ends after those it has; `candidate`: it is proven beside "
        "those that serve."
    )
    version: str
    reason_code: ReasonCode | None
    reason: str | None
    uptime_seconds: float | None = Field(description="As the plugin's.")
    in_flight: int
    container: dict[str, Any]
    gpus: list[dict[str, Any]]
    checks: list[CheckReport]
    host: str | None = Field(None, description="Behind a front, the host that it is on.")


class PostMortemReport(BaseModel):
    """What is retained of an instance that ended; empty texts where there was nothing."""

    ended_at: AwareDatetime
    exit_code: int | None
    signal: str | None
    peak_memory_bytes: int | None
    evidence: dict[str, Any]
    """The findings that the reason was derived from."""
    limits: dict[str, Any]
    container: str | None
    image_id: str | None
    gpus: list[str]
    """UUIDs of the GPUs it held."""
    stacks: str
    traceback: str
    build_output: str
    log_tail: str


class PluginHealthResponse(BaseModel):
    """One plugin. Every field is always present; null where nothing is known."""

    name: str
    state: PluginLifecycleState
    description: str
    version: str
    reason: str | None = Field(
        description="Where `reason_code` is set, why, as a sentence to act on. Also what goes on (see `activity`)."
    )
    reason_code: ReasonCode | None
    uptime_seconds: float | None = Field(
        description="Since INITIALIZED; stands still once the instance has ended; null before."
    )
    last_used: AwareDatetime | None
    success_count: int
    error_count: int
    last_execution_time_ms: float | None
    avg_execution_time_ms: float | None
    in_flight: int
    queued: int
    generation: int
    observed_at: AwareDatetime
    stale: bool = Field(description="The last known state: the engine cannot be reached, or the registry was busy.")
    checks: list[CheckReport]
    container: dict[str, Any]
    gpus: list[dict[str, Any]]
    limits: dict[str, Any]
    activity: ActivityReport | None = Field(description="What goes on and takes minutes: a build, a download.")
    restart: RestartReport | None = Field(
        description="A restart that has not replaced the instance: `preparing` while that serves on, or `refused`."
    )
    replicas: ReplicasReport
    degraded: bool = Field(
        description="It lives, and fewer instances serve or start than are wanted. Never where one is wanted."
    )
    degraded_reason: str | None = Field(description="What is missing and why, as a sentence to act on.")
    parked_since: AwareDatetime | None = Field(description="Since when it is PARKED: the next run starts it again.")
    start_estimate_seconds: float | None = Field(
        description="What its last start took; a run for a parked plugin waits."
    )
    host: str | None = Field(None, description="Behind a front, the host that the best instance is on.")
    # The last two fields: the listing's text depends on that.
    instances: list[InstanceReport] = Field(
        description="The oldest first: those that live, and those that ended and are not replaced. The plugin's own "
        "state, container and checks are those of the best that serves; `in_flight` and `gpus` are of all."
    )
    candidate: InstanceReport | None = Field(
        description="The one of `instances` that is proven beside those that serve."
    )


class PluginDetailResponse(PluginHealthResponse):
    """As in the list, with the post-mortem of an instance that ended."""

    post_mortem: PostMortemReport | None


def health_response(record: PluginRecord, now: float) -> PluginHealthResponse:
    """A record as the list shows it. `now`: the monotonic clock, seconds."""
    return PluginHealthResponse(**_fields(record, now))


def detail_response(record: PluginRecord, now: float) -> PluginDetailResponse:
    """A record as the plugin's own health route shows it. `now`: the monotonic clock, seconds."""
    # While others live, that of the last which ended says why the plugin is degraded.
    ended = (each.post_mortem for each in reversed(record.instances) if each.post_mortem is not None)
    report = record.post_mortem or next(ended, None)
    return PluginDetailResponse(
        **_fields(record, now),
        post_mortem=None if report is None else post_mortem_report(report),
    )


def post_mortem_report(report: PostMortem) -> PostMortemReport:
    return PostMortemReport.model_validate(report, from_attributes=True)


def _fields(record: PluginRecord, now: float) -> Mapping[str, Any]:
    runs = record.success_count + record.error_count
    return {
        "name": record.name,
        "state": record.state,
        "description": record.description,
        "version": record.version,
        "reason": _reason(record, now),
        "reason_code": record.reason_code,
        "uptime_seconds": uptime_seconds(record, now),
        "last_used": record.last_used,
        "success_count": record.success_count,
        "error_count": record.error_count,
        "last_execution_time_ms": record.last_execution_ms,
        "avg_execution_time_ms": record.total_execution_ms / runs if runs else None,
        "in_flight": record.in_flight,
        "queued": record.queued,
        "generation": record.generation,
        "observed_at": record.observed_at,
        "stale": record.stale,
        "checks": _check_reports(_checks(record, now)),
        "container": _container(record.container),
        "gpus": [dict(gpu) for gpu in record.gpus],
        "limits": {} if record.limits is None else record.limits.report(record.unlimited),
        "activity": record.activity and ActivityReport.model_validate(record.activity, from_attributes=True),
        "restart": record.restart and _restart(record.restart),
        "replicas": ReplicasReport(wanted=record.wanted, ready=record.ready, in_manifest=record.manifest_replicas),
        "degraded": record.degraded,
        "degraded_reason": record.degraded_reason,
        "parked_since": record.parked_since,
        "start_estimate_seconds": record.start_seconds,
        "instances": [_instance(instance, now) for instance in record.instances],
        "candidate": record.candidate and _instance(record.candidate, now),
    }


def _instance(instance: InstanceRecord, now: float) -> InstanceReport:
    return InstanceReport(
        generation=instance.generation,
        state=instance.state,
        role=instance.role,
        version=instance.version,
        reason_code=instance.reason_code,
        reason=instance.reason,
        uptime_seconds=uptime_seconds(instance, now),
        in_flight=instance.in_flight,
        container=_container(instance.container),
        gpus=[dict(gpu) for gpu in instance.gpus],
        checks=_check_reports(instance.checks),
    )


def _check_reports(checks: Iterable[Check]) -> list[CheckReport]:
    return [CheckReport(name=check.name, ok=check.ok, detail=check.detail, source=check.source) for check in checks]


def _restart(restart: PendingRestart) -> RestartReport:
    return RestartReport(
        state="preparing" if restart.reason_code is None else "refused",
        requested_at=restart.requested_at,
        reason_code=restart.reason_code,
        reason=restart.reason,
    )


def _reason(record: PluginRecord, now: float) -> str | None:
    """Why it ended or was not restarted, and what goes on."""
    reason, restart = record.reason, record.restart
    if reason is None and restart is not None and restart.reason_code is not None:
        alive = sum(not instance.ended for instance in record.instances)
        which = f"instance {record.generation} goes" if alive <= 1 else f"its {alive} instances go"
        reason = f"Its restart was refused, so {which} on. {restart.reason}"
    if record.activity is None:
        return reason
    doing = record.activity.sentence(now)
    return doing if reason is None else f"{reason} Now: {doing}"


def _checks(record: PluginRecord, now: float) -> tuple[Check, ...]:
    checks = record.checks
    if record.restart is not None and record.restart.reason_code is not None:
        detail = f"{record.restart.reason_code}: {record.restart.reason}"
        checks = (*checks, Check("restart", ok=False, detail=detail, source="host"))
    if record.activity is not None:
        checks = (*checks, Check("activity", ok=True, detail=record.activity.sentence(now), source="host"))
    return checks


def _container(facts: ContainerFacts | None) -> dict[str, Any]:
    """Empty where nothing is known. Without what only the metrics show."""
    if facts is None:
        return {}
    encoded: dict[str, Any] = msgspec.to_builtins(facts)
    del encoded["batches"]
    return encoded


def uptime_seconds(record: PluginRecord | InstanceRecord, now: float) -> float | None:
    """Seconds since the instance was ready, up to its end; None before. `now`: the monotonic clock, seconds."""
    if record.ready_tick is None:
        return None
    until = now if record.ended_tick is None else record.ended_tick
    return round(max(0.0, until - record.ready_tick), 6)
