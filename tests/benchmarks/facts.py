"""Facts about the machine, and how busy other programs made it: no figure means anything without them."""

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker


def machine() -> dict[str, Any]:
    """Facts that the figures depend on; none that identifies the machine."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "processor": _line("/proc/cpuinfo", "model name"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "engine": _engine(),
    }


class Busyness:
    """CPU time of the whole machine since this object was made."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._load = os.getloadavg()[0]
        self._cpu = _cpu()

    @property
    def load_at_begin(self) -> float:
        """Load average of the minute before."""
        return self._load

    def report(self) -> dict[str, float]:
        """`idle` and `stolen` are shares of all CPU time since the start."""
        spent = [now - then for now, then in zip(_cpu(), self._cpu, strict=True)]
        total = sum(spent) or 1
        return {
            "seconds": round(time.monotonic() - self._begun, 1),
            "load_at_begin": self._load,
            "load_at_end": os.getloadavg()[0],
            "idle": round((spent[3] + spent[4]) / total, 3),
            "stolen": round(spent[7] / total, 3),
        }


def _cpu() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal; in ticks."""
    with Path("/proc/stat").open() as stat:
        return [int(field) for field in stat.readline().split()[1:9]]


def _line(path: str, key: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _engine() -> dict[str, Any]:
    client = docker.from_env()
    try:
        info = client.info()
    finally:
        client.close()
    return {
        key: info.get(key) for key in ("ServerVersion", "Driver", "CgroupVersion", "CgroupDriver", "SecurityOptions")
    }
