"""A history that kills its own process at a given step, so that the next start finds exactly that state.

Run as a program with the name of a step and a folder. Prints the id of each acknowledged run.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unit.registry.history.samples import failed_event, finished, store_in

from orchestrator.registry.history.database import HistoryDatabase
from orchestrator.registry.history.journal import Journal

RUNS = 20


def die(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: type, name: str) -> Callable[[], None]:
    """Die instead of the step."""
    return lambda: setattr(owner, name, die)


def after(owner: type, name: str) -> Callable[[], None]:
    """Die right after the step."""
    real = getattr(owner, name)

    def step(*values: object) -> None:
        real(*values)
        die()

    return lambda: setattr(owner, name, step)


def half_a_line() -> None:
    """The next line is cut off in the middle."""
    real = os.pwrite
    os.pwrite = lambda descriptor, line, offset: die(real(descriptor, line[: len(line) // 2], offset))


AT_THE_START = {
    "before an orphaned journal is committed": before(HistoryDatabase, "commit"),
    "after an orphaned journal was committed": after(HistoryDatabase, "commit"),
    "after an orphaned journal was deleted": after(Journal, "delete_orphan"),
    "before the positions of deleted journals are forgotten": before(HistoryDatabase, "forget_journals_except"),
}
WHILE_IT_WRITES = {
    "before a commit": before(HistoryDatabase, "commit"),
    "after a commit": after(HistoryDatabase, "commit"),
    "after the committed journal was deleted": after(Journal, "delete_committed"),
    "in the middle of a line": half_a_line,
}


async def main(step: str, folder: Path) -> None:
    AT_THE_START.get(step, lambda: None)()
    store = store_in(folder)
    restored = await store.restore()
    store.event(failed_event(restored.last_event_id + 1))
    for _ in range(RUNS):
        run = finished()
        if await store.run_finished(run, success=True):
            os.write(1, f"{run.run_id}\n".encode())
    WHILE_IT_WRITES.get(step, lambda: None)()
    await store.run_started(finished())
    await store.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
