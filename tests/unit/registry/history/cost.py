"""What storing a run's start and end costs: processor time on the event loop, which all calls share, and in the
history's own thread, which competes for the same interpreter; and how long the run's caller waits.

Run as a program, with a folder on the disk in question; prints a table. Not a test: the figures depend on the machine.
"""

import asyncio
import sys
import tempfile
import threading
import time
from pathlib import Path

from msgspec.structs import replace
from unit.registry.history.samples import accepted, finished, store_in

_RUNS = 10_000


def _own_thread() -> int:
    """The CPU clock of the history's thread."""
    [ident] = [thread.ident for thread in threading.enumerate() if thread.name == "history"]
    assert ident is not None
    return time.pthread_getcpuclockid(ident)


async def measured(folder: Path, callers: int, *, store_runs: bool) -> str:
    store = store_in(folder)
    await store.restore()
    ends = [finished(accepted()) for _ in range(_RUNS)]
    runs = iter([(replace(end, finished_at=None, outcome=None, execution_ms=None), end) for end in ends])
    waits: list[float] = []

    async def caller() -> None:
        for start, end in runs:
            started = time.perf_counter()
            if store_runs:
                store.run_started(start)
                assert await store.run_finished(end, success=True)
            waits.append((time.perf_counter() - started) * 1e6)
            await asyncio.sleep(0)

    clock = _own_thread()
    loop, thread = time.thread_time(), time.clock_gettime(clock)
    await asyncio.gather(*(caller() for _ in range(callers)))
    loop = (time.thread_time() - loop) / _RUNS * 1e6
    await store.flush()
    thread = (time.clock_gettime(clock) - thread) / _RUNS * 1e6
    await store.close()
    waits.sort()
    p50, p99 = waits[_RUNS // 2], waits[_RUNS * 99 // 100]
    return f"cpu on the loop {loop:5.1f} us, in the thread {thread:5.1f} us; waits p50 {p50:5.0f} us, p99 {p99:5.0f} us"


async def main(parent: str | None) -> None:
    for callers in (1, 16):
        for name, store_runs in (("loop iteration", False), ("stored run", True)):
            with tempfile.TemporaryDirectory(dir=parent) as folder:
                sys.stdout.write(
                    f"{callers:2} callers  {name:19} {await measured(Path(folder), callers, store_runs=store_runs)}\n"
                )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
