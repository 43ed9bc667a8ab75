"""A history on a failing disk, each case in a process of its own: what makes a disk fail (a limit on file sizes, a
foreign user, a mount) would harm other tests.

Run as a program with the name of a case and a folder. Prints, as JSON, the store's problem while the disk failed.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from unit.registry.history.samples import event, finished, rows, store_in, until

from orchestrator.registry.history import HistoryStore

NOBODY = 65534


async def file_size_limit(folder: Path) -> str:
    """The kernel lets no file grow."""

    async def break_disk(store: HistoryStore) -> None:
        largest = max(path.stat().st_size for path in folder.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    async def repair_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    # The journal is a small file and may still grow.
    return await fail_and_recover(folder, break_disk, repair_disk, journalled=range(21, 22))


async def full_disk(folder: Path) -> str:
    """A file system of one megabyte, filled by another file."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    ballast = folder / "ballast"

    async def break_disk(store: HistoryStore) -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass

    async def repair_disk() -> None:
        ballast.unlink()

    # As many as fit into the journal's last page.
    return await fail_and_recover(folder, break_disk, repair_disk, journalled=range(12))


async def read_only_folder(folder: Path) -> str:
    """Neither the folder nor its files are writable, from the start on."""
    if os.geteuid() == 0:
        await warm_up(folder / "warm")
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    folder.chmod(0o555)
    store = store_in(folder)
    restored = await store.restore()
    assert not restored.complete
    sentence = await runs_while_broken(store, range(1))
    folder.chmod(0o755)
    await runs_after_repair(store, folder, 21)
    return sentence


async def warm_up(folder: Path) -> None:
    """Trigger late imports while this user may still read the modules."""
    store = store_in(folder)
    await store.restore()
    await store.runs()
    await store.close()


async def fail_and_recover(
    folder: Path,
    break_disk: Callable[[HistoryStore], Awaitable[None]],
    repair_disk: Callable[[], Awaitable[None]],
    *,
    journalled: range,
) -> str:
    """Break the disk and repair it; `journalled`: how many of the 21 runs in between are stored."""
    store = store_in(folder)
    assert (await store.restore()).complete
    assert await store.run_finished(finished(), success=True)
    await store.flush()
    await break_disk(store)
    sentence = await runs_while_broken(store, journalled)
    await repair_disk()
    await runs_after_repair(store, folder, 22)
    return sentence


async def runs_while_broken(store: HistoryStore, journalled: range) -> str:
    """21 runs are acknowledged, as stored or not, and none waits for long."""
    number = 0
    while store.problem is None:  # the space left in the files is used up first
        number += 1
        await store.run_finished(finished(outcome="x" * 100_000), success=None)
        await store.flush()
    sentence = store.problem
    started = time.monotonic()
    stored = [await store.run_finished(finished(), success=True) for _ in range(21)]
    assert sum(stored) in journalled, stored
    store.event(event(1))
    assert time.monotonic() - started < 1
    await asyncio.sleep(1.5)
    assert store.problem == sentence, store.problem
    await store.runs()
    return sentence


async def runs_after_repair(store: HistoryStore, folder: Path, runs: int) -> None:
    """The store recovers by itself, and writes what it held in memory."""
    await until(lambda: store.problem is None)
    assert await store.run_finished(finished(), success=True)
    await store.close()
    assert store.lost == 0
    assert rows(folder, "SELECT success FROM counters WHERE plugin = 'reader'") == [(runs + 1,)]
    assert rows(folder, "SELECT count(*) FROM events") == [(1,)]
    assert rows(folder, "PRAGMA integrity_check") == [("ok",)]


CASES = {case.__name__: case for case in (file_size_limit, full_disk, read_only_folder)}

if __name__ == "__main__":
    json.dump(asyncio.run(CASES[sys.argv[1]](Path(sys.argv[2]))), sys.stdout)
