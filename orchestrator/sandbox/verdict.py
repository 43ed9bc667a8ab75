"""Pure: what evidence, a status or the result of a run means for an instance: a reason code and a sentence."""

import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from orchestrator.formatting import format_size
from orchestrator.lifecycle import ReasonCode
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.sandbox.call import Outcome, RunResult

_CRASH_SIGNALS: Final = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS", "SIGTRAP"})
_START_CODES: Final = frozenset(
    {
        ReasonCode.PACKAGE_MISSING,
        ReasonCode.MODEL_MISSING,
        ReasonCode.MODEL_CORRUPT,
        ReasonCode.GPU_NOT_FOUND,
        ReasonCode.GPU_DRIVER_ERROR,
        ReasonCode.GPU_RUNTIME_MISSING,
        ReasonCode.GPU_LOST,
        ReasonCode.CUDA_UNAVAILABLE,
        ReasonCode.GPU_OUT_OF_MEMORY,
        ReasonCode.LIMITS_UNSUPPORTED,
        ReasonCode.IMPORT_ERROR,
        ReasonCode.INIT_ERROR,
        ReasonCode.VALIDATE_MISSING,
        ReasonCode.VALIDATE_ERROR,
    }
)
"""Codes that a runtime may report of its own start."""
# A caller's mistake never ends the instance.
_ENDING_OUTCOMES: Final = frozenset({Outcome.PLUGIN_FAILED, Outcome.TIMEOUT, Outcome.CANCELLED})
# By `failure_policy: tolerant`. A timeout, the memory limit and a crash are final under either policy.
_TOLERATED_CODES: Final = frozenset({ReasonCode.TOOL_ERROR, ReasonCode.INVALID_OUTPUT, ReasonCode.GPU_OUT_OF_MEMORY})


_FAR_BELOW: Final = 0.9
"""Of the limit of memory: a container whose peak is below that has not been at its limit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an instance ended: a code for programs, a sentence for the operator, and details for the post-mortem."""

    code: ReasonCode
    reason: str
    exit_code: int | None = None
    signal: str | None = None
    traceback: str = ""
    build_output: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What the verdict rests on."""
    caller: str | None = None
    """The name of the key by whose run or command it ended; None where by neither."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an instance that has ended, or whose worker has.

    `worker_*`: the report of the container's supervisor, None without one; `oom_kills`: kernel kills for memory in this
    container that no earlier verdict counted; `container_*`: the engine's report; `container_missing`: the engine no
    longer knows the container.
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
    memory_peak: int | None = None
    """Bytes."""
    memory_counted: bool = True
    """Whether the kernel counts its kills for memory: not without the memory controller."""
    limit_hits: int | None = None
    """How often the container was at that limit with nothing left to free; None where nobody counted."""
    pids_limit: int | None = None
    pids_refused: int = 0
    """Processes and threads that could not be started for `pids_limit`."""
    shm_limit: int | None = None
    """Bytes."""
    shm_full: bool = False
    sockets_lost: bool = False
    """The folder of its sockets is no longer on the host."""


SOCKETS_LOST: Final = (
    "The folder of the plugins' sockets has vanished from the host: something removed it, such as the end of the last "
    "login session of the orchestrator's user. Run `loginctl enable-linger` as that user, or set ORCHESTRATOR_RUN_DIR "
    "to a folder that stays; then start the orchestrator anew, and restart the plugin."
)
_SCRATCH_SLACK: Final = 1.02
"""Of `limits.scratch`: files take whole blocks, and uploads are bounded by their own bytes."""


# An instance that ended, however it came to that


def judge(evidence: Evidence) -> Verdict:
    """The verdict on an instance that the orchestrator did not end."""
    return replace(_judged(evidence), evidence=asdict(evidence))


def _judged(evidence: Evidence) -> Verdict:
    # The supervisor goes before the engine: it saw the worker's own end, while the engine's OOMKilled is true for any
    # process killed at any time.
    if evidence.worker_signal is not None or evidence.worker_exit_code is not None:
        return _of_process(
            evidence.worker_exit_code, evidence.worker_signal, evidence, oom=evidence.oom_kills > 0, who="The worker"
        )
    if evidence.container_missing:
        return Verdict(
            ReasonCode.KILLED,
            "The container was removed from outside. Find out who removes containers, then restart the plugin.",
        )
    if evidence.container_exit_code is not None:
        exit_code, name = split_exit_code(evidence.container_exit_code)
        oom = evidence.oom_kills > 0 or evidence.container_oom_killed
        return _of_process(exit_code, name, evidence, oom=oom, who="The container")
    if not evidence.engine_reachable:
        return Verdict(
            ReasonCode.ENGINE_UNREACHABLE,
            "The connection to the container broke, and the container engine does not answer to say why. Start the "
            "engine, then restart the plugin.",
        )
    if evidence.sockets_lost:
        return Verdict(ReasonCode.UNRESPONSIVE, f"The container runs, but cannot be reached. {SOCKETS_LOST}")
    return Verdict(
        ReasonCode.UNRESPONSIVE,
        "The container runs, but its control socket does not answer. Look at the plugin's logs, then restart it.",
    )


