"""Older files are migrated, newer ones left alone."""

import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from unit.registry.history.samples import event, finished, rows, store_in

from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.recovering_database import RecoveringDatabase, open_database
from orchestrator.registry.history.retention import Retention, RetentionLimits
from orchestrator.registry.history.schema import MIGRATIONS, migrate
from orchestrator.registry.history.write_queue import WriteBatch

NEXT = (*MIGRATIONS, ("ALTER TABLE runs ADD COLUMN newer TEXT", "CREATE INDEX runs_of_newer ON runs (newer)"))
"""The migrations of a later program."""


async def old_file(folder: Path) -> Path:
    """Written by today's program: a run, an event and counters."""
    store = store_in(folder)
    await store.restore()
    store.event(event(4))
    await store.run_finished(finished(), success=True)
    await store.close()
    return folder / "history.sqlite3"


async def test_a_file_of_the_previous_version_is_migrated(tmp_path: Path) -> None:
    """Its content is unchanged."""
    database, notice = open_database(await old_file(tmp_path), NEXT)
    database.close()
    assert notice is None
    assert rows(tmp_path, "SELECT plugin, newer FROM runs") == [("reader", None)]
    assert rows(tmp_path, "PRAGMA user_version") == [(len(NEXT),)]
    assert (database.counters["reader"].success, database.last_event_id) == (1, 4)


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    """There is no half-migrated file."""
    path = await old_file(tmp_path)
    broken = (*MIGRATIONS, ("ALTER TABLE runs ADD COLUMN newer TEXT", "CREATE INDEX nonsense ON nothing (newer)"))
    with pytest.raises(sqlite3.OperationalError):
        open_database(path, broken)
    assert rows(tmp_path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert "newer" not in str(rows(tmp_path, "SELECT sql FROM sqlite_master WHERE name = 'runs'"))


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_every_version_migrates_to_the_same_tables(tmp_path: Path, version: int) -> None:
    """A new file has the tables of one migrated from any version."""

    def tables(name: str, *steps: int) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(tmp_path / name, isolation_level=None)) as connection:
            for step in steps:
                migrate(connection, MIGRATIONS[:step])
            return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()

    assert tables("old", version, len(MIGRATIONS)) == tables("new", len(MIGRATIONS))


async def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """The orchestrator runs without history and reports that; once the file is moved away, the journal's writes start a
    new history.
    """
    path = await old_file(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()

    store = store_in(tmp_path)
    restored = await store.restore()
    assert (restored.complete, restored.last_event_id) == (False, 0)
    assert await store.run_finished(finished(), success=True)
    assert await store.flush() is False
    assert store.problem == (
        "History is not being written. A newer orchestrator wrote history.sqlite3 in the state folder "
        f"(ORCHESTRATOR_STATE_DIR): the file has version 99, this program knows {len(MIGRATIONS)}. Run that version, "
        "or move the file away to start a new one. Runs continue meanwhile, and writing is retried automatically."
    )
    await store.close()
    assert path.read_bytes() == before

    path.rename(tmp_path / "elsewhere")
    restarted = store_in(tmp_path)
    assert (await restarted.restore()).counters["reader"].success == 1
    await restarted.close()


async def test_a_copy_of_the_file_is_a_complete_history(tmp_path: Path) -> None:
    """After an orderly end there is one file, without a log or a journal."""
    path = await old_file(tmp_path / "first")
    assert [each.name for each in path.parent.iterdir()] == ["history.sqlite3"]
    (tmp_path / "second").mkdir()
    shutil.copy(path, tmp_path / "second")
    journal = Journal(tmp_path / "second", 10**6)
    retention = Retention(RetentionLimits(timedelta(days=1), 10**6))
    database = RecoveringDatabase(tmp_path / "second" / "history.sqlite3", retention, journal)
    database.write(WriteBatch())
    database.close()
    assert database.restored.result().last_event_id == 4
