"""What the kernel counts for this container: memory, out-of-memory kills, CPU time; cgroup v1 and v2."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Group(NamedTuple):
    """Where one controller counts and limits this process: the folders of its own group and of those above it, as far
    as they can be seen, the nearest first. None at all where this kernel has the controller nowhere.
    """

    v2: bool
    folders: tuple[str, ...]

    def read(self, name: str) -> str | None:
        """A file of the own group."""
        return _read(f"{self.folders[0]}/{name}") if self.folders else None

    def lowest(self, name: str, parse: Callable[[str | None], float | None]) -> tuple[float | None, str | None]:
        """The lowest limit in the files of this name, which all hold, and its folder; None twice where none limits."""
        found = [(value, folder) for folder in self.folders if (value := parse(_read(f"{folder}/{name}"))) is not None]
        return min(found, key=lambda pair: pair[0], default=(None, None))


class Cgroup:
    """The control groups of the calling process. Counters count from the creation of this object, and limits are those
    of that moment. `contained`: in a container, whose groups are its own.
    """

    def __init__(
        self,
        root: str = "/sys/fs/cgroup",
        membership: str = "/proc/self/cgroup",
        meminfo: str = "/proc/meminfo",
        *,
        contained: bool = True,
    ) -> None:
        paths = controller_paths(_read(membership) or "")
        self._memory = find_group(root, paths, ("memory",))
        self._pids = find_group(root, paths, ("pids",))
        self._cpu = find_group(root, paths, ("cpuacct", "cpu,cpuacct", "cpuacct,cpu", "cpu"))
        self._quota = find_group(root, paths, ("cpu", "cpu,cpuacct", "cpuacct,cpu"))
        self._known = contained and is_mounted(root)
        self._swap_total = counter(_read(meminfo), "SwapTotal:", unit=1024)
        name = "memory.max" if self._memory.v2 else "memory.limit_in_bytes"
        limit, self._limiting_memory = self._memory.lowest(name, _limit)
        self._memory_limit = None if limit is None else int(limit)
        limit, self._limiting_pids = self._pids.lowest("pids.max", _limit)
        self._pids_limit = None if limit is None else int(limit)
        self._kills_file: int | None = None
        self._kills_text: str | None = None
        self._kills_read: int | None = None
        self._kills_before = self._kills() or 0
        self._hits_before = self._hits() or 0
        self._refused_before = self._refused() or 0
        self._cpu_before = self._cpu_nanoseconds() or 0

    def limits(self) -> dict[str, float | None]:
        """What the kernel holds this container to: `memory_bytes`, `swap_bytes` (beyond the memory; 0 where the host
        has no swap), `pids`, `cpus`. None: no limit. One that cannot be known is absent.
        """
        if not self._known:
            return {}
        limits: dict[str, float | None] = {"memory_bytes": self._memory_limit, "pids": self._pids_limit}
        if self._swap_total is not None:
            limits["swap_bytes"] = self._swap()
        name, parse = ("cpu.max", _cpu_max) if self._quota.v2 else ("cpu.cfs_quota_us", _positive)
        cpus, folder = self._quota.lowest(name, parse)
        if cpus is not None and not self._quota.v2:
            period = _number(_read(f"{folder}/cpu.cfs_period_us"))
            cpus = cpus / period if period else None
        limits["cpus"] = cpus
        return limits

    def oom_kills(self) -> int | None:
        """Processes of this group that the kernel killed for memory."""
        kills = self._kills()
        return None if kills is None else kills - self._kills_before

    def limit_hits(self) -> int | None:
        """How often the container was at its own limit of memory: by cgroup v2 with nothing left to free, by v1 also
        where something could be freed.
        """
        hits = self._hits()
        return None if hits is None else hits - self._hits_before

    def pids(self) -> PidsReading:
        refused = self._refused()
        return PidsReading(self._pids_limit, None if refused is None else refused - self._refused_before)

    def memory(self) -> MemoryReading:
        names = ("memory.current", "memory.peak")
        if not self._memory.v2:
            names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes")
        usage, peak = (_number(self._memory.read(name)) for name in names)
        return MemoryReading(usage, peak, self._memory_limit)

    def cpu_seconds(self) -> float | None:
        """CPU time of all processes of this group, also of those that have ended."""
        nanoseconds = self._cpu_nanoseconds()
        return None if nanoseconds is None else round((nanoseconds - self._cpu_before) / 1e9, 3)

    def _swap(self) -> int | None:
        if self._swap_total == 0:
            return 0
        if self._memory.v2:
            found = self._memory.lowest("memory.swap.max", _limit)[0]
            return None if found is None else int(found)
        both = self._memory.lowest("memory.memsw.limit_in_bytes", _limit)[0]
        return None if both is None or self._memory_limit is None else max(0, int(both) - self._memory_limit)

    def _kills(self) -> int | None:
        # Each call looks: the file stays open, and is parsed where it has changed.
        text = _reread(self._kills_file)
        if text is None and self._memory.folders:
            name = "memory.events" if self._memory.v2 else "memory.oom_control"
            self._kills_file = _open(f"{self._memory.folders[0]}/{name}")
            text = _reread(self._kills_file)
            if text is None and self._kills_file is not None:  # a kernel that does not count them
                os.close(self._kills_file)
                self._kills_file = None
        if text != self._kills_text:
            self._kills_read, self._kills_text = counter(text, "oom_kill"), text
        return self._kills_read

    def _hits(self) -> int | None:
        # Counted where the limit is, which may be in a group above.
        folder = self._limiting_memory or next(iter(self._memory.folders), "")
        if not self._memory.v2:
            return _number(_read(f"{folder}/memory.failcnt"))
        return counter(_read(f"{folder}/memory.events"), "oom")

    def _refused(self) -> int | None:
        # Newer kernels count where the limit is, older ones where the process was to be started.
        texts = (self._pids.read("pids.events"), _read(f"{self._limiting_pids}/pids.events"))
        return max((count for text in texts if (count := counter(text, "max")) is not None), default=None)

    def _cpu_nanoseconds(self) -> int | None:
        if self._cpu.v2:
            microseconds = counter(self._cpu.read("cpu.stat"), "usage_usec")
            return None if microseconds is None else microseconds * 1000
        return _number(self._cpu.read("cpuacct.usage"))


def find_group(root: str, paths: dict[str, str], names: tuple[str, ...]) -> Group:
    """The groups of a controller that has one of these folders on cgroup v1. `paths`: by `controller_paths`."""
    if not _exists(f"{root}/cgroup.controllers"):
        for name in names:
            if _exists(f"{root}/{name}"):
                path = next((paths[each] for each in name.split(",") if each in paths), "")
                return Group(False, _chain(f"{root}/{name}", path))  # noqa: FBT003 - a field
        # A hybrid: what no v1 hierarchy has may be in the one of v2.
        root = f"{root}/unified"
    return Group(True, _chain(root, paths.get("", "")) if _exists(f"{root}/cgroup.controllers") else ())  # noqa: FBT003


def is_mounted(root: str) -> bool:
    """Whether the kernel's control groups can be seen at all, of whichever version."""
    v1 = ("memory", "pids", "cpu", "cpuset", "freezer", "devices")
    return any(_exists(f"{root}/{name}") for name in ("cgroup.controllers", "unified/cgroup.controllers", *v1))


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


