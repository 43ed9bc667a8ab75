"""Runs a program that may hang or crash, within a bound. What came of it is a value; nothing is raised."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

_MOST_OUTPUT: Final = 4 * 1024 * 1024
"""Bytes kept of each stream; what goes beyond is read and dropped."""
_AFTER_KILL: Final = 0.2
"""Seconds that a killed child gets to be gone. One that sleeps in the kernel stays, and nobody can change that."""


@dataclass(frozen=True, slots=True)
class ChildResult:
    """`hung`: the bound was over. `missing`: there is no such program, or it may not be run."""

    outcome: Literal["ended", "hung", "missing"]
    exit_code: int | None = None
    """As subprocess gives it: negative for a signal's number."""
    stdout: str = ""
    stderr: str = ""

    @property
    def signal(self) -> str | None:
        """The name of the signal that killed it."""
        if self.exit_code is None or self.exit_code >= 0:
            return None
        try:
            return signal.Signals(-self.exit_code).name
        except ValueError:
            return f"signal {-self.exit_code}"


class BoundedChild:
    """One program, run on request, one child at a time.

    A child that SIGKILL does not end (it sleeps in the driver) is let be; while it is there every further request is
    answered `hung` at once, so that such children never pile up.
    """

    def __init__(self, command: Sequence[str], *, bound: float, environment: Mapping[str, str] | None = None) -> None:
        """`bound` in seconds. `environment` is added to our own."""
        self._command = tuple(command)
        self._bound = bound
        self._environment = environment or {}
        self._undead: asyncio.subprocess.Process | None = None

    async def run(self) -> ChildResult:
        """Start it and wait for its end, `bound` + 0.2 s at the longest. Cancelled, it takes the child with it."""
        if self._undead is not None and self._undead.returncode is None:
            return ChildResult("hung")
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )
        except OSError:
            return ChildResult("missing")
        over = False
        try:
            async with asyncio.timeout(self._bound):
                stdout, stderr, _ = await asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
            over = True
        except TimeoutError:
            return ChildResult("hung")
        finally:
            if not over:
                await self._kill(process)
        return ChildResult("ended", process.returncode, stdout, stderr)

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        self._undead = process
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AFTER_KILL):
                await process.wait()


async def _read(stream: asyncio.StreamReader | None) -> str:
    kept = bytearray()
    while stream is not None and (piece := await stream.read(65536)):
        if len(kept) < _MOST_OUTPUT:
            kept += piece
    return kept.decode("utf-8", "replace")
