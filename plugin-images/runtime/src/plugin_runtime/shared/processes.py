"""What binds the two processes to each other and to the kernel."""

from __future__ import annotations

import contextlib
import os
import signal

STARTING, READY, FAILED, EXITED = "starting", "ready", "failed", "exited"
"""The phases of the status object."""
LIVENESS_PATH = "/pulse"
"""On the tool socket; the supervisor requests it every few seconds."""
DUMP_SIGNAL = signal.SIGRTMAX - 1  # libraries take SIGUSR1 and SIGUSR2 for themselves, hardly ever a real-time signal
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the reaper of its descendants, as PID 1 is by itself."""
    if os.getpid() != 1:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Make the kernel kill this process when `parent` ends."""
    if parent != 1:  # whose end takes the whole container with it anyway
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)


def kill_all_others() -> None:
    """Kill every other process of the container. Outside a container this does nothing."""
    # What the worker left behind holds its memory and its connections.
    if os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)


def prefer_as_oom_victim() -> None:
    """Make the kernel kill this process and its children before the supervisor when memory runs out."""
    # Raising the score, unlike lowering it, needs no privilege.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123
        score.write("1000")


def write_log(text: str) -> None:
    """Write to the container's log, whatever the plugin made of sys.stderr."""
    try:
        os.write(2, text.encode())
    except OSError:
        return


def _prctl(option: int, value: int) -> None:
    import ctypes  # noqa: PLC0415 - a megabyte that a container never needs

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
