"""From evidence to a reason code: what the end of an instance means. Pure."""

import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from orchestrator.formatting import format_size
from orchestrator.lifecycle import ReasonCode

_CRASH_SIGNALS = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS", "SIGTRAP"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an instance ended: a code for programs, a sentence for the operator, and what is kept for the post-mortem."""

    code: ReasonCode
    reason: str
    exit_code: int | None = None
    signal: str | None = None
    traceback: str = ""
    build_output: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What it was found by, for the post-mortem."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the witnesses say of an instance that is gone or whose worker is.

    `worker_*` is the supervisor's report, None where it could not give one any more; `oom_kills` counts kernel kills
    for memory in this container that no earlier verdict has used up; `container_*` is the engine's word;
    `container_missing`: the engine no longer knows it; `engine_reachable`: whether the engine could be asked.
    """

    worker_exit_code: int | None = None
    worker_signal: str | None = None
    oom_kills: int = 0
    container_exit_code: int | None = None
    container_oom_killed: bool = False
    container_missing: bool = False
    engine_reachable: bool = True
    memory_limit: int | None = None
    """Bytes."""


def judge(evidence: Evidence) -> Verdict:
    """The verdict on an instance that ended without our doing.

    The supervisor's report goes before the engine's word: it saw the worker's own end, while the engine's OOMKilled is
    true for any process killed at any time.
    """
    return replace(_judged(evidence), evidence=asdict(evidence))


def _judged(evidence: Evidence) -> Verdict:
    if evidence.worker_signal is not None or evidence.worker_exit_code is not None:
        return _of_process(
            evidence.worker_exit_code, evidence.worker_signal, evidence, oom=evidence.oom_kills > 0, who="The worker"
        )
    if evidence.container_missing:
        return Verdict(
            ReasonCode.KILLED,
            "The container was removed from outside. Restart the plugin; find out who removes containers.",
        )
    if evidence.container_exit_code is not None:
        exit_code, name = split_exit_code(evidence.container_exit_code)
        oom = evidence.oom_kills > 0 or evidence.container_oom_killed
        return _of_process(exit_code, name, evidence, oom=oom, who="The container")
    if not evidence.engine_reachable:
        return Verdict(
            ReasonCode.ENGINE_UNREACHABLE,
            "The container's connection broke and the container engine does not answer, so why is not known. Start "
            "the engine, then restart the plugin.",
        )
    return Verdict(
        ReasonCode.UNRESPONSIVE,
        "The container runs, but its control socket does not answer. Look at the plugin's logs, then restart it.",
    )


def out_of_memory(
    memory_limit: int | None, *, who: str = "A process of the plugin", exit_code: int | None = None
) -> Verdict:
    """The verdict where the kernel killed for memory."""
    size = f"the limit of {format_size(memory_limit)}" if memory_limit else "its memory limit"
    return Verdict(
        ReasonCode.OUT_OF_MEMORY,
        f"{who} was killed by the kernel: over {size}. Use less memory or raise `limits.memory` in the manifest, then "
        "restart.",
        exit_code=exit_code,
        signal="SIGKILL",
    )


def deadlocked() -> Verdict:
    """The verdict where the worker answers nothing and computes nothing, while no tool executes."""
    return Verdict(
        ReasonCode.UNRESPONSIVE,
        "The worker is deadlocked: it executes no tool, answers nothing and computes nothing. Its health shows where "
        "its threads stand; mend the plugin, then restart it.",
        evidence={"worker_stuck": True},
    )


def startup_timeout(seconds: float) -> Verdict:
    """The verdict where the plugin was not ready in time."""
    return Verdict(
        ReasonCode.STARTUP_TIMEOUT,
        f"The plugin was not ready {seconds:g} s after its container's start. Its health shows where it hung; make the "
        "start quicker or raise `startup_timeout` in the manifest, then restart.",
    )


def kill_failed(verdict: Verdict, container: str, problem: str) -> Verdict:
    """The verdict where the container of an instance that ended by `verdict` could not be stopped."""
    return replace(
        verdict,
        code=ReasonCode.KILL_FAILED,
        reason=f"The container {container} could be neither stopped nor killed: {problem}. It had to end because of "
        f"{verdict.code}: {verdict.reason} Its removal is tried again as long as the orchestrator runs. Look at the "
        f"container engine, or end it by hand (docker rm --force {container}), then restart the plugin.",
        evidence={**verdict.evidence, "ended_for": verdict.code, "engine_said": problem},
    )


def failed_start(code: str | None, reason: str | None, traceback: str) -> Verdict:
    """The verdict where the runtime itself says that it could not start; with an unknown code, INIT_ERROR."""
    known = code if code in _START_CODES else ReasonCode.INIT_ERROR
    sentence = reason or "The plugin could not start and did not say why. Look at its logs."
    return Verdict(ReasonCode(known), sentence, traceback=traceback)


_START_CODES = frozenset(
    {
        ReasonCode.PACKAGE_MISSING,
        ReasonCode.MODEL_MISSING,
        ReasonCode.MODEL_CORRUPT,
        ReasonCode.GPU_NOT_FOUND,
        ReasonCode.GPU_DRIVER_ERROR,
        ReasonCode.GPU_RUNTIME_MISSING,
        ReasonCode.GPU_LOST,
        ReasonCode.CUDA_UNAVAILABLE,
        ReasonCode.IMPORT_ERROR,
        ReasonCode.INIT_ERROR,
        ReasonCode.VALIDATE_MISSING,
        ReasonCode.VALIDATE_ERROR,
    }
)


def split_exit_code(code: int) -> tuple[int | None, str | None]:
    """A container's exit code as (exit code, None) or (None, signal's name): 128 + n stands for signal n."""
    if code > 128:
        try:
            return None, signal.Signals(code - 128).name
        except ValueError:
            pass
    return code, None


def _of_process(exit_code: int | None, name: str | None, evidence: Evidence, *, oom: bool, who: str) -> Verdict:
    if name is None:
        return Verdict(
            ReasonCode.EXITED,
            f"{who} left by itself with exit code {exit_code}. Something in the plugin ends the process; its logs may "
            "say what. Mend it and restart.",
            exit_code=exit_code,
        )
    if name == "SIGKILL" and oom:
        return out_of_memory(evidence.memory_limit, who=who)
    if name in _CRASH_SIGNALS:
        return Verdict(
            ReasonCode.CRASHED,
            f"{who} died by {name}: a fault in native code. The logs hold the Python stack at that moment. Mend it "
            "and restart.",
            signal=name,
        )
    return Verdict(
        ReasonCode.KILLED,
        f"{who} was killed from outside by {name}, not for memory. Find out who did, then restart.",
        signal=name,
    )
