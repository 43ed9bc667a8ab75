"""Polls the health routes from a process of its own, and reports their statuses and latencies.

The latency that counts for the orchestrator (`slowest`) is what the caller waited (`slowest_seen`), less the time for
which either process was ready to run and had no processor, or a hypervisor took it away: on a machine with two cores
and busy containers that time is the machine's.
"""

import contextlib
import http.client
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INTERVAL = 0.05
"""Seconds between two rounds of requests."""
REQUEST_TIMEOUT = 20.0
"""Seconds."""


@dataclass
class HealthAnswers:
    """The responses, available after the context. Times in milliseconds."""

    statuses: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    p999: float = 0.0
    slowest_seen: float = 0.0
    p99_seen: float = 0.0
    late: list[dict[str, Any]] = field(default_factory=list)
    """The ten slowest: latency, what the caller waited, which route, when."""

    @property
    def total(self) -> int:
        return sum(self.statuses.values())


@contextlib.contextmanager
def health_answers(base_url: str, pid: int, names: Sequence[str]) -> Iterator[HealthAnswers]:
    """Poll the orchestrator with the process id `pid` during the context."""
    paths = ["/v1/plugins", *(f"/v1/plugins/{name}/health" for name in names), "/v1/plugins/no-such-plugin/health"]
    command = [sys.executable, "-I", str(Path(__file__)), base_url, str(pid), *paths]
    answers = HealthAnswers()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as prober:
        try:
            assert prober.stdout is not None
            assert prober.stdout.readline() == b"ready\n"
            yield answers
        finally:
            report, _ = prober.communicate(timeout=REQUEST_TIMEOUT * 2)
            answers.__dict__.update(json.loads(report))


def main(base_url: str, pid: int, paths: list[str]) -> None:
    """Poll until the standard input ends."""
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    address = base_url.removeprefix("http://").rstrip("/")
    statuses: dict[str, int] = {}
    seen: list[tuple[float, float, str]] = []
    connection = http.client.HTTPConnection(address, timeout=REQUEST_TIMEOUT)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], INTERVAL)[0]:
        for path in paths:
            waits, started = waits_for_processor(pid), time.perf_counter()
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                status = str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
                connection.close()
            took = time.perf_counter() - started
            statuses[status] = statuses.get(status, 0) + 1
            seen.append((took, increase(waits, waits_for_processor(pid)), f"{path} {status} {time.time():.1f}"))
    by_share = sorted((max(0.0, took - idle) * 1000, took * 1000, what) for took, idle, what in seen)
    by_time = sorted(took * 1000 for took, _, _ in seen)
    report = {
        "statuses": statuses,
        "slowest": by_share[-1][0],
        "p999": by_share[max(0, int(len(by_share) * 0.999) - 1)][0],
        "slowest_seen": by_time[-1],
        "p99_seen": by_time[int(len(by_time) * 0.99)],
        "late": [{"ms": share, "seen_ms": took, "what": what} for share, took, what in by_share[-10:]],
    }
    sys.stdout.write(json.dumps(report))


def waits_for_processor(pid: int) -> dict[str, int]:
    """Nanoseconds so far for which this process, or a thread of that one, was ready to run and had no processor."""
    # All its threads, since the others may wait for the one without a processor; and what a hypervisor took.
    waits = {"steal": stolen()}
    for file in (Path("/proc/self/schedstat"), *Path(f"/proc/{pid}/task").glob("*/schedstat")):
        with contextlib.suppress(OSError, IndexError):  # the thread has ended, or the kernel has no such figures
            waits[str(file)] = int(file.read_text().split()[1])
    return waits


def stolen() -> int:
    """Nanoseconds so far, of all processors, that the hypervisor gave to other machines: `steal` in proc_stat(5)."""
    processors = Path("/proc/stat").read_text().partition("\n")[0].split()
    return int(processors[8]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def main_thread_waits(pid: int) -> float:
    """Seconds since its start for which a process's main thread was ready to run and had no processor."""
    return waits_for_processor(pid).get(f"/proc/{pid}/task/{pid}/schedstat", 0) / 1e9


def increase(before: dict[str, int], after: dict[str, int]) -> float:
    """In seconds, over the threads in both."""
    return sum(after[file] - before[file] for file in before.keys() & after.keys()) / 1e9


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
