"""What `doctor` says of GPUs and how the engine can hand them out."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.audit.findings import Finding, Level
from orchestrator.cli.doctor_gpus import GpuFacts, GpuNeed, gpus
from orchestrator.gpus import GpuDemand, GpuDevice, GpuInventory, GpuProblem
from orchestrator.gpus.device_requests import EngineGpus
from orchestrator.gpus.evidence import NodeAccess
from orchestrator.gpus.inventory import FaultKind, GpuFault
from orchestrator.lifecycle import ReasonCode

LOOK = GpuInventory((GpuDevice("GPU-a", 0), GpuDevice("GPU-b", 1)), datetime.now(UTC), time.monotonic(), "550", "12.4")
NEEDS = [GpuNeed("tracker", GpuDemand(), 1)]
GOOD = GpuFacts(LOOK, EngineGpus(("nvidia",)))


def found(check: str, **facts: object) -> Finding | None:
    return next((each for each in gpus(replace(GOOD, **facts), NEEDS) if each.check == check), None)


def test_a_host_without_a_gpu_says_so_and_no_more():
    problem = GpuProblem(ReasonCode.GPU_NOT_FOUND, "This host has no NVIDIA GPU, then restart the plugin.")
    facts = replace(GOOD, inventory=replace(LOOK, devices=(), problem=problem), nodes=NodeAccess((44,)))
    (finding,) = gpus(facts, NEEDS)
    assert (finding.level, "needed by tracker" in finding.sentence) == (Level.WARNING, True)
    assert [each.level for each in gpus(facts, [])] == [Level.OK]


@pytest.mark.parametrize(
    ("engine", "forced", "level", "phrases"),
    [
        (EngineGpus(("nvidia",)), None, Level.OK, ["device requests, then the runtime `nvidia`"]),
        (EngineGpus(("nvidia", "cdi")), None, Level.OK, ["device requests, then CDI devices, then the runtime"]),
        (EngineGpus(("nvidia", "cdi")), "cdi", Level.OK, ["CDI devices"]),
        (EngineGpus(), None, Level.WARNING, ["no GPU driver", "container toolkit"]),
        (EngineGpus(("nvidia",)), "cdi", Level.WARNING, ["ORCHESTRATOR_GPU_DRIVER"]),
        (EngineGpus((), only_cdi=True), None, Level.WARNING, ["Podman 5.4"]),
        (
            EngineGpus(("cdi",), ("nvidia.com/gpu=all",), only_cdi=True),
            None,
            Level.WARNING,
            ["--device-name-strategy=uuid"],
        ),
        (
            EngineGpus(("cdi",), ("nvidia.com/gpu=0", "nvidia.com/gpu=1"), only_cdi=True),
            None,
            Level.OK,
            ["CDI devices"],
        ),
    ],
)
def test_the_ways_of_the_engine_are_told(engine, forced, level, phrases):
    finding = found("engine", engine=engine, forced=forced)
    assert finding.level is level
    assert [phrase for phrase in phrases if phrase not in finding.sentence] == []
    assert "plugin." not in finding.sentence


@pytest.mark.parametrize(
    ("facts", "level", "phrase"),
    [
        ({"nodes": NodeAccess((44,))}, Level.OK, "group 44"),
        ({"nodes": NodeAccess((44,)), "same_groups": False}, Level.WARNING, "ORCHESTRATOR_GPU_GROUPS"),
        ({"nodes": NodeAccess((44,)), "same_groups": False, "groups": (44,)}, Level.OK, "group 44"),
        ({"nodes": NodeAccess((), ("/dev/nvidia0",))}, Level.ERROR, "only root may open /dev/nvidia0"),
    ],
)
def test_nodes_that_are_not_for_everybody_are_told(facts, level, phrase):
    finding = found("device nodes", **facts)
    assert (finding.level, phrase in finding.sentence) == (level, True)


def test_nodes_for_everybody_are_not():
    assert found("device nodes") is None


def test_what_a_running_orchestrator_met_is_told():
    reported = {"served_by": "cdi", "refused": {"nvidia": "The engine refused."}}
    assert found("served by", reported=reported).sentence == "CDI devices"
    assert found("refused (nvidia)", reported=reported).level is Level.OK
    assert found("refused (nvidia)", reported={**reported, "served_by": None}).level is Level.WARNING


def test_a_sick_gpu_is_named_beside_the_ones_that_serve():
    sick = {1: GpuFault(FaultKind.UNKNOWN, "Unknown Error", 999)}
    facts = replace(GOOD, inventory=replace(LOOK, devices=(GpuDevice("GPU-a", 0),), unidentified=sick))
    findings = list(gpus(facts, NEEDS))
    (named,) = [finding for finding in findings if finding.level is Level.WARNING]
    assert "Unknown Error" in str(named)
    assert any("GPU 0; driver 550" in str(finding) for finding in findings)


@pytest.mark.parametrize(
    ("look", "said"),
    [
        ({"seconds": 25.0}, "nvidia-smi -pm 1"),
        ({"old_binding": "the package pynvml 11.5.0"}, "pip uninstall pynvml"),
        ({"seconds": 0.4}, None),
    ],
)
def test_a_slow_driver_and_an_old_binding_are_named_with_the_remedy(look, said):
    findings = gpus(replace(GOOD, inventory=replace(LOOK, **look)), [])
    named = [finding.sentence for finding in findings if finding.level is Level.WARNING]
    assert [said in sentence for sentence in named] == ([True] if said else [])


GIB = 2**30


@pytest.mark.parametrize(
    ("replicas", "demand", "said"),
    [
        (2, GpuDemand(), None),
        (3, GpuDemand(), "it wants 3 instances (`replicas`) with 1 GPU each, and the usable GPUs"),
        (1, GpuDemand(2), None),
        (2, GpuDemand(2), "with 2 GPUs each, and the usable GPUs of this host have room for 1,"),
        (1, GpuDemand(3), "it wants one instance with 3 GPUs, and the usable GPUs of this host have room for none"),
        (4, GpuDemand(1, 8 * GIB, "shared"), None),
        (5, GpuDemand(1, 8 * GIB, "shared"), "with 1 GPU each with 8.0 GiB, and the usable GPUs"),
        (1, GpuDemand(1, 25 * GIB), "room for none"),
    ],
)
def test_replicas_that_the_host_has_no_room_for_are_a_warning(replicas, demand, said):
    """Not an error: those that fit serve, and the plugin is degraded."""
    devices = tuple(GpuDevice(f"GPU-{n}", n, memory_total=total * GIB) for n, total in enumerate((24, 12)))
    facts = replace(GOOD, inventory=replace(LOOK, devices=devices))
    findings = [each for each in gpus(facts, [GpuNeed("reader", demand, replicas)]) if each.check == "reader"]
    assert [each.level for each in findings] == ([] if said is None else [Level.WARNING])
    assert said is None or said in findings[0].sentence
