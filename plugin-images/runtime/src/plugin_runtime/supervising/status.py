"""The status object of the protocol: what the worker reported, and how it ended. Pure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from plugin_runtime.shared.processes import EXITED, FAILED, STARTING

if TYPE_CHECKING:
    from plugin_runtime.shared.cgroup import MemoryReading, PidsReading, SharedMemory
    from plugin_runtime.shared.run_table import SharedRunTable

PROTOCOL = 1
REPORTED_KEYS = ("phase", "reason_code", "reason", "traceback", "checks", "tools")


class Status:
    """Changes by the worker's reports, by its exit and by what the supervisor observes."""

    def __init__(self, worker_pid: int) -> None:
        self.phase = STARTING
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.oom_kills: int | None = None
        self.stuck = False
        self.limit_hits: int | None = None
        self._pids: PidsReading | None = None
        self._shm: SharedMemory | None = None
        self.limits: dict[str, float | None] = {}
        self._scratch: dict[str, int | None] = {"limit_bytes": None, "used_bytes": None}
        self._scratch_over = False
        self._pid = worker_pid
        self._reported: dict[str, Any] = {"checks": [], "tools": []}

    @property
    def worker_exited(self) -> bool:
        return self.exit_code is not None or self.signal is not None

    def apply_report(self, report: dict[str, Any]) -> bool:
        """True if that changed anything. Unknown keys are ignored."""
        known = self._reported
        changes = {key: report[key] for key in REPORTED_KEYS if key in report and report[key] != known.get(key)}
        known.update(changes)
        self.phase = known.get("phase", self.phase)
        return bool(changes)

    def record_exit(self, wait_status: int) -> None:
        """The worker has exited with this wait status."""
        if os.WIFSIGNALED(wait_status):
            self.signal = os.WTERMSIG(wait_status)
        else:
            self.exit_code = os.WEXITSTATUS(wait_status)
        if self.phase != FAILED:  # a worker that could not start reported why before it exited: that stays
            self.phase = EXITED

    def record_oom_kills(self, oom_kills: int | None) -> bool:
        """True if the kernel's counter changed."""
        changed = oom_kills != self.oom_kills
        self.oom_kills = oom_kills
        return changed

    def record_stuck(self, *, stuck: bool) -> bool:
        """True if that changed."""
        changed = stuck != self.stuck
        self.stuck = stuck
        return changed

    def record_scratch(self, used: int | None, limit: int, *, over: bool) -> bool:
        """True if the files began to be over their limit, or are no longer."""
        changed = over != self._scratch_over
        self._scratch_over = over
        self._scratch = {"limit_bytes": limit, "used_bytes": used}
        return changed

    def record_limits(self, limit_hits: int | None, pids: PidsReading, shm: SharedMemory) -> None:
        """How near the container is to its limits. Of /dev/shm the largest use is what counts."""
        self.limit_hits, self._pids = limit_hits, pids
        if self._shm is None or (shm.used_bytes or 0) > (self._shm.used_bytes or 0):
            self._shm = shm

    def document(
        self,
        memory: MemoryReading,
        cpu_seconds: float | None,
        *,
        uptime_seconds: float,
        ready_seconds: float | None,
        runs: SharedRunTable,
    ) -> dict[str, Any]:
        """The status object."""
        return {
            "protocol": PROTOCOL,
            "phase": self.phase,
            "reason_code": self._reported.get("reason_code"),
            "reason": self._reported.get("reason"),
            "traceback": self._reported.get("traceback"),
            "checks": self._reported["checks"],
            "tools": self._reported["tools"],
            "worker": {"pid": self._pid, "exit_code": self.exit_code, "signal": self.signal, "stuck": self.stuck},
            "memory": {"oom_kills": self.oom_kills, "limit_hits": self.limit_hits, **memory._asdict()},
            "limits": self.limits,
            "pids": self._pids._asdict() if self._pids else {"limit": None, "refused": None},
            "shm": self._shm._asdict() if self._shm else {"size_bytes": None, "used_bytes": None},
            "scratch": self._scratch,
            "cpu_seconds": cpu_seconds,
            "uptime_seconds": round(uptime_seconds, 3),
            "ready_seconds": None if ready_seconds is None else round(ready_seconds, 3),
            "runs_begun": runs.started,
            "batches": runs.batches.documents(tool["name"] for tool in self._reported["tools"] if tool.get("batch")),
            "runs": [] if self.worker_exited else runs.executing(),
        }
