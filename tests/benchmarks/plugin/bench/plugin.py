import os
import signal
import time
from pathlib import Path

from plugin_runtime import tool

if os.environ.get("BENCH_DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Bench:
    """Tools that cost next to nothing, so that the way to them is measured; and tools that end the plugin."""

    def validate(self) -> None:
        """Nothing can be wrong here."""

    @tool
    def echo(self, text: str) -> str:
        """Return the text."""
        return text

    @tool
    def size(self, data: bytes) -> int:
        """Return the length of an upload held in memory."""
        return len(data)

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
