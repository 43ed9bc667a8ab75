"""The tables, the migrations that bring an older file to them, and the conversion between records and their rows."""

import json
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry.history.errors import NewerDatabaseError
from orchestrator.registry.history.records import Counters, DeliveryRecord, DeliveryState, RunRecord, RunState
from orchestrator.registry.history.writes import RunWrite
from orchestrator.registry.records import LifecycleEvent, PostMortem

Migration = tuple[str, ...]

# Append only: a file in the field has been through the earlier ones as they were. Rows are ordered by their ids alone:
# the wall clock may jump.
MIGRATIONS: Final[tuple[Migration, ...]] = (
    (
        """
        CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, plugin TEXT NOT NULL,
            generation INTEGER NOT NULL, previous TEXT, state TEXT NOT NULL, reason_code TEXT, reason TEXT,
            post_mortem TEXT
        )
        """,
        "CREATE INDEX events_of_plugin ON events (plugin, id)",
        """
        CREATE TABLE runs (
            id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, plugin TEXT NOT NULL, tool TEXT NOT NULL,
            generation INTEGER NOT NULL, asynchronous INTEGER NOT NULL, state TEXT NOT NULL, accepted INTEGER NOT NULL,
            started INTEGER, finished INTEGER, outcome TEXT, reason_code TEXT, execution_ms REAL,
            request_bytes INTEGER, response_bytes INTEGER
        )
        """,
        "CREATE INDEX runs_of_plugin ON runs (plugin, id)",
        "CREATE INDEX runs_in_flight ON runs (id) WHERE state = 'in-flight'",
        """
        CREATE TABLE counters (
            plugin TEXT PRIMARY KEY, success INTEGER NOT NULL, error INTEGER NOT NULL, total_ms REAL NOT NULL,
            last_ms REAL, last_used INTEGER, generation INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
    ),
    ("CREATE TABLE journals (id TEXT PRIMARY KEY, applied INTEGER NOT NULL) WITHOUT ROWID",),
    (
        "ALTER TABLE runs ADD COLUMN caller TEXT",
        "CREATE INDEX runs_of_caller ON runs (caller, id) WHERE caller IS NOT NULL",
    ),
    ("ALTER TABLE runs ADD COLUMN retried_from INTEGER",),
    (
        "ALTER TABLE events ADD COLUMN caller TEXT",
        """
        CREATE TABLE deliveries (
            id INTEGER PRIMARY KEY AUTOINCREMENT, delivery_id TEXT NOT NULL UNIQUE, message_id TEXT NOT NULL,
            webhook TEXT NOT NULL, plugin TEXT NOT NULL, type TEXT NOT NULL, body TEXT NOT NULL,
            created INTEGER NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, attempted INTEGER,
            status INTEGER, error TEXT
        )
        """,
        "CREATE INDEX deliveries_of_webhook ON deliveries (webhook, state, id)",
        "CREATE INDEX deliveries_pending ON deliveries (webhook, plugin, id) WHERE state = 'pending'",
    ),
)
"""Each leads from one version to the next; a file's version is the number of migrations applied to it."""

RUN_COLUMNS: Final = (
    "run_id, plugin, tool, generation, asynchronous, state, accepted, started, finished, outcome, reason_code, "
    "execution_ms, request_bytes, response_bytes, caller, retried_from"
)
EVENT_COLUMNS: Final = "id, time, plugin, generation, previous, state, reason_code, reason, caller"
DELIVERY_COLUMNS: Final = (
    "id, delivery_id, message_id, webhook, plugin, type, body, created, state, attempts, attempted, status, error"
)
COUNTER_COLUMNS: Final = "plugin, success, error, total_ms, last_ms, last_used, generation"

_MAX_POST_MORTEM_CHARS: Final = 256 * 1024  # of one text in it
# Times are stored in whole microseconds, which come back exactly as the datetimes they were.
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def check_version(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """The file's version; only reads. Raises `NewerDatabaseError`, `sqlite3.Error`."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise NewerDatabaseError(f"the file has version {version}, this program knows {len(migrations)}")
    return version


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply the missing migrations, each in a transaction. Raises `sqlite3.Error`; `NewerDatabaseError`, with the file
    unchanged.
    """
    version = check_version(connection, migrations)
    for number, statements in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            # Within the transaction: tables and version change together or not at all.
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def microseconds(time: datetime) -> int:
    """Since 1970, in UTC. `time` has a zone."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(time: int) -> datetime:
    """The inverse of `microseconds`, in UTC."""
    return _EPOCH + time * _MICROSECOND


def text(value: str | None) -> str | None:
    """The text as SQLite accepts it: surrogates, left by bytes that were not UTF-8, become question marks."""
    return value if value is None or value.isascii() else _SURROGATES.sub("?", value)


def row_of_run(write: RunWrite) -> tuple[Any, ...]:
    run = write.run
    return (
        text(run.run_id),
        text(run.plugin),
        text(run.tool),
        run.generation,
        run.asynchronous,
        (write.state or run.state).value,
        microseconds(run.accepted_at),
        _optional_microseconds(run.started_at),
        _optional_microseconds(run.finished_at),
        text(run.outcome),
        text(run.reason_code),
        run.execution_ms,
        run.request_bytes,
        run.response_bytes,
        text(run.caller),
        run.retried_from,
    )


def run_from_row(row: Sequence[Any]) -> RunRecord:
    """`row`: RUN_COLUMNS, then id."""
    return RunRecord(
        run_id=row[0],
        plugin=row[1],
        tool=row[2],
        generation=row[3],
        asynchronous=bool(row[4]),
        state=RunState(row[5]),
        accepted_at=from_microseconds(row[6]),
        started_at=_optional_datetime(row[7]),
        finished_at=_optional_datetime(row[8]),
        outcome=row[9],
        reason_code=row[10],
        execution_ms=row[11],
        request_bytes=row[12],
        response_bytes=row[13],
        caller=row[14],
        retried_from=row[15],
        id=row[16],
    )


def row_of_event(event: LifecycleEvent, event_id: int) -> tuple[Any, ...]:
    return (
        event_id,
        microseconds(event.time),
        text(event.plugin),
        event.generation,
        event.previous.value if event.previous else None,
        event.state.value,
        event.reason_code.value if event.reason_code else None,
        text(event.reason),
        text(event.caller),
    )


def event_from_row(row: Sequence[Any]) -> LifecycleEvent:
    """`row`: EVENT_COLUMNS."""
    code = row[6]
    return LifecycleEvent(
        id=row[0],
        time=from_microseconds(row[1]),
        plugin=row[2],
        generation=row[3],
        previous=PluginLifecycleState(row[4]) if row[4] else None,
        state=PluginLifecycleState(row[5]),
        reason_code=ReasonCode(code) if code in ReasonCode.__members__ else None,  # a newer program may know more
        reason=row[7],
        caller=row[8],
    )


def delivery_from_row(row: Sequence[Any]) -> DeliveryRecord:
    """`row`: DELIVERY_COLUMNS."""
    return DeliveryRecord(
        id=row[0],
        delivery_id=row[1],
        message_id=row[2],
        webhook=row[3],
        plugin=row[4],
        type=row[5],
        body=row[6],
        created_at=from_microseconds(row[7]),
        state=DeliveryState(row[8]),
        attempts=row[9],
        attempted_at=_optional_datetime(row[10]),
        status=row[11],
        error=row[12],
    )


def row_of_counters(plugin: str, counters: Counters) -> tuple[Any, ...]:
    return (
        text(plugin),
        counters.success,
        counters.error,
        counters.total_ms,
        counters.last_ms,
        _optional_microseconds(counters.last_used),
        counters.generation,
    )


def counters_from_row(row: Sequence[Any]) -> tuple[str, Counters]:
    """`row`: COUNTER_COLUMNS; returns the plugin and its counters."""
    return row[0], Counters(
        success=row[1],
        error=row[2],
        total_ms=row[3],
        last_ms=row[4],
        last_used=_optional_datetime(row[5]),
        generation=row[6],
    )


def encode_post_mortem(report: PostMortem) -> str:
    """As JSON text. Never raises."""
    texts = {field.name: getattr(report, field.name) for field in fields(report)}
    # The end of a text says why the instance ended, so a long one loses its start.
    shortened: dict[str, Any] = {
        name: text[-_MAX_POST_MORTEM_CHARS:]
        for name, text in texts.items()
        if isinstance(text, str) and len(text) > _MAX_POST_MORTEM_CHARS
    }
    report = replace(report, **shortened) if shortened else report
    try:
        return msgspec.json.encode(report).decode()
    except (TypeError, ValueError):  # what JSON cannot hold becomes text, or question marks
        return json.dumps(asdict(report), default=str, ensure_ascii=False).encode("utf-8", "replace").decode()


def decode_post_mortem(text: str | None) -> PostMortem | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=PostMortem)
    except (TypeError, ValueError):  # an older or newer program wrote it in another shape
        return None


def _optional_microseconds(time: datetime | None) -> int | None:
    return None if time is None else microseconds(time)


def _optional_datetime(time: int | None) -> datetime | None:
    return None if time is None else from_microseconds(time)
