"""What a status of the runtime means for the instance: nothing, or its end. Pure."""

from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.sandbox.verdict import Evidence, Verdict, deadlocked, failed_start, judge, out_of_memory


def verdict_of_status(status: RuntimeStatus, *, oom_kills: int, memory_limit: int) -> Verdict | None:
    """Why the instance ends, None where it goes on. `oom_kills`: those that no earlier status told of; `memory_limit`
    in bytes.
    """
    if status.phase == "exited":
        return judge(
            Evidence(
                worker_exit_code=status.worker_exit_code,
                worker_signal=status.worker_signal,
                oom_kills=oom_kills,
                memory_limit=memory_limit,
            )
        )
    if oom_kills > 0:
        return out_of_memory(memory_limit)
    if status.phase == "failed":
        return failed_start(status.reason_code, status.reason, status.traceback)
    if status.worker_stuck:
        return deadlocked()
    return None
