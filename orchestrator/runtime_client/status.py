"""Pure: the runtime protocol's status object, as values."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from plugin_runtime.shared.limits import NAMES as LIMIT_NAMES

from orchestrator.runtime_client import sanitize

_FULL: Final = 0.95
"""Of a file system's size: the last request did not fit."""
_MEMORY: Final = ("usage_bytes", "peak_bytes", "limit_bytes")


@dataclass(frozen=True, slots=True)
class RunInContainer:
    """A run that has been executing for `seconds`, and the last progress that it reported, if any."""

    run_id: str
    tool: str
    seconds: float
    progress: tuple[float | None, str] | None = None
    """The fraction, within 0..1, and the message."""


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """What the orchestrator uses of a status object; a field that is not as the protocol says reads as absent."""

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
    memory_counted: bool
    """Whether the kernel counts kills for memory there. True where the runtime does not say."""
    limit_hits: int | None
    """How often the container was at its own limit of memory, with nothing left to free."""
    pids_refused: int
    """Processes and threads that could not be started for the limit."""
    shm_full: bool
    scratch_used: int | None
    """Bytes of the scratch folder, as last measured; None before that."""
    scratch_watched: bool
    """Whether the runtime measures it, now and then."""
    memory: Mapping[str, int | None]
    limits: Mapping[str, float | None]
    """What the kernel holds the container to; None: no limit. One that the runtime does not know is absent."""
    cpu_seconds: float | None
    ready_seconds: float | None
    """Since its tools could be called."""
    runs_begun: int
    runs: tuple[RunInContainer, ...]
    """The runs that execute now, also those whose caller has disconnected."""
    batches: tuple[Mapping[str, Any], ...]
    """Counts of the batched tools, since the container's start."""
    tools_text: bytes
    """The JSON that `tools` was parsed from."""

    @classmethod
    def parse(cls, line: bytes, earlier: "RuntimeStatus | None" = None) -> "RuntimeStatus":
        """`earlier`: the last status of the same container. Raises `ValueError` for anything but a JSON object."""
        content = decode_json(line, _RawStatus)
        worker, memory = mapping(content.worker), mapping(content.memory)
        shm, scratch = mapping(content.shm), mapping(content.scratch)
        tools_text = bytes(content.tools)
        # A runtime repeats its tools with each status: they are parsed again only where they differ.
        same = earlier if earlier and earlier.tools_text == tools_text else None
        tools = same.tools if same else sanitize.tools(decode_json(tools_text))
        return cls(
            phase=sanitize.text(content.phase) or "",
            reason_code=sanitize.text(content.reason_code),
            reason=sanitize.text(content.reason),
            traceback=sanitize.text(content.traceback, sanitize.MAX_TRACEBACK) or "",
            checks=sanitize.checks(content.checks),
            tools=tools,
            worker_exit_code=_integer(worker.get("exit_code")),
            worker_signal=_signal_name(worker.get("signal")),
            worker_stuck=worker.get("stuck") is True,
            oom_kills=_integer(memory.get("oom_kills")) or 0,
            memory_counted=_integer(memory.get("oom_kills", 0)) is not None,
            limit_hits=_integer(memory.get("limit_hits")),
            pids_refused=_integer(mapping(content.pids).get("refused")) or 0,
            shm_full=_is_full(_integer(shm.get("used_bytes")), _integer(shm.get("size_bytes"))),
            scratch_used=_integer(scratch.get("used_bytes")),
            scratch_watched=_integer(scratch.get("limit_bytes")) is not None,
            memory={name: _integer(memory.get(name)) for name in _MEMORY},
            limits=_limits(mapping(content.limits)),
            cpu_seconds=_number(content.cpu_seconds),
            ready_seconds=_number(content.ready_seconds),
            runs_begun=_integer(content.runs_begun) or 0,
            runs=tuple(run for item in sanitize.mappings(content.runs) if (run := _run(item)) is not None),
            batches=sanitize.batches(content.batches),
            tools_text=tools_text,
        )


class _RawStatus(msgspec.Struct):
    """A status object as it came; each field may be anything."""

    phase: Any = None
    reason_code: Any = None
    reason: Any = None
    traceback: Any = None
    checks: Any = None
    tools: msgspec.Raw = msgspec.Raw(b"null")
    worker: Any = None
    memory: Any = None
    limits: Any = None
    pids: Any = None
    shm: Any = None
    scratch: Any = None
    cpu_seconds: Any = None
    ready_seconds: Any = None
    runs_begun: Any = None
    runs: Any = None
    batches: Any = None


def decode_json(text: bytes, type: Any = Any) -> Any:  # noqa: A002 - msgspec's own name of it
    """Raises `ValueError` for anything but JSON of this `type`; unlike `json`, also for NaN and half a surrogate pair,
    which could not be passed on.
    """
    try:
        return msgspec.json.decode(text, type=type)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _limits(found: Mapping[str, Any]) -> Mapping[str, float | None]:
    return {key: _number(value) for key, value in found.items() if key in LIMIT_NAMES}


def _is_full(used: int | None, size: int | None) -> bool:
    return bool(used and size) and (used or 0) >= (size or 0) * _FULL


def _run(item: Mapping[str, Any]) -> RunInContainer | None:
    run_id, tool = sanitize.text(item.get("run_id")), sanitize.text(item.get("tool"))
    if run_id is None or tool is None:
        return None
    return RunInContainer(run_id, tool, _number(item.get("seconds")) or 0.0, _progress(item.get("progress")))


def _progress(value: Any) -> tuple[float | None, str] | None:
    if not isinstance(value, dict):
        return None
    fraction = _number(value.get("fraction"))
    return None if fraction is None else min(1.0, max(0.0, fraction)), sanitize.text(value.get("message")) or ""


def _signal_name(value: Any) -> str | None:
    try:
        return signal.Signals(value).name if _integer(value) is not None else None
    except ValueError:
        return f"SIG{value}"


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
