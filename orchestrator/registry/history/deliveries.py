"""Deliveries of webhooks in the database: stored with the writes that they come of, changed by attempts, and read."""

# ruff: noqa: S608 - statements are made of constants; values are bound

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from orchestrator.registry.history.records import DeliveryCounts, DeliveryRecord, DeliveryState, NewDelivery
from orchestrator.registry.history.schema import DELIVERY_COLUMNS, delivery_from_row, microseconds, text
from orchestrator.registry.history.writes import DeliveryWrite, Outbox, RepeatWrite, Write

MAX_PENDING: Final = 10_000
"""Deliveries of one webhook that wait; one more takes the place of the oldest."""
MAX_ENDED: Final = 1000
"""Deliveries of one webhook that ended, and are listed and can be repeated."""

_PENDING: Final = DeliveryState.PENDING.value
_INSERT: Final = (
    "INSERT INTO deliveries (id, delivery_id, message_id, webhook, plugin, type, body, created, state, attempts) "
    f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, '{_PENDING}', 0)"
)
_CHANGE: Final = (
    "UPDATE deliveries SET state = ?, attempts = ?, attempted = ?, status = ?, error = ? WHERE delivery_id = ?"
)
_REPEAT: Final = f"""
    INSERT INTO deliveries (id, delivery_id, message_id, webhook, plugin, type, body, created, state, attempts)
    SELECT ?, ?, message_id, webhook, plugin, type, body, ?, '{_PENDING}', 0 FROM deliveries WHERE delivery_id = ?
"""


def new_delivery_id() -> str:
    return f"dlv_{secrets.token_hex(12)}"


def store(connection: sqlite3.Connection, writes: Iterable[Write], outbox: Outbox, last_id: int) -> int:
    """Store what `writes` bring for webhooks. Returns the highest id in use. Raises `sqlite3.Error`; belongs into the
    transaction of the writes.
    """
    now = microseconds(datetime.now(UTC))
    for write in writes:
        match write:
            case DeliveryWrite():
                attempted = microseconds(write.attempted_at)
                changed = (write.state.value, write.attempts, attempted, write.status, text(write.error))
                connection.execute(_CHANGE, (*changed, write.delivery_id))
            case RepeatWrite():
                last_id += 1
                connection.execute(_REPEAT, (last_id, write.new_id, now, write.delivery_id))
            case _:
                rows = _rows(outbox.deliveries(write), last_id, now)
                connection.executemany(_INSERT, rows)
                last_id += len(rows)
    return last_id


def _rows(deliveries: Sequence[NewDelivery], last_id: int, now: int) -> list[tuple[int | str | None, ...]]:
    message_id = f"msg_{secrets.token_hex(12)}"
    return [
        (
            number,
            new_delivery_id(),
            message_id,
            text(each.webhook),
            text(each.plugin),
            each.type,
            text(each.body),
            now,
        )
        for number, each in enumerate(deliveries, start=last_id + 1)
    ]


def prune(connection: sqlite3.Connection, max_rows: int) -> tuple[int, int]:
    """Delete at most about `max_rows` of the oldest beyond the bounds of each webhook. Returns how many are deleted,
    and how many of those were pending. Raises `sqlite3.Error`.
    """
    deleted = lost = 0
    counts = "SELECT webhook, state, count(*) FROM deliveries GROUP BY webhook, state"
    ended: dict[str, int] = {}
    for webhook, state, count in connection.execute(counts).fetchall():
        if state != _PENDING:
            ended[webhook] = ended.get(webhook, 0) + count
        elif count > MAX_PENDING:
            lost += _delete_oldest(connection, webhook, f"= '{_PENDING}'", min(count - MAX_PENDING, max_rows))
    for webhook, count in ended.items():
        if count > MAX_ENDED:
            deleted += _delete_oldest(connection, webhook, f"!= '{_PENDING}'", min(count - MAX_ENDED, max_rows))
    return deleted + lost, lost


def _delete_oldest(connection: sqlite3.Connection, webhook: str, state: str, rows: int) -> int:
    which = f"SELECT id FROM deliveries WHERE webhook = ? AND state {state} ORDER BY id LIMIT ?"
    return connection.execute(f"DELETE FROM deliveries WHERE id IN ({which})", (webhook, rows)).rowcount


# Reading


def waiting(connection: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """Each webhook and plugin with a pending delivery, and the highest id of those."""
    query = f"SELECT webhook, plugin, max(id) FROM deliveries WHERE state = '{_PENDING}' GROUP BY webhook, plugin"
    return connection.execute(query).fetchall()


def pending(
    connection: sqlite3.Connection, *, webhook: str, plugin: str, after: int, limit: int
) -> list[DeliveryRecord]:
    """The oldest with an id above `after`."""
    rows = connection.execute(
        f"SELECT {DELIVERY_COLUMNS} FROM deliveries "
        f"WHERE webhook = ? AND plugin = ? AND state = '{_PENDING}' AND id > ? ORDER BY id LIMIT ?",
        (webhook, plugin, after, limit),
    )
    return [delivery_from_row(row) for row in rows]


def deliveries(
    connection: sqlite3.Connection, *, webhook: str, state: DeliveryState | None, before: int | None, limit: int
) -> list[DeliveryRecord]:
    """Newest first; `before`: the id of the previous page's last delivery."""
    conditions = [("webhook = ?", webhook), ("state = ?", state and state.value), ("id < ?", before)]
    given = [(condition, value) for condition, value in conditions if value is not None]
    rows = connection.execute(
        f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE {' AND '.join(condition for condition, _ in given)} "
        "ORDER BY id DESC LIMIT ?",
        (*(value for _, value in given), limit),
    )
    return [delivery_from_row(row) for row in rows]


def delivery(connection: sqlite3.Connection, *, webhook: str, delivery_id: str) -> DeliveryRecord | None:
    row = connection.execute(
        f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE delivery_id = ? AND webhook = ?", (delivery_id, webhook)
    ).fetchone()
    return delivery_from_row(row) if row else None


def counts(connection: sqlite3.Connection) -> dict[str, DeliveryCounts]:
    """By webhook."""
    found: dict[str, dict[str, int]] = {}
    query = "SELECT webhook, state, count(*) FROM deliveries GROUP BY webhook, state"
    for webhook, state, count in connection.execute(query):
        found.setdefault(webhook, {})[state] = count
    return {webhook: DeliveryCounts(**states) for webhook, states in found.items()}
