"""The journal: its writes reach the database once, wherever the process was killed; a damaged line is lost alone."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.registry.history import killed_at
from unit.registry.history.samples import accepted, event, failed_event, finished, rows, store_in

from orchestrator.registry.history import journal as journals
from orchestrator.registry.history.journal import Journal, JournalContent, decode_lines, encode_line
from orchestrator.registry.history.writes import EventWrite, PostMortemWrite, RunWrite, Write

WRITES: Sequence[Write] = [
    RunWrite(accepted("café\n")),
    RunWrite(finished(asynchronous=True), success=False),
    EventWrite(event(1)),
    EventWrite(failed_event(2)),
    PostMortemWrite("reader", 1, '{"log_tail": "a\\nb\x00"}'),
]
JOURNAL = b"".join(encode_line(number, write) for number, write in enumerate(WRITES, start=1))


def killed(step: str, folder: Path) -> set[str]:
    """Run a history that kills itself at this step; returns the runs acknowledged before."""
    tests = Path(killed_at.__file__).parents[3]
    program = subprocess.run(
        [sys.executable, killed_at.__file__, step, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tests), str(tests.parent)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert program.returncode == -signal.SIGKILL, program.stderr
    return set(program.stdout.split())


async def started(folder: Path) -> dict[str, int]:
    """Start and end a history; returns the restored successes by plugin."""
    store = store_in(folder)
    restored = await store.restore()
    assert restored.complete, store.problem
    assert store.notice is None
    await store.close()
    assert [path.name for path in folder.iterdir()] == ["history.sqlite3"]
    return {plugin: counters.success for plugin, counters in restored.counters.items()}


def finished_runs(folder: Path) -> set[str]:
    return {row[0] for row in rows(folder, "SELECT run_id FROM runs WHERE state = 'finished'")}


# Killed at every step


@pytest.mark.parametrize("step", killed_at.WHILE_IT_WRITES)
async def test_acknowledged_runs_are_restored_and_counted_once(tmp_path: Path, step: str) -> None:
    """Killed before a commit, after it, after the journal file was deleted, and with half a line at the end."""
    acknowledged = killed(step, tmp_path)
    assert len(acknowledged) == killed_at.RUNS
    assert await started(tmp_path) == {"reader": killed_at.RUNS}
    assert finished_runs(tmp_path) == acknowledged
    assert rows(tmp_path, "SELECT id FROM events") == [(1,)]
    assert await started(tmp_path) == {"reader": killed_at.RUNS}


@pytest.mark.parametrize("step", killed_at.AT_THE_START)
async def test_a_start_that_is_killed_too_counts_nothing_twice(tmp_path: Path, step: str) -> None:
    """However often. A process without orphaned journals gets as far as writing, and dies there."""
    acknowledged = killed("before a commit", tmp_path)
    for _ in range(3):
        acknowledged |= killed(step, tmp_path) if journal_files(tmp_path) else set()
    assert await started(tmp_path) == {"reader": len(acknowledged)}
    assert finished_runs(tmp_path) == acknowledged
    [(events, last)] = rows(tmp_path, "SELECT count(*), max(id) FROM events")
    assert (events, last) == (len(acknowledged) // killed_at.RUNS,) * 2


def journal_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


async def test_journals_written_without_the_database_are_replayed_in_order(tmp_path: Path) -> None:
    """Two processes whose database was locked all the time; their order is independent of the clock."""
    await started(tmp_path)
    with closing(sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        for generation in (1, 2):
            store = store_in(tmp_path)
            assert not (await store.restore()).complete
            run = finished(accepted(asynchronous=True), execution_ms=float(generation), generation=generation)
            assert await store.run_finished(run, success=True)
            assert await store.event(event(generation))
            await store.close()
            assert store.lost == 0
    _, second = journal_files(tmp_path)
    os.utime(second, (0, 0))
    assert await started(tmp_path) == {"reader": 2}
    assert rows(tmp_path, "SELECT last_ms, generation FROM counters") == [(2.0, 2)]
    assert rows(tmp_path, "SELECT id FROM events") == [(1,), (2,)]


async def test_an_orphaned_journal_that_cannot_be_deleted_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start finds it again."""
    killed("before a commit", tmp_path)
    [left] = [path for path in journal_files(tmp_path) if path.stat().st_size]
    content = left.read_bytes()
    monkeypatch.setattr(Journal, "delete_orphan", lambda *_: None)
    for _ in range(3):
        store = store_in(tmp_path)
        assert (await store.restore()).counters["reader"].success == killed_at.RUNS
        await store.close()
        assert left.read_bytes() == content


async def test_a_database_deleted_after_a_kill_restarts_from_the_journal(tmp_path: Path) -> None:
    acknowledged = killed("before a commit", tmp_path)
    (tmp_path / "history.sqlite3").unlink()
    assert await started(tmp_path) == {"reader": killed_at.RUNS}
    assert finished_runs(tmp_path) == acknowledged


