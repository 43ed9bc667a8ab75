"""The benchmarks' pure functions: ratios, verdicts, table, and the command that starts a floor."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.figures import Figure, Target, quantile, ratios, rotated, table
from benchmarks.rows import ROWS
from benchmarks.rows.starts import run_command
from support.checkout import TESTS


def test_a_ratio_is_taken_round_by_round() -> None:
    """A round in which the machine was slow counts like any other."""
    assert ratios([2.0, 20.0], [1.0, 10.0]) == [2.0, 2.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target("≤", 2), 2.0, True),
        (Target("≤", 2), 2.01, False),
        (Target("<", 2), 2.0, False),
        (Target("≥", 0.5), 0.5, True),
        (Target("≥", 0.5), 0.49, False),
    ],
)
def test_a_target_holds_at_its_limit_as_it_says(target: Target, value: float, met: bool) -> None:
    assert target.met(value) is met


def test_a_verdict_uses_the_figures_measure() -> None:
    """The maximum for a target that every sample must meet; otherwise the median."""
    samples = [1.0, 1.0, 3.0]
    assert Figure("x", samples, "s", Target("≤", 2)).verdict == "met"
    assert Figure("x", samples, "s", Target("≤", 2), measure="max").verdict == "MISSED"
    assert Figure("a floor", samples, "s").verdict == ""


def test_a_quantile_is_a_sample_that_so_many_do_not_exceed() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile(list(map(float, range(1, 101))), 0.99) == 99.0
    assert quantile([5.0], 0.99) == 5.0


def test_each_comes_first_once() -> None:
    orders = [rotated(("a", "b", "c"), number) for number in range(3)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_the_table_has_figure_target_verdict_and_spread() -> None:
    figures = [
        Figure("calls: ours over bare", [1.5, 2.5, 3.5], "x", Target("≤", 2.0), note="it rained"),
        Figure("  calls, bare", [0.000123], "ms"),
        Figure("memory", [1234567.0], "", Target("≤", 2_000_000)),
    ]
    assert table(figures).splitlines() == [
        "figure                       value  target       verdict  spread",
        "calls: ours over bare        2.5 x  ≤ 2          MISSED   1.5 … 3.5  n=3  it rained",
        "  calls, bare          0.000123 ms",
        "memory                   1,234,567  ≤ 2,000,000  met",
    ]


def test_the_json_holds_the_samples_summary() -> None:
    document = json.loads(json.dumps(Figure("x", [1.0, 2.0, 9.0], "ms", Target("≤", 5), measure="max").document()))
    assert document["value"] == 9.0
    assert document["verdict"] == "MISSED"
    assert document["target"] == "≤ 5"
    assert document["samples"] == {"n": 3, "min": 1, "p25": 1, "median": 2, "p75": 9, "p99": 9, "max": 9}


def test_every_row_is_in_the_readme() -> None:
    readme = (TESTS / "benchmarks" / "README.md").read_text()
    assert [name for name in ROWS if f"`{name}`" not in readme] == []


def test_docker_run_gets_the_orchestrators_settings() -> None:
    """The floor is the same container, with every limit and all hardening."""
    model: dict[str, Any] = {
        "Image": "sha256:abc",
        "Config": {"User": "1:1", "Hostname": "plugin", "Env": ["A=b c"], "Volumes": {"/scratch": {}}},
        "HostConfig": {
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Tmpfs": {"/tmp": "rw,size=16m"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "5"}},
            "NetworkMode": "none",
            "Memory": 64,
            "MemorySwap": 64,
            "PidsLimit": 8,
            "ShmSize": 4,
            "IpcMode": "private",
            "ReadonlyRootfs": True,
        },
    }
    command = run_command(model, Path("/run/x"), "name")
    assert command[:3] == ["docker", "run", "--detach"]
    assert command[-1] == "sha256:abc"
    assert {
        "--env=A=b c",
        "--volume=/scratch",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--tmpfs=/tmp:rw,size=16m",
        "--log-opt=max-size=5",
        "--network=none",
        "--memory=64",
        "--memory-swap=64",
        "--pids-limit=8",
        "--read-only",
        "--mount=type=bind,source=/run/x,target=/run/plugin",
    } <= set(command)
