"""The tables, and the way from any older file to them."""

import sqlite3
from collections.abc import Sequence
from typing import Final

Migration = tuple[str, ...]

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
)
"""What leads from each version to the next; a file's version is the number of those that it has been through. Append
only: a file in the field has been through the earlier ones as they were.
"""


class NewerFileError(Exception):
    """The file was written by a newer program, which knows tables that this one does not."""


def known_version(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """The file's version; only reads. Raises `NewerFileError`, `sqlite3.Error`."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise NewerFileError(f"the file has version {version}, this program knows {len(migrations)}")
    return version


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file forward, a version at a time, each whole or not at all. Raises `NewerFileError` and leaves the
    file as it is, `sqlite3.Error`.
    """
    version = known_version(connection, migrations)
    for number, statements in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
