"""The status object says what the worker reported and how it exited."""

import os
import signal

import pytest
from plugin_runtime.shared.cgroup import MemoryReading, PidsReading, SharedMemory
from plugin_runtime.shared.run_table import SharedRunTable
from plugin_runtime.supervising.status import Status

READY = {"phase": "ready", "tools": [{"name": "t"}]}
FAILED = {"phase": "failed", "reason_code": "INIT_ERROR", "reason": "r", "traceback": "t"}
EXIT_3 = 3 << 8
SEGV = int(signal.SIGSEGV)

# what happens → phase, exit code, signal
COURSES = [
    ([], ("starting", None, None)),
    ([{"checks": []}], ("starting", None, None)),
    ([READY], ("ready", None, None)),
    ([FAILED], ("failed", None, None)),
    ([EXIT_3], ("exited", 3, None)),
    ([SEGV], ("exited", None, signal.SIGSEGV)),
    ([READY, EXIT_3], ("exited", 3, None)),
    ([READY, SEGV], ("exited", None, signal.SIGSEGV)),
    ([FAILED, 1 << 8], ("failed", 1, None)),
]


@pytest.mark.parametrize(("events", "expected"), COURSES)
def test_the_phase_follows_from_what_happened(events, expected):
    status = Status(worker_pid=7)
    for event in events:
        if isinstance(event, int):
            assert os.WIFEXITED(event) or os.WIFSIGNALED(event)
            status.record_exit(event)
        else:
            status.apply_report(event)
    assert (status.phase, status.exit_code, status.signal) == expected


def test_news_are_changes_only():
    """The watch stream has a line for every change and for nothing else."""
    status = Status(7)
    assert status.apply_report(READY)
    assert not status.apply_report(READY)
    assert not status.apply_report({"ended": True})
    assert status.record_oom_kills(0)
    assert not status.record_oom_kills(0)
    assert status.record_oom_kills(1)


def test_every_member_of_the_protocol_is_there():
    status = Status(7)
    status.apply_report(FAILED)
    status.record_limits(0, PidsReading(128, 2), SharedMemory(64, 60))
    status.record_limits(0, PidsReading(128, 2), SharedMemory(64, 3))  # of the last the largest use counts
    status.limits = {"memory_bytes": 64, "pids": None}
    runs = SharedRunTable()
    runs.remove(runs.add("a", "read"))
    runs.add("b", "read")
    assert status.record_scratch(9, 8, over=True)
    assert not status.record_scratch(7, 8, over=True)
    document = status.document(MemoryReading(1, 2, None), 0.5, uptime_seconds=1.23456, ready_seconds=0.56789, runs=runs)
    (run,) = document.pop("runs")
    assert run.pop("seconds") >= 0
    assert run == {"run_id": "b", "tool": "read", "progress": None}
    assert document == {
        "protocol": 1,
        "phase": "failed",
        "reason_code": "INIT_ERROR",
        "reason": "r",
        "traceback": "t",
        "checks": [],
        "tools": [],
        "worker": {"pid": 7, "exit_code": None, "signal": None, "stuck": False},
        "memory": {"oom_kills": None, "limit_hits": 0, "usage_bytes": 1, "peak_bytes": 2, "limit_bytes": None},
        "limits": {"memory_bytes": 64, "pids": None},
        "pids": {"limit": 128, "refused": 2},
        "shm": {"size_bytes": 64, "used_bytes": 60},
        "scratch": {"limit_bytes": 8, "used_bytes": 7},
        "cpu_seconds": 0.5,
        "uptime_seconds": 1.235,
        "ready_seconds": 0.568,
        "runs_begun": 2,
        "batches": [],
    }
