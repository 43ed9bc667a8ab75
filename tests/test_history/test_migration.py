"""Older files are brought forward, newer ones left alone."""

import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from test_history.samples import event, finished, rows, store_in

from orchestrator.registry.history.backlog import Group
from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.keeper import Keeper
from orchestrator.registry.history.opening import open_ledger
from orchestrator.registry.history.retention import Limits, Retention
from orchestrator.registry.history.schema import MIGRATIONS, migrate

NEXT = (*MIGRATIONS, ("ALTER TABLE runs ADD COLUMN caller TEXT", "CREATE INDEX runs_of_caller ON runs (caller)"))
"""Tomorrow's program."""


async def old_file(folder: Path) -> Path:
    """With a run, an event and counters."""
    store = store_in(folder)
    await store.restore()
    store.event(event(4))
    await store.run_finished(finished(), success=True)
    await store.close()
    return folder / "history.sqlite3"


async def test_a_file_of_the_version_before_is_brought_forward(tmp_path: Path) -> None:
    """Everything in it stays."""
    ledger, notice = open_ledger(await old_file(tmp_path), NEXT)
    ledger.close()
    assert notice is None
    assert rows(tmp_path, "SELECT plugin, caller FROM runs") == [("reader", None)]
    assert rows(tmp_path, "PRAGMA user_version") == [(len(NEXT),)]
    assert (ledger.counters["reader"].success, ledger.last_event_id) == (1, 4)


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    """Half a version does not exist."""
    path = await old_file(tmp_path)
    broken = (*MIGRATIONS, ("ALTER TABLE runs ADD COLUMN caller TEXT", "CREATE INDEX nonsense ON nothing (caller)"))
    with pytest.raises(sqlite3.OperationalError):
        open_ledger(path, broken)
    assert rows(tmp_path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert "caller" not in str(rows(tmp_path, "SELECT sql FROM sqlite_master WHERE name = 'runs'"))


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_every_version_leads_to_the_same_tables(tmp_path: Path, version: int) -> None:
    """A new file is one that has been through all versions."""

    def tables(name: str, *steps: int) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(tmp_path / name, isolation_level=None)) as connection:
            for step in steps:
                migrate(connection, MIGRATIONS[:step])
            return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()

    assert tables("old", version, len(MIGRATIONS)) == tables("new", len(MIGRATIONS))


async def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """The orchestrator goes on without history and says so; when the file is moved away, history begins with what the
    journal has.
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
        "History is not being written. history.sqlite3 in the state folder (ORCHESTRATOR_STATE_DIR) was written by a "
        f"newer orchestrator (the file has version 99, this program knows {len(MIGRATIONS)}). Run that one, or move "
        "the file away to begin anew. Runs go on meanwhile, and writing is tried again by itself."
    )
    await store.close()
    assert path.read_bytes() == before

    path.rename(tmp_path / "elsewhere")
    anew = store_in(tmp_path)
    assert (await anew.restore()).counters["reader"].success == 1
    await anew.close()


async def test_a_copy_of_the_file_is_a_whole_history(tmp_path: Path) -> None:
    """After an orderly end there is one file, no log and no journal."""
    path = await old_file(tmp_path / "first")
    assert [each.name for each in path.parent.iterdir()] == ["history.sqlite3"]
    (tmp_path / "second").mkdir()
    shutil.copy(path, tmp_path / "second")
    journal = Journal(tmp_path / "second", 10**6)
    keeper = Keeper(tmp_path / "second" / "history.sqlite3", Retention(Limits(timedelta(days=1), 10**6)), journal)
    keeper.write(Group())
    keeper.close()
    assert keeper.restored.result().last_event_id == 4
