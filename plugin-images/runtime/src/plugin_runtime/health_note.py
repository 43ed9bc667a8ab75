"""The supervisor's note of how the plugin is, for the engine's probe: `healthcheck.sh` reads it without an interpreter.

It lies in memory (a tmpfs of the container). Plugin code runs as the same user and could forge it, as it could take the
place of the control socket; what the orchestrator believes it hears from the supervisor itself.
"""

from __future__ import annotations

import contextlib
import os
import time

LENGTH = 32  # always the same, so that nothing of an older note is left behind it


class HealthNote:
    """One line: seconds of the machine's uptime, as /proc/uptime counts them, and the phase. No path, no note."""

    def __init__(self, path: str | None) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            if path is not None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.open(path, flags, 0o644)

    def write(self, phase: str) -> None:
        """A note that cannot be written grows old, and then the probe asks."""
        if self._file is not None:
            note = f"{int(time.clock_gettime(time.CLOCK_BOOTTIME))} {phase}".encode()[: LENGTH - 1]
            with contextlib.suppress(OSError):
                os.pwrite(self._file, note.ljust(LENGTH - 1) + b"\n", 0)
