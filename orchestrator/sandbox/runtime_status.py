"""What a container says of itself: the runtime protocol's status object, as values. Pure."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from orchestrator.sandbox import told

_MEMORY: Final = ("usage_bytes", "peak_bytes", "limit_bytes")


@dataclass(frozen=True, slots=True)
class RunInContainer:
    """A run that executes now, for `seconds` so far."""

    run_id: str
    tool: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """The protocol's status object, as far as the orchestrator uses it; whatever is not as agreed reads as not told."""

    phase: str
    reason_code: str | None
    reason: str | None
    traceback: str
    checks: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...]
    worker_exit_code: int | None
    worker_signal: str | None
    worker_stuck: bool
    oom_kills: int
    memory: Mapping[str, int | None]
    cpu_seconds: float | None
    ready_seconds: float | None
    """Since its tools can be called."""
    runs_begun: int
    runs: tuple[RunInContainer, ...]
    """Those that execute now, also those whose caller is gone."""

    @classmethod
    def parse(cls, line: bytes) -> "RuntimeStatus":
        """Raises `ValueError` for what is no JSON object."""
        content = parsed(line)
        if not isinstance(content, dict):
            raise ValueError("a status is a JSON object")  # noqa: TRY004 - the caller knows one error for all that is unreadable
        worker, memory = mapping(content.get("worker")), mapping(content.get("memory"))
        return cls(
            phase=told.text(content.get("phase")) or "",
            reason_code=told.text(content.get("reason_code")),
            reason=told.text(content.get("reason")),
            traceback=told.text(content.get("traceback"), told.LONGEST_TRACE) or "",
            checks=told.checks(content.get("checks")),
            tools=told.tools(content.get("tools")),
            worker_exit_code=_integer(worker.get("exit_code")),
            worker_signal=_signal_name(worker.get("signal")),
            worker_stuck=worker.get("stuck") is True,
            oom_kills=_integer(memory.get("oom_kills")) or 0,
            memory={name: _integer(memory.get(name)) for name in _MEMORY},
            cpu_seconds=_number(content.get("cpu_seconds")),
            ready_seconds=_number(content.get("ready_seconds")),
            runs_begun=_integer(content.get("runs_begun")) or 0,
            runs=tuple(run for item in told.mappings(content.get("runs")) if (run := _run(item)) is not None),
        )


def parsed(text: bytes) -> Any:
    """Raises `ValueError` for no JSON; unlike `json`, also for NaN and half a surrogate pair, which could not be
    passed on.
    """
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _run(item: Mapping[str, Any]) -> RunInContainer | None:
    run_id, tool = told.text(item.get("run_id")), told.text(item.get("tool"))
    return None if run_id is None or tool is None else RunInContainer(run_id, tool, _number(item.get("seconds")) or 0.0)


def _signal_name(value: Any) -> str | None:
    try:
        return signal.Signals(value).name if _integer(value) is not None else None
    except ValueError:
        return f"SIG{value}"


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
