"""From evidence to a reason code: why an instance ended, as one table."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.verdict import Evidence, Verdict, judge, out_of_memory, split_exit_code

MIB = 1024**2

CASES: list[tuple[str, Evidence, str]] = [
    # What the container's own supervisor saw goes first
    ("the worker faulted", Evidence(worker_signal="SIGSEGV"), "CRASHED"),
    ("the worker aborted", Evidence(worker_signal="SIGABRT"), "CRASHED"),
    ("the worker hit a bad address", Evidence(worker_signal="SIGBUS"), "CRASHED"),
    ("the worker hit a bad instruction", Evidence(worker_signal="SIGILL"), "CRASHED"),
    ("the worker divided by zero", Evidence(worker_signal="SIGFPE"), "CRASHED"),
    ("the worker made a forbidden call", Evidence(worker_signal="SIGSYS"), "CRASHED"),
    ("the worker left", Evidence(worker_exit_code=3), "EXITED"),
    ("the worker left as if all were well", Evidence(worker_exit_code=0), "EXITED"),
    ("the worker was killed", Evidence(worker_signal="SIGKILL"), "KILLED"),
    ("the worker was terminated", Evidence(worker_signal="SIGTERM"), "KILLED"),
    ("the worker was killed for memory", Evidence(worker_signal="SIGKILL", oom_kills=1), "OUT_OF_MEMORY"),
    # A kill for memory somewhere in the container does not explain every end
    ("a fault after a helper's death for memory", Evidence(worker_signal="SIGSEGV", oom_kills=1), "CRASHED"),
    ("an exit after a helper's death for memory", Evidence(worker_exit_code=1, oom_kills=1), "EXITED"),
    # The supervisor goes before the engine, whose flag is true for any process at any time
    (
        "killed, while the engine knows of an older memory kill",
        Evidence(worker_signal="SIGKILL", container_exit_code=137, container_oom_killed=True),
        "KILLED",
    ),
    ("faulted, and the container went with 0", Evidence(worker_signal="SIGSEGV", container_exit_code=0), "CRASHED"),
    # The engine alone
    ("the container left", Evidence(container_exit_code=3), "EXITED"),
    ("the container left with 0", Evidence(container_exit_code=0), "EXITED"),
    ("the container was killed", Evidence(container_exit_code=137), "KILLED"),
    ("the container was terminated", Evidence(container_exit_code=143), "KILLED"),
    ("the container faulted", Evidence(container_exit_code=139), "CRASHED"),
    (
        "the container was killed for memory, says the engine",
        Evidence(container_exit_code=137, container_oom_killed=True),
        "OUT_OF_MEMORY",
    ),
    (
        "the container was killed for memory, said its supervisor",
        Evidence(container_exit_code=137, oom_kills=1),
        "OUT_OF_MEMORY",
    ),
    ("the container left with a code above all signals", Evidence(container_exit_code=255), "EXITED"),
    ("the container was removed", Evidence(container_missing=True), "KILLED"),
    # Nobody knows
    ("it runs and does not answer", Evidence(), "UNRESPONSIVE"),
    ("neither container nor engine answers", Evidence(engine_reachable=False), "ENGINE_UNREACHABLE"),
    (
        "its worker's end is known, the engine does not answer",
        Evidence(worker_exit_code=1, engine_reachable=False),
        "EXITED",
    ),
]


@pytest.mark.parametrize(("evidence", "code"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_evidence_comes_to_one_verdict(evidence: Evidence, code: str) -> None:
    """A memory kill is never reported for anything else, nor anything else for a memory kill."""
    assert judge(evidence).code == code


@pytest.mark.parametrize(
    ("verdict", "phrases"),
    [
        (judge(Evidence(worker_exit_code=3)), ["exit code 3"]),
        (judge(Evidence(worker_signal="SIGSEGV")), ["SIGSEGV", "native code"]),
        (judge(Evidence(container_exit_code=137)), ["SIGKILL", "not for memory"]),
        (judge(Evidence(worker_signal="SIGKILL")), ["SIGKILL", "by the plugin itself or from outside", "systemd-oomd"]),
        (
            judge(Evidence(worker_signal="SIGKILL", memory_counted=False)),
            ["SIGKILL", "or by the kernel for memory, which it does not count here"],
        ),
        (
            judge(Evidence(worker_signal="SIGKILL", oom_kills=1, limit_hits=0, memory_peak=120 * MIB)),
            ["the host, or a group above", "120 MiB", "its limit"],
        ),
        (
            judge(Evidence(worker_exit_code=1, pids_limit=128, pids_refused=3)),
            ["exit code 1", "limit of 128", "limits.pids", "OMP_NUM_THREADS"],
        ),
        (judge(Evidence(worker_signal="SIGABRT", pids_limit=64, pids_refused=1)), ["SIGABRT", "of 64", "limits.pids"]),
        (
            judge(Evidence(worker_signal="SIGBUS", shm_limit=64 * MIB, shm_full=True)),
            ["SIGBUS", "/dev/shm", "64 MiB", "limits.shm"],
        ),
        (
            judge(Evidence(worker_signal="SIGBUS", shm_limit=64 * MIB)),
            ["SIGBUS", "native code", "/dev/shm (`limits.shm`)"],
        ),
        (judge(Evidence(worker_signal="SIGSEGV", shm_limit=64 * MIB, shm_full=True)), ["SIGSEGV", "native code"]),
        (
            judge(
                Evidence(
                    worker_signal="SIGKILL", oom_kills=1, memory_limit=1024 * MIB, memory_peak=120 * MIB, limit_hits=0
                )
            ),
            ["the host, or a group above", "120 MiB", "1 GiB", "Free memory on the host"],
        ),
        (
            judge(Evidence(worker_signal="SIGKILL", oom_kills=1, memory_limit=1024 * MIB, limit_hits=0)),
            ["the host, or a group above the container, ran out of memory", "1 GiB"],
        ),
        (
            judge(
                Evidence(
                    worker_signal="SIGKILL", oom_kills=1, memory_limit=128 * MIB, memory_peak=128 * MIB, limit_hits=1
                )
            ),
            ["over the limit of 128 MiB", "raise `limits.memory`"],
        ),
        (
            judge(Evidence(worker_signal="SIGKILL", oom_kills=1, memory_limit=128 * MIB, memory_peak=8 * MIB)),
            ["over the limit of 128 MiB"],
        ),
        (out_of_memory(128 * MIB), ["128 MiB", "limits.memory"]),
        (out_of_memory(None), ["limits.memory"]),
        (judge(Evidence(container_missing=True)), ["removed from outside"]),
        (judge(Evidence(engine_reachable=False)), ["engine"]),
        (judge(Evidence()), ["control socket"]),
    ],
    ids=lambda value: value.code if isinstance(value, Verdict) else "",
)
def test_a_verdict_says_what_and_what_to_do(verdict: Verdict, phrases: list[str]) -> None:
    """One can act on it without reading code: each ends in a restart."""
    assert all(phrase in verdict.reason for phrase in phrases)
    assert "restart" in verdict.reason.lower()


def test_a_verdict_keeps_exit_code_and_signal_for_the_post_mortem() -> None:
    """One of the two, as the process ended."""
    left, died = judge(Evidence(worker_exit_code=3)), judge(Evidence(container_exit_code=139))
    assert (left.exit_code, left.signal) == (3, None)
    assert (died.exit_code, died.signal) == (None, "SIGSEGV")


@given(
    st.builds(
        Evidence,
        worker_exit_code=st.none() | st.integers(0, 255),
        worker_signal=st.none() | st.sampled_from([s.name for s in signal.Signals]),
        oom_kills=st.integers(0, 3),
        container_exit_code=st.none() | st.integers(0, 255),
        container_oom_killed=st.booleans(),
        container_missing=st.booleans(),
        engine_reachable=st.booleans(),
        memory_limit=st.none() | st.integers(1, 2**40),
        memory_peak=st.none() | st.integers(0, 2**40),
        limit_hits=st.none() | st.integers(0, 3),
        pids_limit=st.none() | st.integers(1, 1000),
        pids_refused=st.integers(0, 3),
        shm_limit=st.none() | st.integers(0, 2**30),
        shm_full=st.booleans(),
    )
)
def test_any_evidence_has_a_verdict(evidence: Evidence) -> None:
    """And out of memory is never said without a witness to it."""
    verdict = judge(evidence)
    assert verdict.reason
    if verdict.code is ReasonCode.OUT_OF_MEMORY:
        assert evidence.oom_kills or evidence.container_oom_killed


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, (0, None)),
        (128, (128, None)),
        (137, (None, "SIGKILL")),
        (139, (None, "SIGSEGV")),
        (255, (255, None)),
    ],
)
def test_an_exit_code_above_128_is_a_signal(code: int, expected: tuple[int | None, str | None]) -> None:
    """Where there is such a signal."""
    assert split_exit_code(code) == expected
