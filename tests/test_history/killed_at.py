"""A history that kills its own process at a given step, so that the next one finds exactly that.

Run as a program with the name of a step and a folder. Prints the id of each run that it was told is kept.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from test_history.samples import failed_event, finished, store_in

from orchestrator.registry.history.journal import Journal
from orchestrator.registry.history.ledger import Ledger

RUNS = 20


def die(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: type, name: str) -> Callable[[], None]:
    """The step is not taken."""
    return lambda: setattr(owner, name, die)


def after(owner: type, name: str) -> Callable[[], None]:
    """The step is taken, and nothing else."""
    real = getattr(owner, name)

    def step(*values: object) -> None:
        real(*values)
        die()

    return lambda: setattr(owner, name, step)


def half_a_line() -> None:
    """The next line is cut off in its middle."""
    real = os.pwrite
    os.pwrite = lambda descriptor, line, place: die(real(descriptor, line[: len(line) // 2], place))


AT_THE_START = {
    "before a leftover is committed": before(Ledger, "commit"),
    "after a leftover was committed": after(Ledger, "commit"),
    "after a leftover was deleted": after(Journal, "discard"),
    "before what is left is forgotten": before(Ledger, "keep_journals"),
}
WHILE_IT_WRITES = {
    "before a commit": before(Ledger, "commit"),
    "after a commit": after(Ledger, "commit"),
    "after the journal was given up": after(Journal, "give_up"),
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
