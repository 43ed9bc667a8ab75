"""A fault is refused where the plugin could never have it, and says what would do."""

import pytest

from orchestrator.lifecycle import ReasonCode
from orchestrator.simulation.faults import PLACES, Fault, FaultRefusedError, Place, require_possible


@pytest.mark.parametrize("code", ReasonCode)
def test_each_reason_code_can_be_asked_for(code: ReasonCode) -> None:
    assert Fault.of({"plugin": "p", "code": code.value}).place is PLACES[code]


@pytest.mark.parametrize(
    ("fields", "restarts"),
    [
        ({"code": "TOOL_ERROR"}, False),
        ({"code": "TIMEOUT"}, False),
        ({"code": "TIMEOUT", "limit": 1.0}, True),
        ({"code": "INIT_ERROR"}, True),
        ({"code": "SECRET_MISSING"}, True),
        ({"code": "ENGINE_UNREACHABLE"}, True),
        ({"code": "GPU_NOT_FOUND"}, True),
        ({"code": "GPU_BUSY"}, True),
        ({"code": "GPU_LOST"}, False),
        ({"code": "GPU_LOST", "after": 2}, False),
        ({"code": "STOPPED"}, False),
    ],
)
def test_what_is_in_the_start_restarts_the_plugin(fields: dict, restarts: bool) -> None:
    assert Fault.of({"plugin": "p", **fields}).restarts is restarts


def test_a_gpu_is_lost_at_once_or_in_a_call() -> None:
    assert Fault("p", "GPU_LOST").place is Place.LOSS
    assert Fault("p", "GPU_LOST", after=2).place is Place.CALL


def test_a_start_that_never_ends_has_two_seconds() -> None:
    """Else each such test would take as long as the plugin's own limit."""
    assert Fault.of({"plugin": "p", "code": "STARTUP_TIMEOUT"}).limit == 2.0
    assert Fault.of({"plugin": "p", "code": "STARTUP_TIMEOUT", "limit": 7.0}).limit == 7.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"code": "OOM"}, "no reason code"),
        ({"code": "INIT_ERROR", "after": 2}, "happens in no call"),
        ({"code": "INIT_ERROR", "tool": "run"}, "happens in no call"),
        ({"code": "CRASHED", "limit": 2.0}, "has no `limit`"),
        ({"code": "CRASHED", "when": "now"}, "when"),
        ({}, "a code"),
    ],
)
def test_what_means_nothing_is_refused(fields: dict, words: str) -> None:
    with pytest.raises(FaultRefusedError, match=words):
        Fault.of({"plugin": "p", **fields})


def require(code: str, *, requires_gpu=True, gpus=True, python=True, tool=None, tools=("detect",)) -> None:
    fault = Fault("detector", code, tool=tool)
    require_possible(fault, requires_gpu=requires_gpu, gpus=gpus, python=python, tools=frozenset(tools))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"code": "GPU_LOST", "requires_gpu": False}, "gpu=True"),
        ({"code": "GPU_NOT_FOUND", "gpus": False}, "gpus="),
        ({"code": "CRASHED", "python": False}, "Python runtime"),
        ({"code": "BUILD_FAILED", "python": False}, "Python runtime"),
        ({"code": "CRASHED", "tool": "detct"}, "Its tools: detect"),
    ],
)
def test_what_this_plugin_cannot_have_is_refused_with_what_would_do(given: dict, words: str) -> None:
    with pytest.raises(FaultRefusedError, match=words):
        require(**given)


def test_everything_else_is_possible() -> None:
    """Also where the tools are not known yet."""
    require("CRASHED", requires_gpu=False, gpus=False, tool="detect")
    require("CRASHED", tool="detect", tools=())
    require("SECRET_MISSING", python=False)