def out_of_memory(
    memory_limit: int | None,
    *,
    who: str = "A process of the plugin",
    exit_code: int | None = None,
    peak: int | None = None,
    limit_hits: int | None = None,
) -> Verdict:
    """The verdict on a process that the kernel killed for memory. Sizes in bytes; `limit_hits` as in `Evidence`."""
    if _host_ran_out(memory_limit, peak, limit_hits):
        used = f"at most {format_size(peak)} were used of " if peak else "it was not at "
        limit = f"the {format_size(memory_limit)}" if memory_limit else "its limit"
        return Verdict(
            ReasonCode.OUT_OF_MEMORY,
            f"{who} was killed by the kernel because the host, or a group above the container, ran out of memory, not "
            f"the plugin: {used}{limit} (`limits.memory`). Free memory on the host, or lower the limits of its "
            "plugins, then restart the plugin.",
            exit_code=exit_code,
            signal="SIGKILL",
        )
    size = f"the limit of {format_size(memory_limit)}" if memory_limit else "its memory limit"
    return Verdict(
        ReasonCode.OUT_OF_MEMORY,
        f"{who} was killed by the kernel: over {size}. Use less memory or raise `limits.memory` in the manifest, then "
        "restart the plugin.",
        exit_code=exit_code,
        signal="SIGKILL",
    )


def _host_ran_out(limit: int | None, peak: int | None, limit_hits: int | None) -> bool:
    far_below = peak is None or limit is None or peak < limit * _FAR_BELOW
    return limit_hits == 0 and far_below


def scratch_overrun(used: int, limit: int, *, ready: bool) -> Verdict:
    """The verdict on a plugin whose files take more of the disk than it may. Sizes in bytes."""
    # The codes that it would have had if its disk had been full: a tool, or else its start, would have raised.
    return Verdict(
        ReasonCode.TOOL_ERROR if ready else ReasonCode.INIT_ERROR,
        f"Its files in the scratch folder take {format_size(used)}, over the limit of {format_size(limit)}. Have it "
        "remove what it no longer needs or raise `limits.scratch` in the manifest, then restart the plugin.",
        evidence={"scratch_used_bytes": used},
    )


def deadlocked() -> Verdict:
    """The verdict on a worker that answers nothing and computes nothing while no tool executes."""
    return Verdict(
        ReasonCode.UNRESPONSIVE,
        "The worker is deadlocked: it executes no tool, answers nothing and computes nothing. Its health shows where "
        "its threads stand. Fix the plugin, then restart it.",
        evidence={"worker_stuck": True},
    )


def startup_timeout(seconds: float) -> Verdict:
    return Verdict(
        ReasonCode.STARTUP_TIMEOUT,
        f"The plugin was not ready {seconds:g} s after its container's start. Its health shows where it hung. Make the "
        "start quicker or raise `startup_timeout` in the manifest, then restart the plugin.",
    )


def kill_failed(verdict: Verdict, container: str, problem: str) -> Verdict:
    """The verdict on an instance that ended by `verdict` and whose container could not be stopped."""
    # The cause first: what became of the stop is the engine's affair.
    return replace(
        verdict,
        code=ReasonCode.KILL_FAILED,
        reason=f"{verdict.code}: {verdict.reason} After that its container {container} could be neither stopped nor "
        f"killed: {problem}. Its removal is tried again as long as the orchestrator runs. Look at the engine, "
        f"or end it by hand (docker rm --force {container}), then restart the plugin.",
        evidence={**verdict.evidence, "ended_for": verdict.code, "engine_said": problem},
    )


def failed_start(code: str | None, reason: str | None, traceback: str) -> Verdict:
    """The verdict on a start that failed, as the runtime reports it; INIT_ERROR for an unknown code."""
    known = code if code in _START_CODES else ReasonCode.INIT_ERROR
    sentence = reason or "The plugin could not start and did not say why. Look at its logs."
    return Verdict(ReasonCode(known), sentence, traceback=traceback)


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
            f"{who} exited by itself with exit code {exit_code}. "
            + (
                _no_pids(evidence)
                or "Something in the plugin ends the process; its logs may say what. Fix it, then restart the plugin."
            ),
            exit_code=exit_code,
        )
    if name == "SIGKILL" and oom:
        return out_of_memory(evidence.memory_limit, who=who, peak=evidence.memory_peak, limit_hits=evidence.limit_hits)
    if name in _CRASH_SIGNALS:
        return Verdict(ReasonCode.CRASHED, f"{who} died by {name}: {_crash_cause(name, evidence)}", signal=name)
    if evidence.memory_counted:
        memory = "not for memory as the kernel counts it"
    else:
        memory = "or by the kernel for memory, which it does not count here"
    return Verdict(
        ReasonCode.KILLED,
        f"{who} was killed by {name}, by the plugin itself or from outside, {memory}. Find out by whom (systemd-oomd "
        "and earlyoom do so on a host that is short of memory), then restart the plugin.",
        signal=name,
    )


