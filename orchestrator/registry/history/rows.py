"""Between records and table rows. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry.history.records import Counters, RunRecord, RunState
from orchestrator.registry.history.writes import RunWrite
from orchestrator.registry.records import LifecycleEvent

RUN_COLUMNS: Final = (
    "run_id, plugin, tool, generation, asynchronous, state, accepted, started, finished, outcome, reason_code, "
    "execution_ms, request_bytes, response_bytes"
)
EVENT_COLUMNS: Final = "id, time, plugin, generation, previous, state, reason_code, reason"
COUNTER_COLUMNS: Final = "plugin, success, error, total_ms, last_ms, last_used, generation"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def microseconds(time: datetime) -> int:
    """Since 1970, in UTC. `time` has a zone."""
    return (time - _EPOCH) // _MICROSECOND


def moment(time: int) -> datetime:
    """The datetime, in UTC, of what `microseconds` made."""
    return _EPOCH + time * _MICROSECOND


def text(value: str | None) -> str | None:
    """What SQLite can take: bytes that were no UTF-8 somewhere are question marks here."""
    return value if value is None or value.isascii() else _SURROGATES.sub("?", value)


def run_row(write: RunWrite) -> tuple[Any, ...]:
    run = write.run
    return (
        text(run.run_id),
        text(run.plugin),
        text(run.tool),
        run.generation,
        run.asynchronous,
        (write.state or run.state).value,
        microseconds(run.accepted_at),
        _optional(run.started_at),
        _optional(run.finished_at),
        text(run.outcome),
        text(run.reason_code),
        run.execution_ms,
        run.request_bytes,
        run.response_bytes,
    )


def run_of(row: Sequence[Any]) -> RunRecord:
    """The run of a row of RUN_COLUMNS and its id."""
    return RunRecord(
        run_id=row[0],
        plugin=row[1],
        tool=row[2],
        generation=row[3],
        asynchronous=bool(row[4]),
        state=RunState(row[5]),
        accepted_at=moment(row[6]),
        started_at=_optional_moment(row[7]),
        finished_at=_optional_moment(row[8]),
        outcome=row[9],
        reason_code=row[10],
        execution_ms=row[11],
        request_bytes=row[12],
        response_bytes=row[13],
        id=row[14],
    )


def event_row(event: LifecycleEvent, event_id: int) -> tuple[Any, ...]:
    return (
        event_id,
        microseconds(event.time),
        text(event.plugin),
        event.generation,
        event.previous.value if event.previous else None,
        event.state.value,
        event.reason_code.value if event.reason_code else None,
        text(event.reason),
    )


def event_of(row: Sequence[Any]) -> LifecycleEvent:
    """The event of a row of EVENT_COLUMNS. A reason code that this program does not know is None; its reason stays."""
    code = row[6]
    return LifecycleEvent(
        id=row[0],
        time=moment(row[1]),
        plugin=row[2],
        generation=row[3],
        previous=PluginLifecycleState(row[4]) if row[4] else None,
        state=PluginLifecycleState(row[5]),
        reason_code=ReasonCode(code) if code in ReasonCode.__members__ else None,
        reason=row[7],
    )


def counters_row(plugin: str, counters: Counters) -> tuple[Any, ...]:
    return (
        text(plugin),
        counters.success,
        counters.error,
        counters.total_ms,
        counters.last_ms,
        _optional(counters.last_used),
        counters.generation,
    )


def counters_of(row: Sequence[Any]) -> tuple[str, Counters]:
    """The plugin and counters of a row of COUNTER_COLUMNS."""
    return row[0], Counters(
        success=row[1],
        error=row[2],
        total_ms=row[3],
        last_ms=row[4],
        last_used=_optional_moment(row[5]),
        generation=row[6],
    )


def _optional(time: datetime | None) -> int | None:
    return None if time is None else microseconds(time)


def _optional_moment(time: int | None) -> datetime | None:
    return None if time is None else moment(time)
