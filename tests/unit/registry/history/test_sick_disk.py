"""History on a failing disk: runs continue, `problem` says what is wrong, and the store recovers by itself."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from unit.registry.history import sick_disk
from unit.registry.history.samples import accepted, event, failed_event, finished, rows, store_in, until

from orchestrator.registry import PostMortem
from orchestrator.registry.history import HistoryStore
from orchestrator.registry.history.errors import DISK_SILENT
from orchestrator.registry.history.write_queue import ACK_TIMEOUT

_MOUNTS = subprocess.run(["unshare", "--mount", "--map-root-user", "true"], capture_output=True, check=False)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def problem_on(case: str, folder: Path, *before: str) -> str:
    tests = Path(sick_disk.__file__).parents[3]
    program = subprocess.run(
        [*before, sys.executable, sick_disk.__file__, case, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tests), str(tests.parent)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    return json.loads(program.stdout)


@pytest.mark.slow
def test_a_limit_on_file_size(tmp_path: Path) -> None:
    """Of the kernel (RLIMIT_FSIZE), reached while writing."""
    sentence = problem_on("file_size_limit", tmp_path)
    assert "The disk refused to write history.sqlite3 in the state folder (ORCHESTRATOR_STATE_DIR)" in sentence


@pytest.mark.slow
@pytest.mark.skipif(_MOUNTS.returncode != 0, reason="this user may not mount a small file system; see the limit above")
def test_a_full_disk(tmp_path: Path) -> None:
    sentence = problem_on("full_disk", tmp_path, "unshare", "--mount", "--map-root-user")
    assert sentence == (
        "History is not being written. The disk of history.sqlite3 in the state folder (ORCHESTRATOR_STATE_DIR) is "
        "full. Free space on it. Runs continue meanwhile, and writing is retried automatically."
    )


@pytest.mark.slow
def test_a_read_only_folder(open_folder: Path) -> None:
    """From the start on: the orchestrator starts without history, and history begins once the folder is writable."""
    assert "Permission denied" in problem_on("read_only_folder", open_folder)


async def test_a_file_that_another_program_locks(store: HistoryStore, tmp_path: Path) -> None:
    """As an operator's SQLite shell may, for a while."""
    with closing(sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert await store.run_finished(finished(), success=True), "the journal has it"
        assert time.monotonic() - started < ACK_TIMEOUT / 2
        await until(lambda: store.problem)
        assert store.problem is not None
        assert await store.runs() == []
        assert time.monotonic() - started < ACK_TIMEOUT + 0.5
        assert "Another program has locked" in store.problem
        other.execute("ROLLBACK")
    await until(lambda: store.problem is None)
    assert await store.flush()
    assert rows(tmp_path, "SELECT success FROM counters") == [(1,)]


async def test_a_start_while_the_file_is_locked(tmp_path: Path) -> None:
    """The counters start at zero, and are added to the old ones once the file opens; then runs of earlier processes are
    recorded as interrupted, runs of this one are not.
    """
    before = store_in(tmp_path)
    await before.restore()
    await before.run_finished(finished(), success=True)
    await before.run_started(finished())
    await before.close()
    with closing(sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        store = store_in(tmp_path)
        assert (await store.restore()).complete is False
        store.run_started(finished())
        store.run_finished(finished(), success=True)
    await until(lambda: store.problem is None)
    await store.close()
    assert rows(tmp_path, "SELECT success FROM counters") == [(2,)]
    assert rows(tmp_path, "SELECT state FROM runs ORDER BY id") == [
        ("finished",), ("interrupted",), ("in-flight",), ("finished",),
    ]  # fmt: skip


@pytest.mark.parametrize("names", [("history.sqlite3", "history.sqlite3-wal", "history.sqlite3-shm"),
                                   ("history.sqlite3",), ("history.sqlite3-wal",)])  # fmt: skip
async def test_a_file_that_is_deleted_while_open(store: HistoryStore, tmp_path: Path, names: tuple[str, ...]) -> None:
    """The next write starts a new one; the counters continue."""
    assert await store.run_finished(finished(), success=True)
    for name in names:
        (tmp_path / name).unlink()
    run = finished()
    assert await store.run_finished(run, success=True)
    assert await store.run(run.run_id) is not None
    assert rows(tmp_path, "SELECT success, generation FROM counters") == [(2, 2)]
    assert store.notice is not None and "was deleted or replaced" in store.notice
    assert store.problem is None


async def test_the_folder_is_deleted_while_open(tmp_path: Path) -> None:
    store = store_in(tmp_path / "state")
    await store.restore()
    assert await store.run_finished(finished(), success=True)
    assert await store.flush()
    shutil.rmtree(tmp_path / "state")
    assert await store.run_finished(finished(), success=True)
    await store.close()
    assert rows(tmp_path / "state", "SELECT success FROM counters") == [(2,)]


@pytest.mark.parametrize("content", [b"this is no database" * 1000, b"SQLite format 3\0" + b"\xff" * 8192])
async def test_a_damaged_file_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    """With the time in its name; a new one is started, and the notice says so."""
    (tmp_path / "history.sqlite3").write_bytes(content)
    store = store_in(tmp_path)
    restored = await store.restore()
    assert (restored.complete, restored.counters) == (True, {})
    assert await store.run_finished(finished(), success=True)
    [aside] = tmp_path.glob("history-damaged-*Z.sqlite3")
    assert aside.read_bytes() == content
    assert store.notice == (
        f"The history file was damaged. It was moved aside as {aside.name}, and a new one was started."
    )
    assert store.problem is None
    await store.close()


async def test_damage_that_is_found_while_writing(tmp_path: Path) -> None:
    """The counters, which are in memory, continue in the new file."""
    store = store_in(tmp_path)
    await store.restore()
    for _ in range(300):
        store.run_finished(finished(), success=True)
    await store.close()
    root = rows(tmp_path, "SELECT rootpage FROM sqlite_master WHERE name = 'runs'")[0][0]
    with (tmp_path / "history.sqlite3").open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)

    store = store_in(tmp_path)
    restored = await store.restore()
    assert await store.run_finished(finished(), success=True)
    assert await store.flush()
    assert restored.counters["reader"].success == 300
    assert store.notice is not None
    await store.close()
    assert rows(tmp_path, "SELECT success FROM counters") == [(301,)]


async def test_only_three_damaged_files_are_retained(tmp_path: Path) -> None:
    for _ in range(5):
        (tmp_path / "history.sqlite3").write_bytes(b"no database" * 1000)
        store = store_in(tmp_path)
        await store.restore()
        await store.close()
    assert len(list(tmp_path.glob("history-damaged-*"))) == 3


async def test_a_full_queue_while_the_file_is_locked(tmp_path: Path) -> None:
    """The oldest writes are lost and counted; the counters miss nothing."""
    store = store_in(tmp_path)
    await store.restore()
    with closing(sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(1, 101):
            store.run_finished(finished(), success=True)
            store.event(failed_event(number))
            store.post_mortem("reader", 1, PostMortem(finished().accepted_at, log_tail="x" * 250_000))
        lost = store.lost
        other.execute("ROLLBACK")
    assert lost > 0
    await until(lambda: store.problem is None)
    await store.close()
    assert store.lost == lost
    assert rows(tmp_path, "SELECT success FROM counters") == [(100,)]
    [(runs,)] = rows(tmp_path, "SELECT count(*) FROM runs")
    [(events,)] = rows(tmp_path, "SELECT count(*) FROM events")
    assert 0 < runs < 100
    assert 0 < events < 100


async def test_writes_that_fail_at_close_stay_in_the_journal(tmp_path: Path) -> None:
    """The next start replays them; a write that is not in the journal either counts as lost."""
    store = store_in(tmp_path)
    await store.restore()
    with closing(sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.event(event(1))
        store.event(event(2))
        store.run_finished(finished(accepted("r\udcffder")), success=True)
        await store.close()
    assert store.lost == 1
    after = store_in(tmp_path)
    assert (await after.restore()).last_event_id == 2
    assert [stored.id for stored in await after.events()] == [1, 2]
    await after.close()


async def test_a_disk_that_does_not_respond_holds_up_no_run(
    store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a dead network disk every call hangs; no run waits, and each is acknowledged as not stored."""
    await store.flush()
    hang = asyncio.Event()
    loop = asyncio.get_running_loop()
    database = store._database._database
    assert database is not None
    commit = database.commit

    def hanging(*arguments: object) -> None:
        asyncio.run_coroutine_threadsafe(hang.wait(), loop).result()
        commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(database, "commit", hanging)
    assert await store.run_finished(finished(), success=True)
    started = time.monotonic()
    assert await store.flush() is False
    assert time.monotonic() - started < ACK_TIMEOUT + 0.5
    await until(lambda: store.problem == DISK_SILENT)
    started = time.monotonic()
    assert await store.run_finished(finished(), success=True) is False
    assert time.monotonic() - started < ACK_TIMEOUT / 2
    hang.set()
    await until(lambda: store.problem is None)
    assert await store.flush()
    assert len(await store.runs()) == 2


async def test_a_replaced_file_brings_its_own_counters(store: HistoryStore, tmp_path: Path) -> None:
    """An operator puts a backup back: its counters are not overwritten."""
    other = store_in(tmp_path / "copy")
    await other.restore()
    for _ in range(5):
        other.run_finished(finished(), success=True)
    await other.close()
    assert await store.run_finished(finished(), success=True)
    assert await store.flush()
    (tmp_path / "copy" / "history.sqlite3").rename(tmp_path / "history.sqlite3")
    assert await store.run_finished(finished(), success=True)
    assert await store.flush()
    assert rows(tmp_path, "SELECT success FROM counters") == [(6,)]
