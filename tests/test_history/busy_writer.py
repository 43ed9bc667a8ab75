"""Begins a process that writes history as fast as it can, kills it, and looks whether all that it was told is kept is
there; round after round, on one file.

Run as a program with a folder and a number of rounds; prints a line of JSON with what it saw. It has one thread and no
open database whenever it forks.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from contextlib import closing
from pathlib import Path

from test_history.samples import accepted, event, finished, store_in

_CALLERS = 6


def write_until_killed(folder: Path, acknowledge: int) -> None:
    """Tells over the pipe `acknowledge` what is on file: runs by their id, events by their number."""

    async def work() -> None:
        store = store_in(folder)
        restored = await store.restore()
        check_restored(folder, restored)
        os.write(acknowledge, b"begun\n")
        last_event = restored.last_event_id

        async def caller(number: int) -> None:
            nonlocal last_event
            while True:
                success = random.random() < 0.7
                run = accepted(f"p{number % 3}")
                store.run_accepted(run)
                run = finished(run, outcome="ok" if success else "plugin_failed", execution_ms=1.0)
                store.run_started(run)
                if random.random() < 0.1:
                    last_event = mine = last_event + 1
                    store.event(event(mine, run.plugin))
                    if await store.flush():
                        os.write(acknowledge, f"event {mine}\n".encode())
                if await store.run_finished(run, success=success):
                    os.write(acknowledge, f"{run.run_id}\n".encode())

        await asyncio.gather(*map(caller, range(_CALLERS)))

    asyncio.run(work())


def check_restored(folder: Path, restored: object) -> None:
    counters, events = _sums(folder)
    found = {name: (sums.success, sums.error) for name, sums in restored.counters.items()}  # type: ignore[attr-defined]
    assert found == counters, (found, counters)
    assert restored.last_event_id == events  # type: ignore[attr-defined]


def _sums(folder: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """Per plugin, what the rows of the runs say; and the last event."""
    with closing(sqlite3.connect(folder / "history.sqlite3", timeout=10)) as connection:
        runs = connection.execute(
            "SELECT plugin, sum(outcome = 'ok' AND state = 'finished'), sum(outcome = 'plugin_failed' AND "
            "state = 'finished') FROM runs GROUP BY plugin"
        ).fetchall()
        [(last,)] = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchall()
    return {plugin: (ok or 0, failed or 0) for plugin, ok, failed in runs}, last


def round_of(folder: Path, told: set[str]) -> None:
    """One life of the writer; adds what it was told to `told`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            write_until_killed(folder, writing)
        except BaseException:  # noqa: BLE001 - it ends here, whatever it is
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    heard = os.read(reading, 6)
    assert heard == b"begun\n", "the writer failed by itself"
    time.sleep(random.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    while chunk := os.read(reading, 1 << 20):
        heard += chunk
    os.close(reading)
    told.update(heard.decode().splitlines()[1:])


def main(folder: Path, rounds: int) -> None:
    told: set[str] = set()
    for _ in range(rounds):
        round_of(folder, told)
        with closing(sqlite3.connect(folder / "history.sqlite3", timeout=10)) as connection:
            kept = {row[0] for row in connection.execute("SELECT run_id FROM runs WHERE state = 'finished'")}
            kept |= {f"event {row[0]}" for row in connection.execute("SELECT id FROM events")}
            counted = {row[0]: (row[1], row[2]) for row in connection.execute("SELECT * FROM counters")}
            [(integrity,)] = connection.execute("PRAGMA integrity_check").fetchall()
        lost = told - kept
        assert not lost, f"{len(lost)} of {len(told)} lost"
        assert counted == _sums(folder)[0]
        assert integrity == "ok"
    json.dump({"rounds": rounds, "acknowledged": len(told), "lost": 0}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
