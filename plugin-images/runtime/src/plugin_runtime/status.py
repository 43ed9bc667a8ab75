"""The status object of the protocol: what the worker told, and how it left. Pure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugin_runtime.cgroup import MemoryReading
    from plugin_runtime.run_board import RunBoard

PROTOCOL = 1
STARTING, READY, FAILED, EXITED = "starting", "ready", "failed", "exited"
TOLD = ("phase", "reason_code", "reason", "traceback", "checks", "tools")


class Status:
    """Changes by what the worker tells (`tell`), by its end (`leave`) and by the kernel's kills (`count_kills`)."""

    def __init__(self, worker_pid: int) -> None:
        self.phase = STARTING
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.oom_kills: int | None = None
        self.stuck = False
        self._pid = worker_pid
        self._told: dict[str, Any] = {"checks": [], "tools": []}

    @property
    def left(self) -> bool:
        """Whether the worker is gone."""
        return self.exit_code is not None or self.signal is not None

    def tell(self, message: dict[str, Any]) -> bool:
        """Take what the worker says; True where that changed anything. Unknown keys are ignored."""
        news = {key: message[key] for key in TOLD if key in message and message[key] != self._told.get(key)}
        self._told.update(news)
        self.phase = self._told.get("phase", self.phase)
        return bool(news)

    def leave(self, wait_status: int) -> None:
        """Take the worker's wait status. A worker that could not start told why before it left: that stays."""
        if os.WIFSIGNALED(wait_status):
            self.signal = os.WTERMSIG(wait_status)
        else:
            self.exit_code = os.WEXITSTATUS(wait_status)
        if self.phase != FAILED:
            self.phase = EXITED

    def count_kills(self, oom_kills: int | None) -> bool:
        """Take the kernel's counter; True where it changed."""
        changed = oom_kills != self.oom_kills
        self.oom_kills = oom_kills
        return changed

    def find_stuck(self, *, stuck: bool) -> bool:
        """Take whether the worker can do nothing any more; True where that changed."""
        changed = stuck != self.stuck
        self.stuck = stuck
        return changed

    def document(
        self,
        memory: MemoryReading,
        cpu_seconds: float | None,
        *,
        uptime_seconds: float,
        ready_seconds: float | None,
        board: RunBoard,
    ) -> dict[str, Any]:
        """The status object."""
        return {
            "protocol": PROTOCOL,
            "phase": self.phase,
            "reason_code": self._told.get("reason_code"),
            "reason": self._told.get("reason"),
            "traceback": self._told.get("traceback"),
            "checks": self._told["checks"],
            "tools": self._told["tools"],
            "worker": {"pid": self._pid, "exit_code": self.exit_code, "signal": self.signal, "stuck": self.stuck},
            "memory": {"oom_kills": self.oom_kills, **memory._asdict()},
            "cpu_seconds": cpu_seconds,
            "uptime_seconds": round(uptime_seconds, 3),
            "ready_seconds": None if ready_seconds is None else round(ready_seconds, 3),
            "runs_begun": board.begun,
            "runs": [] if self.left else board.executing(),
        }
