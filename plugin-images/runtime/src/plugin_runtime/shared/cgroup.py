"""What the kernel counts for this container: memory, out-of-memory kills, CPU time; cgroup v1 and v2."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

UNLIMITED = 1 << 60  # v1 writes "no limit" as the largest page-aligned signed number


class MemoryReading(NamedTuple):
    """Bytes; None where the kernel does not say, and where there is no limit."""

    usage_bytes: int | None
    peak_bytes: int | None
    limit_bytes: int | None


class PidsReading(NamedTuple):
    """`limit`: of processes and threads, None where there is none; `refused`: how many could not be started for it."""

    limit: int | None
    refused: int | None


class SharedMemory(NamedTuple):
    """The file system of shared memory, in bytes."""

    size_bytes: int | None
    used_bytes: int | None


class Cgroup:
    """The control group of the calling process. Counters count from the creation of this object."""

    def __init__(self, root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> None:
        paths = controller_paths(_read(membership) or "")
        self._v2 = os.path.exists(f"{root}/cgroup.controllers")  # noqa: PTH110 - pathlib costs the supervisor a megabyte
        if self._v2:
            self._memory = _first_folder([f"{root}{paths.get('', '')}", root], "cgroup.procs")
            self._cpu = self._pids = self._memory
        else:
            memory, cpu, pids = f"{root}/memory", f"{root}/cpuacct", f"{root}/pids"
            self._memory = _first_folder([memory + paths.get("memory", ""), memory], "cgroup.procs")
            self._cpu = _first_folder([cpu + paths.get("cpuacct", ""), cpu, f"{root}/cpu,cpuacct"], "cgroup.procs")
            self._pids = _first_folder([pids + paths.get("pids", ""), pids], "cgroup.procs")
        self._kills_before = self._kills() or 0
        self._hits_before = self._hits() or 0
        self._refused_before = self._refused() or 0
        self._cpu_before = self._cpu_nanoseconds() or 0

    def oom_kills(self) -> int | None:
        """Processes of this group that the kernel killed for memory."""
        kills = self._kills()
        return None if kills is None else kills - self._kills_before

    def limit_hits(self) -> int | None:
        """How often this group was at its own limit of memory, with nothing left to free."""
        hits = self._hits()
        return None if hits is None else hits - self._hits_before

    def pids(self) -> PidsReading:
        limit, refused = _number(_read(f"{self._pids}/pids.max")), self._refused()
        return PidsReading(limit, None if refused is None else refused - self._refused_before)

    def memory(self) -> MemoryReading:
        names = ("memory.current", "memory.peak", "memory.max")
        if not self._v2:
            names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes")
        usage, peak, limit = (_number(_read(f"{self._memory}/{name}")) for name in names)
        return MemoryReading(usage, peak, None if limit is None or limit >= UNLIMITED else limit)

    def cpu_seconds(self) -> float | None:
        """CPU time of all processes of this group, also of those that have ended."""
        nanoseconds = self._cpu_nanoseconds()
        return None if nanoseconds is None else round((nanoseconds - self._cpu_before) / 1e9, 3)

    def _kills(self) -> int | None:
        name = "memory.events" if self._v2 else "memory.oom_control"
        return counter(_read(f"{self._memory}/{name}"), "oom_kill")

    def _hits(self) -> int | None:
        if self._v2:
            return counter(_read(f"{self._memory}/memory.events"), "oom")
        return _number(_read(f"{self._memory}/memory.failcnt"))

    def _refused(self) -> int | None:
        return counter(_read(f"{self._pids}/pids.events"), "max")

    def _cpu_nanoseconds(self) -> int | None:
        if self._v2:
            microseconds = counter(_read(f"{self._cpu}/cpu.stat"), "usage_usec")
            return None if microseconds is None else microseconds * 1000
        return _number(_read(f"{self._cpu}/cpuacct.usage"))


def shared_memory(folder: str = "/dev/shm") -> SharedMemory:  # noqa: S108 - only looked at
    try:
        found = os.statvfs(folder)
    except OSError:
        return SharedMemory(None, None)
    return SharedMemory(found.f_blocks * found.f_frsize, (found.f_blocks - found.f_bfree) * found.f_frsize)


def controller_paths(membership: str) -> dict[str, str]:
    """/proc/self/cgroup → controller → path; the controller is "" on v2. The root is ""."""
    paths: dict[str, str] = {}
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path.rstrip("/")
    return paths


def counter(text: str | None, key: str) -> int | None:
    """The number beside `key` in a file of `key number` lines."""
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return _number(value)
    return None


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _first_folder(candidates: Iterable[str], file: str) -> str:
    # In a container the own group is usually mounted at the root of the tree, whatever its membership file says.
    *_, last = candidates = list(candidates)
    return next((path for path in candidates if os.path.exists(f"{path}/{file}")), last)  # noqa: PTH110 - as above


def _read(path: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 65536).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)
