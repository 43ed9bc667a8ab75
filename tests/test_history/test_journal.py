"""The journal: what it took is in the file once, wherever the process was killed; a line that is damaged goes alone."""

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
from test_history import killed_at
from test_history.samples import accepted, event, failed_event, finished, rows, store_in

from orchestrator.registry.history import journal as journals
from orchestrator.registry.history import lines
from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.writes import EventWrite, PostMortemWrite, RunWrite, Write

WRITES: Sequence[Write] = [
    RunWrite(accepted("café\n")),
    RunWrite(finished(asynchronous=True), success=False),
    EventWrite(event(1)),
    EventWrite(failed_event(2)),
    PostMortemWrite("reader", 1, '{"log_tail": "a\\nb\x00"}'),
]
JOURNAL = b"".join(lines.line(number, write) for number, write in enumerate(WRITES, start=1))


def killed(step: str, folder: Path) -> set[str]:
    """The runs that this life was told are kept, before it killed itself."""
    tests = Path(killed_at.__file__).parents[1]
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
    """What a start finds, and leaves: successes by plugin."""
    store = store_in(folder)
    restored = await store.restore()
    assert restored.complete, store.problem
    assert store.notice is None
    await store.close()
    assert [path.name for path in folder.iterdir()] == ["history.sqlite3"]
    return {plugin: counters.success for plugin, counters in restored.counters.items()}


def finished_runs(folder: Path) -> set[str]:
    return {row[0] for row in rows(folder, "SELECT run_id FROM runs WHERE state = 'finished'")}


# Where it is killed


@pytest.mark.parametrize("step", killed_at.WHILE_IT_WRITES)
async def test_what_was_acknowledged_is_found_and_counted_once(tmp_path: Path, step: str) -> None:
    """Before a commit, after it, after the journal's file is gone, and with half a line at the end."""
    told = killed(step, tmp_path)
    assert len(told) == killed_at.RUNS
    assert await started(tmp_path) == {"reader": killed_at.RUNS}
    assert finished_runs(tmp_path) == told
    assert rows(tmp_path, "SELECT id FROM events") == [(1,)]
    assert await started(tmp_path) == {"reader": killed_at.RUNS}


