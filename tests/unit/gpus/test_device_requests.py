"""Device requests for granted devices: the ways of an engine in their order, and the names of CDI devices."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.gpus import GpuDevice, GpuInventory
from orchestrator.gpus.device_requests import EngineGpus, device_requests
from orchestrator.gpus.inventory import FaultKind, GpuFault

A, B, MIG = "GPU-aaaa", "GPU-bbbb", "MIG-cccc"
GPU_A, GPU_B = GpuDevice(A, 0), GpuDevice(B, 1)
SPLIT = (replace(GPU_B, mig_enabled=True), GpuDevice(MIG, 1, mig_index=2, parent_uuid=B))


def look(*devices: GpuDevice, **facts: object) -> GpuInventory:
    return GpuInventory(devices, datetime.now(UTC), time.monotonic(), **facts)


def ways(drivers: tuple[str, ...], **choice: object) -> list[str]:
    return list(dict.fromkeys(each.driver for each in device_requests([A], EngineGpus(drivers), **choice)))


@pytest.mark.parametrize(
    ("drivers", "order"),
    [
        (("nvidia",), ["nvidia", "runtime"]),
        (("nvidia", "cdi"), ["nvidia", "cdi", "runtime"]),
        (("cdi",), ["cdi", "nvidia"]),
        ((), ["nvidia"]),  # it does not report a hook on its PATH
    ],
)
def test_what_the_engine_tells_gives_the_order(drivers, order):
    assert ways(drivers) == order


def test_an_engine_that_ignores_device_requests_gets_none():
    """Podman starts the container without its GPU."""
    only_cdi = EngineGpus(("cdi",), only_cdi=True)
    assert [each.driver for each in device_requests([A], only_cdi)] == ["cdi"]
    assert device_requests([A], EngineGpus((), only_cdi=True)) == ()


@pytest.mark.parametrize("forced", ["nvidia", "cdi", "runtime"])
def test_a_forced_way_is_the_only_one(forced):
    assert ways(("nvidia", "cdi"), forced=forced) == [forced]


def test_the_way_that_worked_is_tried_first_the_next_time():
    assert ways(("nvidia", "cdi"), worked="cdi") == ["cdi", "nvidia", "runtime"]
    assert ways(("nvidia", "cdi"), worked="runtime") == ["runtime", "nvidia", "cdi"]


def test_nvidia_takes_uuids_as_they_are():
    assert device_requests([A, MIG], EngineGpus(("nvidia",)))[0].device_ids == (A, MIG)


@pytest.mark.parametrize(
    ("uuids", "devices", "listed", "names"),
    [
        ([A], (GPU_A, GPU_B), ("0", "1", A, B, "all"), [A]),
        ([B], (GPU_A, GPU_B), ("0", "1", "all"), ["1"]),
        ([B, A], (GPU_A, GPU_B), ("0", "1", "all"), ["1", "0"]),
        ([A, B], (GPU_A, GPU_B), ("all",), ["all"]),  # WSL2 has no other name
        ([A], (GPU_A,), ("all",), ["all"]),
        ([A], (GPU_A, GPU_B), ("all",), None),  # it would have both
        ([A], (GPU_A, GPU_B), ("1", "all"), None),
        ([MIG], (GPU_A, *SPLIT), ("0", "1:2", "all"), ["1:2"]),
        ([MIG], SPLIT, ("all",), None),
        ([A], (GPU_A,), (), None),
    ],
)
def test_cdi_names_are_of_those_that_the_engine_lists(uuids, devices, listed, names):
    engine = EngineGpus(("cdi",), tuple(f"nvidia.com/gpu={name}" for name in listed))
    requests = device_requests(uuids, engine, look(*devices), forced="cdi")
    assert [each.device_ids for each in requests] == (
        [] if names is None else [tuple(f"nvidia.com/gpu={name}" for name in names)]
    )


def test_a_gpu_that_does_not_report_its_uuid_counts_as_another_one():
    engine = EngineGpus(("cdi",), ("nvidia.com/gpu=all",))
    sick = look(GPU_A, unidentified={1: GpuFault(FaultKind.GPU_LOST)})
    assert device_requests([A], engine, sick, forced="cdi") == ()


def test_an_engine_that_lists_no_names_is_asked_by_each_kind_of_them():
    """Docker 25 to 28.1."""
    requests = device_requests([A], EngineGpus(("cdi",)), look(GPU_A), forced="cdi")
    assert [each.device_ids for each in requests] == [
        ("nvidia.com/gpu=GPU-aaaa",),
        ("nvidia.com/gpu=0",),
        ("nvidia.com/gpu=all",),
    ]
    of_two = device_requests([A], EngineGpus(("cdi",)), look(GPU_A, GPU_B), forced="cdi")
    assert ("nvidia.com/gpu=all",) not in [each.device_ids for each in of_two]


def test_the_runtime_is_asked_by_uuid_then_by_index():
    requests = device_requests([MIG], EngineGpus(("nvidia",)), look(*SPLIT), forced="runtime")
    assert [each.device_ids for each in requests] == [(MIG,), ("1:2",)]


def test_devices_that_the_last_look_did_not_find_have_only_their_uuids():
    requests = device_requests([A, "GPU-gone"], EngineGpus(("cdi",)), look(GPU_A), forced="cdi")
    assert [each.device_ids for each in requests] == [("nvidia.com/gpu=GPU-aaaa", "nvidia.com/gpu=GPU-gone")]


def test_the_video_engine_is_requested_only_where_demanded():
    assert device_requests([A], EngineGpus())[0].capabilities == ("gpu", "compute", "utility")
    assert device_requests([A], EngineGpus(), video=True)[0].capabilities == ("gpu", "compute", "utility", "video")


def test_a_request_for_no_device_is_refused_because_it_would_mean_all():
    with pytest.raises(ValueError, match="at least one"):
        device_requests([], EngineGpus(("nvidia",)))
