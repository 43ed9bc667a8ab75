"""From whatever lies at the path to an open ledger."""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.registry.history import file, schema
from orchestrator.registry.history.ledger import Applied, Ledger
from orchestrator.registry.history.problems import damaged
from orchestrator.registry.history.records import Counters

_log = logging.getLogger(__name__)

Notice = str | None
"""A sentence for the operator, where something was done that they should know of."""


def open_ledger(path: Path, migrations: Sequence[schema.Migration] = schema.MIGRATIONS) -> tuple[Ledger, Notice]:
    """Make the file if need be, bring it forward, and open it; a damaged one is moved aside and a new one begun.
    Raises `OSError`, `sqlite3.Error`, `NewerFileError`.
    """
    try:
        return _open(path, migrations), None
    except sqlite3.Error as error:
        if not damaged(error):
            raise
        notice = begin_anew(path, error)
    return _open(path, migrations), notice


def begin_anew(path: Path, error: Exception) -> str:
    """Move the damaged file aside; returns the sentence to be said. Raises `OSError`."""
    aside = file.move_aside(path)
    _log.warning("%s is damaged (%s); it is %s now, and a new history begins", path, error, aside)
    return f"The history file was damaged. It was moved aside as {aside}, and a new one was begun."


def carry_over(ledger: Ledger, counters: Mapping[str, Counters], applied: Applied) -> None:
    """Counters outlive their file: one that was begun anew while the program ran starts with those in memory."""
    if counters and not ledger.counters:
        ledger.adopt(counters, applied)


def _open(path: Path, migrations: Sequence[schema.Migration]) -> Ledger:
    file.make(path)
    connection = file.connect(path)
    try:
        schema.known_version(connection, migrations)
        file.configure(connection)
        schema.migrate(connection, migrations)
        return Ledger(connection)
    except BaseException:
        with suppress(sqlite3.Error):
            connection.close()
        raise