@pytest.mark.parametrize("step", killed_at.AT_THE_START)
async def test_a_start_that_is_killed_as_well_counts_nothing_twice(tmp_path: Path, step: str) -> None:
    """However often. A life that has nothing to take in any more comes to write, and dies with that."""
    told = killed("before a commit", tmp_path)
    for _ in range(3):
        told |= killed(step, tmp_path) if leftovers(tmp_path) else set()
    assert await started(tmp_path) == {"reader": len(told)}
    assert finished_runs(tmp_path) == told
    [(events, last)] = rows(tmp_path, "SELECT count(*), max(id) FROM events")
    assert (events, last) == (len(told) // killed_at.RUNS,) * 2


def leftovers(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


async def test_lives_without_the_file_are_taken_in_as_they_came(tmp_path: Path) -> None:
    """Two whose file was locked from the beginning; the later is the later whatever the clock said meanwhile."""
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
    _, second = leftovers(tmp_path)
    os.utime(second, (0, 0))
    assert await started(tmp_path) == {"reader": 2}
    assert rows(tmp_path, "SELECT last_ms, generation FROM counters") == [(2.0, 2)]
    assert rows(tmp_path, "SELECT id FROM events") == [(1,), (2,)]


async def test_a_leftover_that_cannot_be_deleted_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there again at every start."""
    killed("before a commit", tmp_path)
    [left] = [path for path in leftovers(tmp_path) if path.stat().st_size]
    content = left.read_bytes()
    monkeypatch.setattr(Journal, "discard", lambda *_: None)
    for _ in range(3):
        store = store_in(tmp_path)
        assert (await store.restore()).counters["reader"].success == killed_at.RUNS
        await store.close()
        assert left.read_bytes() == content


async def test_a_file_that_was_deleted_after_a_kill_begins_with_what_the_journal_has(tmp_path: Path) -> None:
    told = killed("before a commit", tmp_path)
    (tmp_path / "history.sqlite3").unlink()
    assert await started(tmp_path) == {"reader": killed_at.RUNS}
    assert finished_runs(tmp_path) == told


async def test_a_rotten_line_goes_alone_and_is_told_of(tmp_path: Path) -> None:
    """The operator learns that something is missing; all the others are there."""
    told = killed("before a commit", tmp_path)
    [left] = [path for path in leftovers(tmp_path) if path.stat().st_size]
    content = bytearray(left.read_bytes())
    content[len(content) // 2] ^= 1
    left.write_bytes(content)
    store = store_in(tmp_path)
    assert (await store.restore()).counters["reader"].success == killed_at.RUNS - 1
    assert store.notice == (
        "Something of the history's journal could not be read: some of the last runs and events are lost."
    )
    await store.close()
    assert len(told - finished_runs(tmp_path)) == 1
    assert leftovers(tmp_path) == []


# Lines


def test_a_line_is_read_as_it_was_written() -> None:
    assert lines.read(JOURNAL) == lines.Lines(list(enumerate(WRITES, start=1)), 0)
    assert lines.read(b"") == lines.Lines([], 0)


@given(st.integers(0, len(JOURNAL)))
def test_what_is_torn_off_takes_no_whole_line_with_it(length: int) -> None:
    """And is no damage: it was never acknowledged."""
    torn = JOURNAL[:length]
    assert lines.read(torn) == lines.Lines(list(enumerate(WRITES, start=1))[: torn.count(b"\n")], 0)


@example(8, 1)
@given(st.integers(0, len(JOURNAL) - 1), st.integers(1, 255))
def test_a_byte_that_rots_takes_its_line_alone(place: int, change: int) -> None:
    """Two where it was the line break between them."""
    rotten = bytearray(JOURNAL)
    rotten[place] ^= change
    survivors = [(n, write) for n, write in enumerate(WRITES, start=1) if lines.line(n, write) in bytes(rotten)]
    found = lines.read(bytes(rotten))
    assert len(survivors) >= len(WRITES) - 2 + (JOURNAL[place] != 10)
    assert all(each in survivors for each in found.writes)
    assert len(found.writes) >= len(WRITES) - 2 + (JOURNAL[place] != 10)


@given(st.binary(max_size=300))
def test_nonsense_says_nothing(nonsense: bytes) -> None:
    assert lines.read(nonsense).writes == []


def test_what_json_cannot_hold_is_no_line(tmp_path: Path) -> None:
    """The file may still take it, with question marks."""
    journal = Journal(tmp_path, 10**6)
    journal.turn()
    assert not journal.append(1, RunWrite(accepted("r\udcffder")))
    assert journal.append(2, RunWrite(accepted()))
    journal.close(2)


# Files


def test_it_takes_no_more_than_it_may(tmp_path: Path) -> None:
    """Two files together; what is committed makes room."""
    journal = Journal(tmp_path, 10_000)
    journal.turn()
    number = 0
    while journal.append(number + 1, RunWrite(finished())):
        number += 1
        assert journal.filling is (number > 12)
    assert 20 < number < 30
    journal.turn()
    assert not journal.append(number + 1, RunWrite(finished()))
    assert sum(path.stat().st_size for path in leftovers(tmp_path)) <= 10_000
    journal.give_up(number - 1)
    assert not journal.append(number + 1, RunWrite(finished()))
    journal.give_up(number)
    assert journal.append(number + 1, RunWrite(finished()))
    journal.close(number + 1)
    assert leftovers(tmp_path) == []


def test_what_others_left_is_counted_in(tmp_path: Path) -> None:
    """A history that is restarted for ever and never opened does not fill the disk."""
    for _ in range(20):
        journal = Journal(tmp_path, 10_000)
        journal.turn()
        for number in range(1, 6):
            journal.append(number, RunWrite(finished()))
        journal.close(0)
    assert sum(path.stat().st_size for path in leftovers(tmp_path)) <= 10_000


def test_a_line_that_could_not_be_written_whole_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full in its middle."""
    journal, pwrite = Journal(tmp_path, 10**6), os.pwrite
    journal.turn()
    long = PostMortemWrite("reader", 1, "x" * 5000)
    monkeypatch.setattr(os, "pwrite", lambda descriptor, line, place: pwrite(descriptor, line[:4000], place))
    assert not journal.append(1, long)
    monkeypatch.undo()
    assert journal.append(2, WRITES[0])
    [path] = leftovers(tmp_path)
    assert lines.read(path.read_bytes()) == lines.Lines([(2, WRITES[0])], 0)
    assert journal.append(3, long)
    assert lines.read(path.read_bytes()) == lines.Lines([(2, WRITES[0]), (3, long)], 0)
    journal.close(3)


def test_a_disk_that_stalls_is_not_asked_again_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One caller was held up, not each of them."""
    journal, pwrite = Journal(tmp_path, 10**6), os.pwrite
    journal.turn()
    monkeypatch.setattr(journals, "_REST", 0.3)
    monkeypatch.setattr(os, "pwrite", lambda *line: (time.sleep(0.15), pwrite(*line))[1])
    assert journal.append(1, WRITES[0])
    monkeypatch.undo()
    assert not journal.append(2, WRITES[0])
    time.sleep(0.35)
    assert journal.append(3, WRITES[0])
    journal.close(3)


async def test_a_run_is_kept_at_once_and_in_the_file_soon(tmp_path: Path) -> None:
    """Nobody waits for the transaction; nobody has to ask for it either."""
    store = store_in(tmp_path)
    await store.restore()
    run = finished()
    assert await store.run_finished(run, success=True)
    assert run.run_id.encode() in b"".join(path.read_bytes() for path in leftovers(tmp_path))
    assert rows(tmp_path, "SELECT count(*) FROM runs") == [(0,)]
    end = time.monotonic() + 5
    while not finished_runs(tmp_path):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    await store.close()


async def test_what_was_just_written_is_read(tmp_path: Path) -> None:
    """A question waits for the file."""
    store = store_in(tmp_path)
    await store.restore()
    for number in range(1, 50):
        run = finished()
        await store.run_finished(run, success=True)
        store.event(event(number))
        assert await store.run(run.run_id) is not None
        assert [each.id for each in await store.latest_events(1)] == [number]
    await store.close()
