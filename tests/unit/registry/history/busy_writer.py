"""Starts a process that writes history as fast as it can, kills it, and checks that all acknowledged writes are stored;
round after round, on one file.

Run as a program with a folder and a number of rounds; prints its counts as a line of JSON.
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

from unit.registry.history.samples import accepted, event, finished, store_in

_CALLERS = 6


def write_until_killed(folder: Path, acknowledge: int) -> None:
    """Reports acknowledged writes over the pipe `acknowledge`: runs by their id, events by their number."""

    async def work() -> None:
        store = store_in(folder)
        restored = await store.restore()
        check_restored(folder, restored)
        os.write(acknowledge, b"ready\n")
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
                    if await store.event(event(mine, run.plugin)):
                        os.write(acknowledge, f"event {mine}\n".encode())
                if await store.run_finished(run, success=success):
                    os.write(acknowledge, f"{run.run_id}\n".encode())
                await asyncio.sleep(0)

        await asyncio.gather(*map(caller, range(_CALLERS)))

    asyncio.run(work())


def check_restored(folder: Path, restored: object) -> None:
    counters, events = _sums(folder)
    found = {name: (sums.success, sums.error) for name, sums in restored.counters.items()}  # type: ignore[attr-defined]
    assert found == counters, (found, counters)
    assert restored.last_event_id == events  # type: ignore[attr-defined]


def _sums(folder: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """Successes and errors of each plugin by the rows of its runs, and the last event's id."""
    with closing(sqlite3.connect(folder / "history.sqlite3", timeout=10)) as connection:
        runs = connection.execute(
            "SELECT plugin, sum(outcome = 'ok' AND state = 'finished'), sum(outcome = 'plugin_failed' AND "
            "state = 'finished') FROM runs GROUP BY plugin"
        ).fetchall()
        [(last,)] = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchall()
    return {plugin: (ok or 0, failed or 0) for plugin, ok, failed in runs}, last


def run_writer(folder: Path, acknowledged: set[str]) -> None:
    """Run a writer until it is killed; adds its acknowledged writes to `acknowledged`."""
    reading, writing = os.pipe()
    # This process has one thread and no open database whenever it forks.
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
    received = os.read(reading, 6)
    assert received == b"ready\n", "the writer failed by itself"
    kill(child, random.uniform(0, 0.2))
    while chunk := os.read(reading, 1 << 20):
        received += chunk
    os.close(reading)
    acknowledged.update(received.decode().splitlines()[1:])


def kill(child: int, after: float) -> None:
    """`after`: seconds."""
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def restart(folder: Path, *, after: float | None) -> None:
    """A start that only replays what the killed writer left; killed after `after` seconds, if given."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(_only_start(folder, wait=after is not None))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - it ends here, whatever it is
            traceback.print_exc()
        finally:
            os._exit(1)
    if after is None:
        assert os.waitpid(child, 0)[1] == 0, "it did not start"
    else:
        kill(child, after)


async def _only_start(folder: Path, *, wait: bool) -> None:
    store = store_in(folder)
    check_restored(folder, await store.restore())
    if wait:
        await asyncio.sleep(60)
    await store.close()


def main(folder: Path, rounds: int) -> None:
    acknowledged: set[str] = set()
    for number in range(rounds):
        run_writer(folder, acknowledged)
        if number % 3 == 0:
            restart(folder, after=random.uniform(0, 0.05))
        if number % 3 == 1 and number < rounds - 1:
            continue  # the next writer replays its journal
        restart(folder, after=None)
        assert [path.name for path in folder.iterdir()] == ["history.sqlite3"]
        with closing(sqlite3.connect(folder / "history.sqlite3", timeout=10)) as connection:
            stored = {row[0] for row in connection.execute("SELECT run_id FROM runs WHERE state = 'finished'")}
            stored |= {f"event {row[0]}" for row in connection.execute("SELECT id FROM events")}
            counted = {row[0]: (row[1], row[2]) for row in connection.execute("SELECT * FROM counters")}
            [(integrity,)] = connection.execute("PRAGMA integrity_check").fetchall()
        lost = acknowledged - stored
        assert not lost, f"{len(lost)} of {len(acknowledged)} lost"
        assert counted == _sums(folder)[0]
        assert integrity == "ok"
    json.dump({"rounds": rounds, "acknowledged": len(acknowledged), "lost": 0}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
