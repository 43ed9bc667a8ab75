"""A harness whose plugin `worker` is the real runtime with tools that take their time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.harness import Harness
from support.real_runtime import RealRuntime

SOURCE = """
    import asyncio, time
    from pathlib import Path
    from plugin_runtime import InvalidInput, Progress, cancelled, tool

    def there(file):
        while file and not Path(file).exists():
            time.sleep(0.005)

    class Plugin:
        def validate(self): pass

        @tool
        def nap(self, seconds: float = 0, size: int = 0, until: str = "") -> str:
            time.sleep(seconds)
            there(until)
            return "x" * size

        @tool(idempotent=True)
        def again(self) -> str:
            return "again"

        @tool
        async def wait(self, seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "waited"

        @tool
        def count(self, n: int, seconds: float = 0.05, until: str = "") -> object:
            for number in range(n):
                if number == n // 2:
                    there(until)
                yield Progress(number / n, f"{number} of {n}")
                yield number
                time.sleep(seconds)

        @tool
        def looks(self) -> str:
            while not cancelled():
                time.sleep(0.01)
            return "half"

        @tool
        def fail(self) -> None:
            raise ZeroDivisionError("division by zero")

        @tool
        def refuse(self) -> None:
            raise InvalidInput("never")

        @tool
        def measure(self, data: Path) -> int:
            return data.stat().st_size
"""


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Harness]:
    """Not yet open."""
    async with Harness(tmp_path, cancel_grace="400ms") as harness:
        harness.add("worker", program=RealRuntime(SOURCE), queue=3, limits={"timeout": "20s"})
        yield harness