async def test_a_damaged_line_is_lost_alone_and_reported(tmp_path: Path) -> None:
    """The notice says that something is missing; all other lines are replayed."""
    acknowledged = killed("before a commit", tmp_path)
    [left] = [path for path in journal_files(tmp_path) if path.stat().st_size]
    content = bytearray(left.read_bytes())
    content[len(content) // 2] ^= 1
    left.write_bytes(content)
    store = store_in(tmp_path)
    assert (await store.restore()).counters["reader"].success == killed_at.RUNS - 1
    assert store.notice == (
        "A part of the history's journal could not be read: some of the last runs and events are lost."
    )
    await store.close()
    assert len(acknowledged - finished_runs(tmp_path)) == 1
    assert journal_files(tmp_path) == []


# Lines


def test_lines_decode_as_they_were_encoded() -> None:
    assert decode_lines(JOURNAL) == JournalContent(list(enumerate(WRITES, start=1)), 0)
    assert decode_lines(b"") == JournalContent([], 0)


@given(st.integers(0, len(JOURNAL)))
def test_a_torn_end_damages_no_complete_line(length: int) -> None:
    """And does not count as damage: it was never acknowledged."""
    torn = JOURNAL[:length]
    assert decode_lines(torn) == JournalContent(list(enumerate(WRITES, start=1))[: torn.count(b"\n")], 0)


@example(8, 1)
@given(st.integers(0, len(JOURNAL) - 1), st.integers(1, 255))
def test_a_rotten_byte_damages_its_line_alone(position: int, change: int) -> None:
    """Or two lines, where it was the line break between them."""
    rotten = bytearray(JOURNAL)
    rotten[position] ^= change
    survivors = [(n, write) for n, write in enumerate(WRITES, start=1) if encode_line(n, write) in bytes(rotten)]
    found = decode_lines(bytes(rotten))
    assert len(survivors) >= len(WRITES) - 2 + (JOURNAL[position] != 10)
    assert all(each in survivors for each in found.writes)
    assert len(found.writes) >= len(WRITES) - 2 + (JOURNAL[position] != 10)


@given(st.binary(max_size=300))
def test_random_bytes_decode_to_nothing(random: bytes) -> None:
    assert decode_lines(random).writes == []


def test_a_write_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    """The database can still store it, with question marks."""
    journal = Journal(tmp_path, 10**6)
    journal.rotate()
    assert not journal.append(1, RunWrite(accepted("r\udcffder")))
    assert journal.append(2, RunWrite(accepted()))
    journal.close(2)


# Files


def test_the_journal_stays_within_its_maximum_size(tmp_path: Path) -> None:
    """Both files together; deleting committed writes makes room."""
    journal = Journal(tmp_path, 10_000)
    journal.rotate()
    number = 0
    while journal.append(number + 1, RunWrite(finished())):
        number += 1
        written = sum(path.stat().st_size for path in journal_files(tmp_path))
        assert journal.half_full is (written > 5_000)
    assert 15 < number < 30
    journal.rotate()
    assert not journal.append(number + 1, RunWrite(finished()))
    assert sum(path.stat().st_size for path in journal_files(tmp_path)) <= 10_000
    journal.delete_committed(number - 1)
    assert not journal.append(number + 1, RunWrite(finished()))
    journal.delete_committed(number)
    assert journal.append(number + 1, RunWrite(finished()))
    journal.close(number + 1)
    assert journal_files(tmp_path) == []


def test_orphaned_journals_count_towards_the_maximum_size(tmp_path: Path) -> None:
    """Endless restarts with a database that never opens do not fill the disk."""
    for _ in range(20):
        journal = Journal(tmp_path, 10_000)
        journal.rotate()
        for number in range(1, 6):
            journal.append(number, RunWrite(finished()))
        journal.close(0)
    assert sum(path.stat().st_size for path in journal_files(tmp_path)) <= 10_000


def test_a_partly_written_line_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk becomes full in the middle of it."""
    journal, pwrite = Journal(tmp_path, 10**6), os.pwrite
    journal.rotate()
    long = PostMortemWrite("reader", 1, "x" * 5000)
    monkeypatch.setattr(os, "pwrite", lambda descriptor, line, offset: pwrite(descriptor, line[:4000], offset))
    assert not journal.append(1, long)
    monkeypatch.undo()
    assert journal.append(2, WRITES[0])
    [path] = journal_files(tmp_path)
    assert decode_lines(path.read_bytes()) == JournalContent([(2, WRITES[0])], 0)
    assert journal.append(3, long)
    assert decode_lines(path.read_bytes()) == JournalContent([(2, WRITES[0]), (3, long)], 0)
    journal.close(3)


class Clock:
    """In place of the journal's own. Each look at it takes a while."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.each_look_takes = 0.0

    def monotonic(self) -> float:
        self.now += self.each_look_takes
        return self.now


def test_a_slow_disk_is_not_used_again_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up one caller, not each of them."""
    journal, clock = Journal(tmp_path, 10**6), Clock()
    journal.rotate()
    monkeypatch.setattr(journals, "monotonic", clock.monotonic)
    clock.each_look_takes = 0.15
    assert journal.append(1, WRITES[0])
    clock.each_look_takes = 0
    assert not journal.append(2, WRITES[0])
    clock.now += journals._SLOW_DISK_PAUSE - 0.01
    assert not journal.append(2, WRITES[0])
    clock.now += 0.02
    assert journal.append(3, WRITES[0])
    journal.close(3)


async def test_a_run_is_in_the_journal_at_once_and_in_the_database_soon(tmp_path: Path) -> None:
    """The transaction needs no caller that waits for it."""
    store = store_in(tmp_path)
    await store.restore()
    run = finished()
    assert await store.run_finished(run, success=True)
    assert run.run_id.encode() in b"".join(path.read_bytes() for path in journal_files(tmp_path))
    assert rows(tmp_path, "SELECT count(*) FROM runs") == [(0,)]
    end = time.monotonic() + 5
    while not finished_runs(tmp_path):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    await store.close()


async def test_a_read_sees_all_earlier_writes(tmp_path: Path) -> None:
    """It waits until they are in the database."""
    store = store_in(tmp_path)
    await store.restore()
    for number in range(1, 50):
        run = finished()
        await store.run_finished(run, success=True)
        store.event(event(number))
        assert await store.run(run.run_id) is not None
        assert [each.id for each in await store.latest_events(1)] == [number]
    await store.close()
