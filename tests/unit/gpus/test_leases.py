"""Grants, refusals, sharing and MIG instances of GPUs, and their report in the API."""

from dataclasses import replace

import pytest
from unit.gpus.books import ONE, leases_of, refused, shared, split_gpu
from unit.gpus.looks import GIB, gpu, probed

from orchestrator.gpus import GpuDemand, GpuProblem, Grant, LeaseTable
from orchestrator.gpus.inventory import FaultKind, GpuFault
from orchestrator.lifecycle import ReasonCode

# Grants


def test_two_plugins_never_get_one_gpu():
    leases = leases_of(gpu(0), gpu(1))
    assert leases.grant("i1", "first", ONE).uuids == ("GPU-0",)
    assert leases.grant("i2", "second", ONE).uuids == ("GPU-1",)


def test_a_refusal_names_who_holds_what_and_what_to_do():
    leases = leases_of(gpu(0), gpu(1))
    leases.grant("i1", "first", ONE)
    leases.grant("i2", "second", ONE)
    sentence = refused(
        leases.grant("i3", "third", ONE), "GPU 0 is held by the plugin first", "GPU 1 is held by the plugin second"
    )
    assert sentence.endswith("Stop a plugin that has one, then restart the plugin.")


def test_a_plugin_can_have_several():
    leases = leases_of(gpu(0), gpu(1), gpu(2))
    leases.grant("i1", "first", ONE)
    assert leases.grant("i2", "second", GpuDemand(count=2)).uuids == ("GPU-1", "GPU-2")


def test_a_demand_that_cannot_be_met_in_full_gets_no_device():
    leases = leases_of(gpu(0), gpu(1))
    leases.grant("i1", "first", ONE)
    refused(leases.grant("i2", "second", GpuDemand(count=2)), "2 GPUs", "GPU 1 would do")
    assert leases.grant("i3", "third", ONE).uuids == ("GPU-1",)


def test_a_repeated_grant_is_the_same():
    leases = leases_of(gpu(0), gpu(1))
    assert leases.grant("i1", "first", ONE) == leases.grant("i1", "first", ONE)
    assert len(leases.claims) == 1


def test_the_smallest_device_that_suffices_is_granted():
    leases = leases_of(gpu(0, total=80 * GIB), gpu(1, total=16 * GIB), gpu(2, total=24 * GIB))
    assert leases.grant("i1", "first", GpuDemand(memory=20 * GIB)).uuids == ("GPU-2",)
    assert leases.grant("i2", "second", ONE).uuids == ("GPU-1",)


def test_memory_that_others_use_is_not_free():
    leases = leases_of(gpu(0, total=24 * GIB, used=20 * GIB))
    refused(
        leases.grant("i1", "first", GpuDemand(memory=8 * GIB)),
        "GPU 0 has 4.0 GiB of its 24.0 GiB free",
        "8.0 GiB",
        "Free a GPU",
    )


def test_where_the_driver_reports_no_memory_an_exclusive_plugin_gets_the_gpu_and_a_shared_one_does_not():
    leases = leases_of(gpu(0, total=None, used=None))
    answer = leases.grant("i1", "first", shared(GIB))
    assert (answer.code, "does not report its memory" in answer.sentence) == (ReasonCode.GPU_DRIVER_ERROR, True)
    assert "gpu.sharing: exclusive" in answer.sentence  # nothing is busy, and nothing can be freed
    assert isinstance(leases.grant("i2", "second", GpuDemand(memory=8 * GIB)), Grant)


def test_a_gpu_out_of_order_is_granted_to_nobody():
    leases = leases_of(gpu(0, fault=GpuFault(FaultKind.GPU_LOST, "GPU is lost")))
    refused(leases.grant("i1", "first", ONE), "out of order (GPU is lost)")


def test_what_is_wrong_with_the_host_is_the_answer_to_every_demand():
    problem = GpuProblem(ReasonCode.GPU_DRIVER_ERROR, "The driver is broken.")
    leases = LeaseTable()
    leases.observe(probed(problem=problem), 0.0)
    assert leases.grant("i1", "first", ONE) is problem


def test_nothing_is_granted_before_the_first_probe():
    assert LeaseTable().grant("i1", "first", ONE).code is ReasonCode.GPU_DRIVER_ERROR


# Sharing


def test_sharers_get_one_gpu_as_long_as_its_memory_lasts():
    leases = leases_of(gpu(0, total=24 * GIB, used=GIB), gpu(1, total=24 * GIB, used=GIB))
    for number in range(2):
        assert leases.grant(f"i{number}", f"p{number}", shared(10 * GIB)).uuids == ("GPU-0",)
    assert leases.grant("i2", "p2", shared(10 * GIB)).uuids == ("GPU-1",)
    leases.grant("i3", "p3", shared(10 * GIB))
    refused(leases.grant("i4", "p4", shared(10 * GIB)), "GPU 0 has 3.0 GiB of its 24.0 GiB free beside p0, p1")
    assert leases.grant("i5", "p5", shared(3 * GIB)).uuids == ("GPU-0",)


def test_a_sharer_that_uses_more_than_its_budget_leaves_less_for_others():
    leases = leases_of(gpu(0, total=24 * GIB))
    leases.grant("i1", "greedy", shared(4 * GIB))
    leases.observe(probed(gpu(0, total=24 * GIB, used=20 * GIB), at=1.0), 1.0)
    refused(leases.grant("i2", "second", shared(8 * GIB)), "4.0 GiB of its 24.0 GiB free beside greedy")


