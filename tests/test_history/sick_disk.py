"""A history on a disk that is not well, each case in a process of its own: what it takes to make a disk sick (a limit
on file sizes, a foreign user, a mount) would harm other tests.

Run as a program with the name of a case and a folder. Prints a line of JSON: what the store said while it was sick.
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

from test_history.samples import event, finished, rows, store_in, until

from orchestrator.registry.history import HistoryStore

NOBODY = 65534


async def file_size_limit(folder: Path) -> str:
    """The kernel refuses to let files grow."""

    async def sicken(store: HistoryStore) -> None:
        largest = max(path.stat().st_size for path in folder.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    async def cure() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return await through(folder, sicken, cure, taken=range(21, 22))  # the journal is a small file, and goes on


async def full_disk(folder: Path) -> str:
    """A file system of one megabyte, filled by something else."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    ballast = folder / "ballast"

    async def sicken(store: HistoryStore) -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass

    async def cure() -> None:
        ballast.unlink()

    return await through(folder, sicken, cure, taken=range(12))  # as many as fit into the journal's last page


async def read_only_folder(folder: Path) -> str:
    """Neither the folder nor the files in it may be written, from the beginning."""
    if os.geteuid() == 0:
        await warm_up(folder / "warm")
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    folder.chmod(0o555)
    store = store_in(folder)
    restored = await store.restore()
    assert not restored.complete
    sentence = await sick_runs(store, range(1))
    folder.chmod(0o755)
    await well_again(store, folder, 21)
    return sentence


async def warm_up(folder: Path) -> None:
    """Import what is imported late, while this user may still read it."""
    store = store_in(folder)
    await store.restore()
    await store.runs()
    await store.close()


async def through(
    folder: Path,
    sicken: Callable[[HistoryStore], Awaitable[None]],
    cure: Callable[[], Awaitable[None]],
    *,
    taken: range,
) -> str:
    """From well over sick to well; meanwhile the journal takes so many of twenty-one runs."""
    store = store_in(folder)
    assert (await store.restore()).complete
    assert await store.run_finished(finished(), success=True)
    await store.flush()
    await sicken(store)
    sentence = await sick_runs(store, taken)
    await cure()
    await well_again(store, folder, 22)
    return sentence


async def sick_runs(store: HistoryStore, taken: range) -> str:
    """Twenty-one runs go on: told whether they are kept, none of them waiting for long."""
    number = 0
    while store.problem is None:  # what space there is in the files may be used up first
        number += 1
        await store.run_finished(finished(outcome="x" * 100_000), success=None)
        await store.flush()
    sentence = store.problem
    begun = time.monotonic()
    kept = [await store.run_finished(finished(), success=True) for _ in range(21)]
    assert sum(kept) in taken, kept
    store.event(event(1))
    assert time.monotonic() - begun < 1
    await asyncio.sleep(1.5)
    assert store.problem == sentence, store.problem
    await store.runs()
    return sentence


async def well_again(store: HistoryStore, folder: Path, runs: int) -> None:
    """By itself, and what had been in memory is written."""
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
