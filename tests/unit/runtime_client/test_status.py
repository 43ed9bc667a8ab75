"""Status objects: a field that is not as the protocol says reads as absent."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime_client.status import RunInContainer, RuntimeStatus

FIELDS = [
    "phase", "reason_code", "reason", "traceback", "checks", "tools", "worker", "memory", "cpu_seconds",
    "ready_seconds", "runs_begun", "runs", "batches",
]  # fmt: skip


def parse(**status: Any) -> RuntimeStatus:
    return RuntimeStatus.parse(json.dumps(status).encode())


@pytest.mark.parametrize(
    ("number", "name"), [(11, "SIGSEGV"), (9, "SIGKILL"), (None, None), (10_000, "SIG10000"), ([11], None)]
)
def test_a_signal_is_reported_by_its_number_and_known_by_its_name(number: Any, name: str | None) -> None:
    """As the protocol has it; a number without a name keeps its number."""
    assert parse(worker={"pid": 7, "exit_code": None, "signal": number}).worker_signal == name


def test_a_whole_status_is_parsed() -> None:
    """Every field that the orchestrator uses."""
    status = parse(
        phase="exited",
        checks=[{"name": "package:cv2", "ok": True}],
        tools=[{"name": "read"}],
        worker={"exit_code": 3},
        memory={"oom_kills": 2, "usage_bytes": 5, "peak_bytes": 6},
        cpu_seconds=0.5,
    )
    assert (status.phase, status.worker_exit_code, status.oom_kills, status.cpu_seconds) == ("exited", 3, 2, 0.5)
    assert (status.memory["usage_bytes"], status.memory["peak_bytes"]) == (5, 6)
    assert status.tools[0]["name"] == "read"


def test_unchanged_tools_are_not_parsed_again() -> None:
    """A runtime reports them every three seconds; changed ones count at once."""
    line = json.dumps({"tools": [{"name": "read"}]}).encode()
    first = RuntimeStatus.parse(line)
    assert RuntimeStatus.parse(line, first).tools is first.tools
    assert RuntimeStatus.parse(b'{"tools": [{"name": "write"}]}', first).tools[0]["name"] == "write"
    assert RuntimeStatus.parse(b"{}", first).tools == ()


HISTOGRAM = {"bounds": [1, 2], "counts": [3, 0, 1]}
BATCH = {"tool": "detect", "sizes": HISTOGRAM, "waits": {**HISTOGRAM, "sum_seconds": 1.5}}


def test_the_counts_of_batches_are_taken() -> None:
    """With the bounds that the runtime has."""
    taken = {"bounds": (1.0, 2.0), "counts": (3, 0, 1)}
    found = {"tool": "detect", "sizes": taken, "waits": taken, "sum_seconds": 1.5}
    assert parse(batches=[BATCH, {**BATCH, "sizes": {"bounds": [5], "counts": [1, 2]}}]).batches == (found,)
    assert parse().batches == ()


@pytest.mark.parametrize(
    "histogram",
    [
        None,
        {},
        {"bounds": [], "counts": [1]},
        {"bounds": [1, 2], "counts": [1, 2]},
        {"bounds": [2, 1], "counts": [1, 2, 3]},
        {"bounds": [1, 1], "counts": [1, 2, 3]},
        {"bounds": ["1", None], "counts": [1, 2, 3]},
        {"bounds": [1, 2], "counts": [1, 2, -3]},
        {"bounds": [1, 2], "counts": [1, 2, 3.5]},
        {"bounds": [1, 2], "counts": [1, 2, True]},
        {"bounds": [1, 2], "counts": [1, 2, 10**400]},
        {"bounds": [1, 10**400], "counts": [1, 2, 3]},
        {"bounds": list(range(100)), "counts": [1] * 101},
    ],
)
def test_what_is_no_histogram_is_left_out(histogram: Any) -> None:
    """Metrics are made of it, for every reader."""
    assert parse(batches=[{**BATCH, "sizes": histogram}]).batches == ()
    assert parse(batches=[{**BATCH, "tool": "a b"}, {**BATCH, "waits": histogram}, 3]).batches == ()


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"max_size": 16, "max_wait_ms": 5}, {"max_size": 16, "max_wait_ms": 5.0}),
        ({"max_size": 16, "max_wait_ms": -1}, {"max_size": 16, "max_wait_ms": 0.0}),
        ({"max_size": 16, "max_wait_ms": 10**400}, {"max_size": 16, "max_wait_ms": 0.0}),
        ({"max_size": 10**9}, None),
        ({"max_size": True}, None),
        ({}, None),
        (16, None),
        (None, None),
    ],
)
def test_a_tool_says_how_it_is_batched(given: Any, taken: Any) -> None:
    """Within bounds: how many runs are let into the container goes by it."""
    (tool,) = parse(tools=[{"name": "read", "batch": given, "idempotent": "yes"}]).tools
    assert (tool["batch"], tool["idempotent"]) == (taken, False)
    (tool,) = parse(tools=[{"name": "read", "idempotent": True}]).tools
    assert (tool["batch"], tool["idempotent"]) == (None, True)


def test_the_runs_in_a_container_are_taken() -> None:
    """How long it is ready, and what executes; what is no run is left out."""
    status = parse(
        ready_seconds=7,
        runs_begun=3,
        runs=[{"run_id": "a", "tool": "read", "seconds": 1.5}, {"run_id": 7, "tool": "read"}, "b"],
    )
    assert (status.ready_seconds, status.runs_begun) == (7, 3)
    assert status.runs == (RunInContainer("a", "read", 1.5),)


@pytest.mark.parametrize(
    ("progress", "taken"),
    [
        ({"fraction": 0.5, "message": "half"}, (0.5, "half")),
        ({"fraction": 7}, (1.0, "")),
        ({"fraction": None, "message": "no idea"}, (None, "no idea")),
        ({"fraction": "0.5", "message": ["half"]}, (None, "")),
        (None, None),
        ("half", None),
    ],
)
def test_a_run_in_a_container_has_its_progress(progress: object, taken: object) -> None:
    status = parse(runs=[{"run_id": "a", "tool": "read", "seconds": 1.5, "progress": progress}])
    assert status.runs[0].progress == taken


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"[]",
        b"7",
        b"null",
        b'{"phase":',
        b"\xff",
        b'{"reason": "\\ud800"}',
        b'{"x": NaN}',
        b"[" * 50_000,
    ],
    ids=["nothing", "text", "list", "number", "null", "half", "no UTF-8", "half a surrogate", "NaN", "brackets"],
)
def test_what_is_no_status_is_a_value_error(line: bytes) -> None:
    """One error for all that cannot be read."""
    with pytest.raises(ValueError):
        RuntimeStatus.parse(line)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_no_value_of_any_field_makes_it_fail(status: dict[str, Any]) -> None:
    """Numbers are numbers, texts are texts, or they are absent."""
    parsed = parse(**status)
    assert isinstance(parsed.phase, str)
    assert isinstance(parsed.oom_kills, int)
    assert isinstance(parsed.reason, str | None)
    assert all(isinstance(value, int | None) for value in parsed.memory.values())
    assert all(isinstance(tool["name"], str) for tool in parsed.tools)
    assert all(isinstance(run.run_id, str) and isinstance(run.seconds, int | float) for run in parsed.runs)