def counter(text: str | None, key: str, *, unit: int = 1) -> int | None:
    """The number beside `key` in a file of `key number` lines, in units of which each is `unit`."""
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            number = _number(value.removesuffix(" kB"))
            return None if number is None else number * unit
    return None


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _limit(text: str | None) -> int | None:
    """None for `max`, and for the number by which v1 says so."""
    number = _number(text)
    return None if number is None or number >= UNLIMITED else number


def _positive(text: str | None) -> int | None:
    """None for -1, by which v1 says that there is no quota."""
    return _number(text) or None


def _cpu_max(text: str | None) -> float | None:
    """`quota period`, in microseconds, as cores; None for `max period`."""
    quota, _, period = (text or "").strip().partition(" ")
    number, of = _number(quota), _number(period)
    return number / of if number and of else None


def _chain(base: str, path: str) -> tuple[str, ...]:
    # In a container the own group is usually mounted at the root of the tree, whatever its membership file says. From
    # within another namespace of groups the path may even lead upwards.
    steps = [] if "/.." in path else [step for step in path.split("/") if step]
    folders = ["/".join((base, *steps[:count])) for count in range(len(steps), -1, -1)]
    existing = tuple(folder for folder in folders if _exists(f"{folder}/cgroup.procs"))
    return existing or (base,)


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - pathlib costs the supervisor a megabyte


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _reread(descriptor: int | None) -> str | None:
    """A file of kills that was opened before. None where it is closed: a plugin may close what it does not know, and
    what has that number then is another file.
    """
    if descriptor is None:
        return None
    try:
        text = os.pread(descriptor, 4096, 0)
    except OSError:
        return None
    return text.decode("ascii", "replace") if b"oom_kill" in text else None


def _read(path: str) -> str | None:
    descriptor = _open(path)
    if descriptor is None:
        return None
    try:
        return os.read(descriptor, 65536).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)
