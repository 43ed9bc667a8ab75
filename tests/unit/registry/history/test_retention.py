"""History is bounded by age and by size; counters are never pruned."""

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from unit.registry.history.samples import START, accepted, event, failed_event, finished, rows, store_in, until

from orchestrator.registry import PostMortem
from orchestrator.registry.history import RunRecord, RunState
from orchestrator.registry.history.database import HistoryDatabase
from orchestrator.registry.history.database_file import configure_for_writing, connect
from orchestrator.registry.history.retention import Retention, RetentionLimits, jump_safe_clock
from orchestrator.registry.history.schema import microseconds, migrate
from orchestrator.registry.history.writes import EventWrite, RunWrite

DAY = timedelta(days=1)
JOURNAL = ("journal", 1)


@pytest.fixture
def database(tmp_path: Path):
    connection = connect(tmp_path / "history.sqlite3")
    configure_for_writing(connection)
    migrate(connection)
    yield HistoryDatabase(connection)
    connection.close()


def ended(*run: RunRecord, **facts: Any) -> RunRecord:
    return finished(*run, state=RunState.FINISHED, **facts)


def aged(database: HistoryDatabase, *ages: int) -> None:
    """A run and an event of each of these ages in days."""
    for number, age in enumerate(ages, start=database.last_event_id + 1):
        run = ended(accepted(), accepted_at=START - age * DAY)
        database.commit([EventWrite(event(number, time=START - age * DAY)), RunWrite(run, success=True)], {}, JOURNAL)


def prune(database: HistoryDatabase, *, max_age: timedelta = 365 * DAY, max_bytes: int = 10**9) -> int:
    """Prune until nothing is left to do; returns the number of steps."""
    retention = Retention(RetentionLimits(max_age, max_bytes), lambda: microseconds(START))
    steps = 1
    while retention.step(database.connection):
        steps += 1
    return steps


def count(database: HistoryDatabase, table: str) -> int:
    return database.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_rows_beyond_the_maximum_age_are_deleted(database: HistoryDatabase) -> None:
    """Counters and the last event id stay."""
    aged(database, 40, 35, 31, 29, 0)
    prune(database, max_age=30 * DAY)
    assert (count(database, "runs"), count(database, "events")) == (2, 2)
    assert database.connection.execute("SELECT success FROM counters").fetchone() == (5,)
    prune(database, max_age=timedelta(0))
    assert count(database, "events") == 1
    assert HistoryDatabase(database.connection).last_event_id == 5


def test_a_run_in_flight_stays_however_old(database: HistoryDatabase) -> None:
    """Its end is still to be written."""
    database.commit([RunWrite(accepted(generation=1)), RunWrite(accepted())], {}, JOURNAL)
    database.commit([RunWrite(ended(accepted_at=START - 50 * DAY))], {}, JOURNAL)
    prune(database, max_age=timedelta(seconds=-1))
    assert count(database, "runs") == 2


def test_many_old_rows_are_deleted_in_small_steps(database: HistoryDatabase) -> None:
    """No write waits for more than one step."""
    database.commit([RunWrite(ended(accepted_at=START - 50 * DAY)) for _ in range(2600)], {}, JOURNAL)
    assert prune(database, max_age=DAY) >= 6
    assert count(database, "runs") == 0


@pytest.mark.slow
def test_beyond_its_maximum_size_the_oldest_rows_are_deleted_and_the_file_shrinks(
    database: HistoryDatabase, tmp_path: Path
) -> None:
    """Runs and events then reach back to about the same moment; the newest stay."""
    for minute in range(40):
        when = START - DAY + timedelta(minutes=minute)
        database.commit([RunWrite(ended(accepted_at=when)) for _ in range(200)], {}, JOURNAL)
        database.commit([EventWrite(event(minute * 100 + n + 1, time=when)) for n in range(100)], {}, JOURNAL)
    before = _bytes(database)
    limits = RetentionLimits(365 * DAY, before // 2)
    prune(database, max_bytes=limits.max_bytes)
    assert _bytes(database) <= limits.file_bytes
    oldest_run, oldest_event = (
        database.connection.execute(f"SELECT min({column}) FROM {table}").fetchone()[0]
        for table, column in (("runs", "accepted"), ("events", "time"))
    )
    assert abs(oldest_run - oldest_event) < timedelta(minutes=10) / timedelta(microseconds=1)
    assert count(database, "runs") > 1000
    assert database.connection.execute("SELECT max(id) FROM events").fetchone() == (4000,)
    assert database.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _bytes(database: HistoryDatabase) -> int:
    pages, size = (database.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return pages * size


def test_a_wall_clock_that_jumps_ages_nothing() -> None:
    """Ahead or back: where the two differ, the steady clock bounds the age."""
    wall, steady = [1000.0], [50.0]
    clock = jump_safe_clock(lambda: wall[0], lambda: steady[0])
    assert clock() == 1000 * 10**6
    wall[0] += 10**9
    steady[0] += 5
    assert clock() == 1005 * 10**6
    wall[0] = 900.0
    assert clock() == 900 * 10**6


@pytest.mark.slow
async def test_a_store_under_load_stays_within_its_size(tmp_path: Path) -> None:
    """File and log together, while it writes; nothing is lost and the counters are complete."""
    max_bytes = 3 * 1024**2
    store = store_in(tmp_path, max_bytes=max_bytes)
    await store.restore()
    largest = 0
    for number in range(1, 121):
        for _ in range(60):
            store.run_finished(finished(), success=True)
        store.event(failed_event(number))
        assert await store.post_mortem("reader", 1, PostMortem(datetime.now(UTC), log_tail="x" * 30_000))
        assert await store.flush()
        largest = max(largest, sum(path.stat().st_size for path in tmp_path.glob("history.sqlite3*")))
        if number % 40 == 0:
            await until(lambda: sum(path.stat().st_size for path in tmp_path.glob("*.sqlite3")) <= max_bytes)
    assert await store.flush()
    await store.close()
    assert store.lost == 0
    assert rows(tmp_path, "SELECT success FROM counters") == [(7200,)]
    assert largest < 2 * max_bytes + 1024**2
    assert rows(tmp_path, "SELECT count(*) > 0 FROM runs") == [(1,)]


async def test_a_store_prunes_by_itself(tmp_path: Path) -> None:
    """Old rows are deleted soon after a start."""
    store = store_in(tmp_path)
    await store.restore()
    store.run_finished(finished(accepted_at=START - 31 * DAY), success=True)
    store.run_finished(finished(), success=True)
    await store.flush()
    started = time.monotonic()
    while rows(tmp_path, "SELECT count(*) FROM runs") != [(1,)]:
        assert time.monotonic() - started < 10
        time.sleep(0.1)
    await store.close()


def test_the_file_can_return_space(database: HistoryDatabase, tmp_path: Path) -> None:
    """It is created with incremental vacuum."""
    with closing(sqlite3.connect(tmp_path / "history.sqlite3")) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
