"""A server's processes, found from its first one, and what the kernel knows of them."""

import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import cpu_nanoseconds


class Process(NamedTuple):
    """`began`: in ticks since boot; with the id it names a process for good."""

    parent: int
    session: int
    began: int


def tree(processes: Mapping[int, Process], root: int) -> set[int]:
    """The root, its descendants, and what has its session: a child whose parent ended has another parent then."""
    found = {pid for pid, process in processes.items() if process.session == root or pid == root}
    while more := {pid for pid, process in processes.items() if process.parent in found} - found:
        found |= more
    return found


def processes() -> dict[int, Process]:
    """All processes of this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended
                # The name, in parentheses, may hold anything.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = Process(int(fields[1]), int(fields[3]), int(fields[19]))
    return found


def end_all(root: int, seen: Mapping[int, Process], grace: float = 10.0) -> None:
    """Send SIGTERM to the root, wait for the whole tree, then kill what is left of it, and of `seen`."""
    known = {**seen, **_of(root)}
    with suppress(ProcessLookupError):
        os.kill(root, signal.SIGTERM)
    end = time.monotonic() + grace
    while (left := _left(known | _of(root))) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cpu(pids: Iterable[int]) -> int:
    """Nanoseconds of CPU of all of them together."""
    return sum(map(cpu_nanoseconds, pids))


def proportional_memory(pids: Iterable[int]) -> int:
    """Bytes; what processes share is divided among them (PSS). Raises PermissionError for processes of another user."""
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _of(root: int) -> dict[int, Process]:
    there = processes()
    return {pid: there[pid] for pid in tree(there, root) if pid in there}


def _left(known: Mapping[int, Process]) -> list[int]:
    there = processes()
    return [pid for pid, process in known.items() if pid in there and there[pid].began == process.began]
