"""History is bounded by age and by size; counters are not history."""

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_history.samples import START, accepted, event, failed_event, finished, rows, store_in, until

from orchestrator.registry import PostMortem
from orchestrator.registry.history import RunRecord, RunState, schema
from orchestrator.registry.history.file import configure, connect
from orchestrator.registry.history.ledger import Ledger
from orchestrator.registry.history.retention import Limits, Retention, careful_clock
from orchestrator.registry.history.rows import microseconds
from orchestrator.registry.history.writes import EventWrite, RunWrite

DAY = timedelta(days=1)
JOURNAL = ("journal", 1)


@pytest.fixture
def ledger(tmp_path: Path):
    connection = connect(tmp_path / "history.sqlite3")
    configure(connection)
    schema.migrate(connection)
    yield Ledger(connection)
    connection.close()


def ended(*run: RunRecord, **facts: Any) -> RunRecord:
    return finished(*run, state=RunState.FINISHED, **facts)


def aged(ledger: Ledger, *ages: int) -> None:
    """A run and an event of each of these ages in days."""
    for number, age in enumerate(ages, start=ledger.last_event_id + 1):
        run = ended(accepted(), accepted_at=START - age * DAY)
        ledger.commit([EventWrite(event(number, time=START - age * DAY)), RunWrite(run, success=True)], {}, JOURNAL)


def prune(ledger: Ledger, *, max_age: timedelta = 365 * DAY, max_bytes: int = 10**9) -> int:
    """To the end; returns the number of steps."""
    retention = Retention(Limits(max_age, max_bytes), lambda: microseconds(START))
    steps = 1
    while retention.step(ledger.connection):
        steps += 1
    return steps


def count(ledger: Ledger, table: str) -> int:
    return ledger.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_what_is_older_than_allowed_goes(ledger: Ledger) -> None:
    """The counters stay, and so does the count of events."""
    aged(ledger, 40, 35, 31, 29, 0)
    prune(ledger, max_age=30 * DAY)
    assert (count(ledger, "runs"), count(ledger, "events")) == (2, 2)
    assert ledger.connection.execute("SELECT success FROM counters").fetchone() == (5,)
    prune(ledger, max_age=timedelta(0))
    assert count(ledger, "events") == 1
    assert Ledger(ledger.connection).last_event_id == 5


def test_a_run_in_flight_stays_however_old(ledger: Ledger) -> None:
    """Its end is still to come."""
    ledger.commit([RunWrite(accepted(generation=1)), RunWrite(accepted())], {}, JOURNAL)
    ledger.commit([RunWrite(ended(accepted_at=START - 50 * DAY))], {}, JOURNAL)
    prune(ledger, max_age=timedelta(seconds=-1))
    assert count(ledger, "runs") == 2


def test_many_old_rows_go_in_small_steps(ledger: Ledger) -> None:
    """No write waits for more than one step."""
    ledger.commit([RunWrite(ended(accepted_at=START - 50 * DAY)) for _ in range(2600)], {}, JOURNAL)
    assert prune(ledger, max_age=DAY) >= 6
    assert count(ledger, "runs") == 0


@pytest.mark.slow
def test_beyond_its_size_the_oldest_goes_and_the_file_shrinks(ledger: Ledger, tmp_path: Path) -> None:
    """Runs and events go back to about the same moment; the newest stay."""
    for turn in range(40):
        when = START - DAY + timedelta(minutes=turn)
        ledger.commit([RunWrite(ended(accepted_at=when)) for _ in range(200)], {}, JOURNAL)
        ledger.commit([EventWrite(event(turn * 100 + n + 1, time=when)) for n in range(100)], {}, JOURNAL)
    before = _bytes(ledger)
    limits = Limits(365 * DAY, before // 2)
    prune(ledger, max_bytes=limits.max_bytes)
    assert _bytes(ledger) <= limits.file_bytes
    oldest_run, oldest_event = (
        ledger.connection.execute(f"SELECT min({column}) FROM {table}").fetchone()[0]
        for table, column in (("runs", "accepted"), ("events", "time"))
    )
    assert abs(oldest_run - oldest_event) < timedelta(minutes=10) / timedelta(microseconds=1)
    assert count(ledger, "runs") > 1000
    assert ledger.connection.execute("SELECT max(id) FROM events").fetchone() == (4000,)
    assert ledger.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _bytes(ledger: Ledger) -> int:
    pages, size = (ledger.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return pages * size


def test_a_clock_that_jumps_makes_nothing_old() -> None:
    """Ahead or back: age goes by the steady clock where the two differ."""
    wall, steady = [1000.0], [50.0]
    clock = careful_clock(lambda: wall[0], lambda: steady[0])
    assert clock() == 1000 * 10**6
    wall[0] += 10**9
    steady[0] += 5
    assert clock() == 1005 * 10**6
    wall[0] = 900.0
    assert clock() == 900 * 10**6


@pytest.mark.slow
async def test_a_store_under_load_stays_within_its_size(tmp_path: Path) -> None:
    """File and log together, while it writes; nothing is lost by it and the counters are whole."""
    most = 3 * 1024**2
    store = store_in(tmp_path, max_bytes=most)
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
            await until(lambda: sum(path.stat().st_size for path in tmp_path.glob("*.sqlite3")) <= most)
    assert await store.flush()
    await store.close()
    assert store.lost == 0
    assert rows(tmp_path, "SELECT success FROM counters") == [(7200,)]
    assert largest < 2 * most + 1024**2
    assert rows(tmp_path, "SELECT count(*) > 0 FROM runs") == [(1,)]


async def test_a_store_prunes_by_itself(tmp_path: Path) -> None:
    """Old rows are gone soon after a start, without anybody asking."""
    store = store_in(tmp_path)
    await store.restore()
    store.run_finished(finished(accepted_at=START - 31 * DAY), success=True)
    store.run_finished(finished(), success=True)
    await store.flush()
    begun = time.monotonic()
    while rows(tmp_path, "SELECT count(*) FROM runs") != [(1,)]:
        assert time.monotonic() - begun < 10
        time.sleep(0.1)
    await store.close()


def test_the_file_can_give_space_back(ledger: Ledger, tmp_path: Path) -> None:
    """It was made so that pages can be given back step by step."""
    with closing(sqlite3.connect(tmp_path / "history.sqlite3")) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
