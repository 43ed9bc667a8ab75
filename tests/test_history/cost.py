"""What it costs a run that its end is on file before its caller is answered, beside what any errand to a thread costs.

Run as a program, with a folder on the disk in question; prints a table. No test: a busy machine shows its noise here.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from test_history.samples import accepted, finished, store_in

_RUNS = 4000


async def measured(callers: int, errand: Callable[[], Awaitable[object]]) -> tuple[list[float], float]:
    """Sorted microseconds of each errand, and microseconds of processor time for each."""
    times: list[float] = []

    async def caller() -> None:
        for _ in range(_RUNS // callers):
            begun = time.perf_counter()
            await errand()
            times.append((time.perf_counter() - begun) * 1e6)
            await asyncio.sleep(0.002 if callers == 1 else 0.01)  # the run itself

    begun = time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return sorted(times), (time.process_time() - begun) / _RUNS * 1e6


async def main(folder: Path) -> None:
    store = store_in(folder)
    await store.restore()

    async def kept() -> None:
        run = accepted()
        store.run_accepted(run)
        store.run_started(replace(run, started_at=run.accepted_at, generation=1))
        assert await store.run_finished(finished(run), success=True)

    async def errand() -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)

    async def nothing() -> None:
        pass

    for callers in (1, 16):
        for name, what in (("nothing", nothing), ("an errand to a thread", errand), ("a run kept", kept)):
            times, processor = await measured(callers, what)
            p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
            sys.stdout.write(
                f"{callers:2} callers  {name:22} p50 {p50:6.0f} us  p99 {p99:6.0f} us  cpu {processor:4.0f} us\n"
            )
    await store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        asyncio.run(main(Path(folder)))