def _crash_cause(name: str, evidence: Evidence) -> str:
    if name == "SIGBUS" and evidence.shm_full:
        size = f", {format_size(evidence.shm_limit)}," if evidence.shm_limit else ""
        return (
            f"its shared memory{size} was full (/dev/shm). Raise `limits.shm` in the manifest or share less between "
            "processes, then restart the plugin."
        )
    no_pids = _no_pids(evidence)
    if no_pids:
        return f"a fault in native code. {no_pids}"
    # Shared memory whose files are removed at once is free again when the worker is dead.
    or_full = (
        ", or a mapped file without room: in /dev/shm (`limits.shm`) or the scratch folder (`limits.scratch`)"
        if name == "SIGBUS"
        else ""
    )
    stack = "The logs hold the Python stack at that moment"
    return f"a fault in native code{or_full}. {stack}. Fix it, then restart the plugin."


def _no_pids(evidence: Evidence) -> str:
    """Empty where every process and thread could be started."""
    if not evidence.pids_refused:
        return ""
    limit = f" of {evidence.pids_limit}" if evidence.pids_limit else ""
    return (
        f"Before, it was at its limit{limit} on processes and threads (`limits.pids`), and could start no more. Raise "
        "it in the manifest, or have libraries start fewer (OMP_NUM_THREADS), then restart the plugin."
    )


# An instance that still answers: its end, or None where it goes on


def verdict_of_status(
    status: RuntimeStatus,
    *,
    oom_kills: int,
    memory_limit: int | None,
    pids_limit: int | None = None,
    shm_limit: int | None = None,
    scratch_limit: int | None = None,
) -> Verdict | None:
    """The verdict on what a runtime reports. `oom_kills`: those that no earlier status reported; limits in bytes, but
    for `pids_limit`.
    """
    peak = status.memory["peak_bytes"]
    if status.phase == "exited":
        return judge(
            Evidence(
                worker_exit_code=status.worker_exit_code,
                worker_signal=status.worker_signal,
                oom_kills=oom_kills,
                memory_limit=memory_limit,
                memory_peak=peak,
                memory_counted=status.memory_counted,
                limit_hits=status.limit_hits,
                pids_limit=pids_limit,
                pids_refused=status.pids_refused,
                shm_limit=shm_limit,
                shm_full=status.shm_full,
            )
        )
    if oom_kills > 0:
        return out_of_memory(memory_limit, peak=peak, limit_hits=status.limit_hits)
    if status.phase == "failed":
        return failed_start(status.reason_code, status.reason, status.traceback)
    if status.worker_stuck:
        return deadlocked()
    if scratch_limit is not None and (status.scratch_used or 0) > scratch_limit * _SCRATCH_SLACK:
        return scratch_overrun(status.scratch_used or 0, scratch_limit, ready=status.phase == "ready")
    return None


def verdict_of_run(tool: str, result: RunResult, *, tolerant: bool) -> Verdict | None:
    """The verdict on an instance by the result of a run on it."""
    code = result.reason_code
    if code is None or result.outcome not in _ENDING_OUTCOMES:
        return None
    if tolerant and code in _TOLERATED_CODES:
        return None
    evidence = {"tool": tool, "outcome": result.outcome, "execution_ms": round(result.execution_time_ms, 3)}
    return Verdict(code, _sentence(code, tool, result), traceback=result.traceback, evidence=evidence)


def _sentence(code: ReasonCode, tool: str, result: RunResult) -> str:
    match code:
        case ReasonCode.TOOL_ERROR:
            named = result.error_type and result.error_type not in (result.error or "")
            what = f"{result.error_type}: {result.error}" if named else f"{result.error}"
            return (
                f"The tool {tool} raised {what}. Look at its traceback, fix the plugin or its input, then restart the "
                "plugin."
            )
        case ReasonCode.GPU_OUT_OF_MEMORY:
            return f"The tool {tool} ran out of memory on the GPU: {result.error_type}: {result.error}"
        case ReasonCode.INVALID_OUTPUT:
            return f"The tool {tool} gave no usable result: {result.error}. Fix it, then restart the plugin."
        case ReasonCode.TIMEOUT:
            return (
                f"{result.error} Make the work smaller or raise `limits.timeout` in the manifest, then restart the "
                "plugin."
            )
        case _:  # also of a cancelled run that did not end
            return result.error or code
