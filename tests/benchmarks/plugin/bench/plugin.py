import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from plugin_runtime import tool

if os.environ.get("BENCH_DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

_CALL, _EACH_MORE = 0.005, 0.003 / 15
"""Seconds on a device: of one item, and of each other of a batch; 16 take 8 ms."""


class Bench:
    """Tools that cost next to nothing, so that the way to them is measured; and tools that end the plugin."""

    def validate(self) -> None:
        """Fail where a benchmark wants a plugin that cannot be loaded."""
        if os.environ.get("BENCH_BROKEN"):
            raise RuntimeError("the model's file is missing")

    @tool
    def echo(self, text: str) -> str:
        """Return the text."""
        return text

    @tool
    def size(self, data: bytes) -> int:
        """Return the length of an upload held in memory."""
        return len(data)

    @tool
    def digest(self, data: bytes) -> str:
        """Return the upload's SHA-256."""
        return hashlib.sha256(data).hexdigest()

    @tool
    def items(self, number: int) -> Iterator[str]:
        """Yield so many."""
        for index in range(number):
            yield f"item-{index}"

    @tool
    def stored(self, file: Path) -> int:
        """Return the length of an upload stored on disk."""
        return file.stat().st_size

    @tool
    def sleep(self, seconds: float) -> float:
        """Wait."""
        time.sleep(seconds)
        return seconds

    @tool
    def burn(self, milliseconds: float) -> float:
        """Compute for so long, by this thread's own clock."""
        end = time.thread_time() + milliseconds / 1000
        while time.thread_time() < end:
            pass
        return milliseconds

    @tool
    def single(self, texts: str) -> str:
        """One call on a device that takes one after the other."""
        return self._on_device([texts])[0]

    @tool(batch=16, wait="5ms")
    def batched(self, texts: list[str]) -> list[str]:
        """Up to 16 at once."""
        return self._on_device(texts)

    def _on_device(self, items: list[str]) -> list[str]:
        time.sleep(_CALL + _EACH_MORE * (len(items) - 1))
        return [item.upper() for item in items]

    @tool
    def hang(self) -> str:
        """Sleep for an hour."""
        time.sleep(3600)
        return "woke up"

    @tool
    def eat(self) -> int:
        """Allocate and touch memory until the kernel kills this process."""
        chunks: list[bytes] = []
        while True:
            chunks.append(b"x" * 8_388_608)

    @tool
    def leave(self) -> None:
        """Exit without a word."""
        os._exit(3)

    @tool
    def die(self) -> None:
        """End by SIGKILL."""
        os.kill(os.getpid(), signal.SIGKILL)
