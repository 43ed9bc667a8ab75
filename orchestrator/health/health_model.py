"""The health API's answers: `PluginHealthResponse` for one plugin, `HealthListing` for all as JSON text. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import replace
from pydantic import AwareDatetime, BaseModel, Field

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, ContainerFacts, PendingRestart, PluginRecord, PostMortem

_UPTIME: Final = b'"uptime_seconds":'
_GAP: Final = _UPTIME + b"null"  # inside a text its quotes would be escaped, so the first match is the field
_MAX_UPTIME_LAG: Final = 0.05  # seconds that an uptime may be behind where nothing else has changed


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


class PluginDetailResponse(PluginHealthResponse):
    """As in the list, with the post-mortem of an instance that ended."""

    post_mortem: PostMortemReport | None


def health_response(record: PluginRecord, now: float) -> PluginHealthResponse:
    """A record as the list shows it. `now`: the monotonic clock, seconds."""
    return PluginHealthResponse(**_fields(record, now))


def detail_response(record: PluginRecord, now: float) -> PluginDetailResponse:
    """A record as the plugin's own health route shows it. `now`: the monotonic clock, seconds."""
    report = record.post_mortem
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
        "checks": [
            CheckReport(name=check.name, ok=check.ok, detail=check.detail, source=check.source)
            for check in _checks(record, now)
        ],
        "container": _container(record.container),
        "gpus": [dict(gpu) for gpu in record.gpus],
        "limits": {} if record.limits is None else record.limits.report(record.unlimited),
        "activity": record.activity and ActivityReport.model_validate(record.activity, from_attributes=True),
        "restart": record.restart and _restart(record.restart),
    }


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
        reason = f"Its restart was refused, so instance {record.generation} goes on. {restart.reason}"
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


def uptime_seconds(record: PluginRecord, now: float) -> float | None:
    """Seconds since the instance was ready, up to its end; None before. `now`: the monotonic clock, seconds."""
    if record.ready_tick is None:
        return None
    until = now if record.ended_tick is None else record.ended_tick
    return round(max(0.0, until - record.ready_tick), 6)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A record's JSON before and after its uptime, which alone changes between two requests."""

    record: PluginRecord
    before: bytes
    after: bytes


class _Answer(NamedTuple):
    """The list as it was answered last, and when (monotonic clock, seconds)."""

    records: Sequence[PluginRecord]
    text: bytes
    at: float


class HealthListing:
    """Encodes each record once, for as long as it is the plugin's newest."""

    # With many plugins and many readers, encoding is what the list costs.

    def __init__(self) -> None:
        self._encoded: dict[str, _Encoded] = {}
        self._last = _Answer((), b"[]", float("-inf"))

    def encode(self, records: Sequence[PluginRecord], now: float) -> bytes:
        """The JSON list of `PluginHealthResponse` objects, in the order of `records`."""
        last = self._last
        if (
            # Records are immutable: the same objects make the same text.
            now - last.at > _MAX_UPTIME_LAG
            or len(records) != len(last.records)
            or not all(map(is_, records, last.records))
        ):
            if len(self._encoded) > len(records):
                self._encoded.clear()  # of plugins that were removed
            text = b"[" + b",".join([self._one(record, now) for record in records]) + b"]"
            self._last = last = _Answer(records, text, now)
        return last.text

    def _one(self, record: PluginRecord, now: float) -> bytes:
        if record.activity is not None:  # its sentence changes with the time
            return health_response(record, now).model_dump_json().encode()
        known = self._encoded.get(record.name)
        if known is None or known.record is not record:
            known = self._encoded[record.name] = _encoded(record, now)
        seconds = uptime_seconds(record, now)
        return known.before + (b"null" if seconds is None else repr(seconds).encode()) + known.after


def _encoded(record: PluginRecord, now: float) -> _Encoded:
    # With a null for its uptime, which each answer fills in.
    text = health_response(replace(record, ready_tick=None), now).model_dump_json().encode()
    before, _, after = text.partition(_GAP)
    return _Encoded(record, before + _UPTIME, after)