def test_exclusive_and_shared_never_meet():
    leases = leases_of(gpu(0))
    leases.grant("i1", "sharer", shared(GIB))
    refused(leases.grant("i2", "loner", ONE), "GPU 0 is shared by the plugin sharer")
    leases = leases_of(gpu(0))
    leases.grant("i1", "loner", ONE)
    refused(leases.grant("i2", "sharer", shared(GIB)), "GPU 0 is held by the plugin loner")


def test_a_sharer_that_names_no_memory_gets_the_gpu_for_itself():
    leases = leases_of(gpu(0))
    assert leases.grant("i1", "vague", shared(None)).sharing == "exclusive"
    refused(leases.grant("i2", "second", shared(GIB)), "held by the plugin vague")


# MIG


def test_mig_instances_of_a_split_gpu_are_granted_and_never_the_whole():
    leases = leases_of(*split_gpu(0, 1))
    assert [leases.grant(f"i{n}", f"p{n}", ONE).uuids for n in range(2)] == [("MIG-0-0",), ("MIG-0-1",)]
    sentence = refused(leases.grant("i2", "third", ONE), "GPU 0 MIG 0 is held by the plugin p0")
    assert "split into" not in sentence  # the reasons of its MIG instances suffice


def test_a_split_gpu_without_mig_instances_is_refused_as_split():
    refused(leases_of(*split_gpu()).grant("i1", "first", ONE), "GPU 0 is split into MIG instances")


def test_a_slice_goes_before_a_whole_gpu():
    leases = leases_of(gpu(1), *split_gpu(0))
    assert leases.grant("i1", "first", ONE).uuids == ("MIG-0-0",)
    assert leases.grant("i2", "second", GpuDemand(memory=40 * GIB)).uuids == ("GPU-1",)


def test_several_gpus_are_never_several_slices_since_cuda_sees_only_one():
    leases = leases_of(*split_gpu(0, 1), gpu(1))
    refused(leases.grant("i1", "first", GpuDemand(count=2)), "can use only one")


def test_a_gpu_that_is_unsplit_under_a_lease_on_its_mig_instance_is_not_granted():
    leases = leases_of(*split_gpu(0))
    leases.grant("i1", "first", ONE)
    leases.observe(probed(gpu(0, mig_enabled=False), at=1.0), 1.0)
    refused(leases.grant("i2", "second", ONE), "held by the plugin first")
    assert leases.report()["GPU-0"]["state"] == "unusable"


def test_mig_instances_of_a_gpu_that_is_split_under_a_lease_are_not_granted():
    leases = leases_of(gpu(0, mig_enabled=False))
    leases.grant("i1", "first", ONE)
    leases.observe(probed(*split_gpu(0, 1), at=1.0), 1.0)
    refused(leases.grant("i2", "second", ONE), "held by the plugin first")


# The API's report


def test_the_report_shows_every_device_and_its_holders():
    leases = leases_of(gpu(0), gpu(1, total=24 * GIB, used=GIB))
    leases.grant("i1", "first", shared(8 * GIB))
    report = leases.report()
    assert report["GPU-0"] == {"state": "free", "memory_available_bytes": 80 * GIB, "holders": []}
    assert report["GPU-1"] == {
        "state": "held",
        "memory_available_bytes": 15 * GIB,
        "holders": [
            {"plugin": "first", "instance": "i1", "sharing": "shared", "memory_bytes": 8 * GIB, "phase": "held"}
        ],
    }
    leases.release("i1", 1.0)
    assert leases.report()["GPU-1"]["state"] == "draining"


# Too few are healthy

UNKNOWN = GpuFault(FaultKind.UNKNOWN, "Unknown Error", 999)


@pytest.mark.parametrize(
    ("fault", "code"), [(UNKNOWN, "GPU_DRIVER_ERROR"), (GpuFault(FaultKind.GPU_LOST, "GPU is lost", 15), "GPU_LOST")]
)
@pytest.mark.parametrize("identified", [True, False])
def test_a_plugin_that_needs_the_sick_gpu_too_is_told_which_it_is(fault, code, identified):
    leases = LeaseTable()
    look = probed(gpu(0), *((gpu(1, fault=fault),) if identified else ()))
    leases.observe(replace(look, unidentified={} if identified else {1: fault}), 0.0)
    answer = leases.grant("i1", "first", GpuDemand(count=2))
    assert answer.code == code
    for words in ("1 usable GPUs", "needs 2", "GPU 1", fault.message, "nvidia-smi -r -i 1", "restart the plugin"):
        assert words in answer.sentence
    assert isinstance(leases.grant("i2", "second", ONE), Grant)


def test_where_all_healthy_gpus_are_leased_the_sick_one_is_named_besides():
    leases = LeaseTable()
    leases.observe(replace(probed(gpu(0)), unidentified={1: UNKNOWN}), 0.0)
    leases.grant("i1", "first", ONE)
    refused(leases.grant("i2", "second", ONE), "held by the plugin first", "GPU 1 is out of order", "Unknown Error")


def test_more_gpus_than_the_host_has_are_no_matter_of_the_sick_one():
    leases = LeaseTable()
    leases.observe(replace(probed(gpu(0)), unidentified={1: UNKNOWN}), 0.0)
    refused(leases.grant("i1", "first", GpuDemand(count=5)), "demand less")
