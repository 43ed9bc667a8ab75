"""What binds the runtime's processes to each other and to the kernel."""

from __future__ import annotations

import contextlib
import os
import signal

DUMP_SIGNAL = signal.SIGRTMAX - 1  # libraries take SIGUSR1 and SIGUSR2 for themselves, hardly ever a real-time signal
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the reaper of its descendants, as PID 1 is by itself."""
    if os.getpid() != 1:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Make the kernel kill this process when `parent` is gone. PID 1 takes its whole container along anyway."""
    if parent != 1:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it left before the call
            os._exit(1)


def kill_the_rest() -> None:
    """End every other process of the container: what the worker left behind holds its memory and its connections."""
    if os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)


def go_first_when_memory_is_short() -> None:
    """Let the kernel choose this process and its children before the supervisor. Raising the score needs no right."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123
        score.write("1000")


def _prctl(option: int, value: int) -> None:
    import ctypes  # noqa: PLC0415 - a megabyte that a container never needs

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
