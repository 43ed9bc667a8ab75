"""When a look at a GPU that failed ends the plugin that runs on it, and when it does not."""

from dataclasses import replace

import pytest
from unit.gpus.looks import gpu, mig_instance, probed

from orchestrator.gpus.host_check import judge_running
from orchestrator.gpus.inventory import FaultKind, GpuFault
from orchestrator.gpus.losses import LOST_AFTER_LOOKS, LOST_AFTER_SECONDS, LossWatch
from orchestrator.lifecycle import ReasonCode

UNKNOWN = GpuFault(FaultKind.UNKNOWN, "Unknown Error", 999)
TIMEOUT = GpuFault(FaultKind.UNKNOWN, "Timeout", 10)
IN_USE = GpuFault(FaultKind.UNKNOWN, "In use by another client", 19)
LOST = GpuFault(FaultKind.GPU_LOST, "GPU is lost", 15)
RESET = GpuFault(FaultKind.GPU_LOST, "GPU requires reset", 16)
HELD = ("GPU-0",)


def look(*devices, at=0.0, unidentified=None, earlier=None, **more):
    inventory = replace(probed(*devices, at=at), unidentified=unidentified or {}, **more)
    return inventory.with_identities_of(earlier)


def looks(*inventories, held=HELD):
    """What is said after each of these looks."""
    watch = LossWatch()
    for inventory in inventories:
        watch.observe(held, inventory)
        yield watch.judge(held, inventory)


@pytest.mark.parametrize("fault", [UNKNOWN, TIMEOUT, IN_USE])
def test_one_failed_look_ends_nothing_and_is_reported(fault):
    watch = LossWatch()
    inventory = look(gpu(1), unidentified={0: fault}, earlier=look(gpu(0), gpu(1)))
    watch.observe(HELD, inventory)
    assert watch.judge(HELD, inventory) is None
    assert fault.message in watch.doubts["GPU-0"].sentence
    watch.observe(HELD, look(gpu(0), gpu(1), at=2.0))
    assert watch.doubts == {}


def test_looks_that_fail_in_a_row_for_long_end_it_with_the_drivers_words():
    healthy = look(gpu(0))
    failed = [look(unidentified={0: TIMEOUT}, at=2.0 * i, earlier=healthy) for i in range(1, 8)]
    answers = list(looks(healthy, *failed))
    # Five looks from 2 s to 10 s are not 10 s long; the sixth is.
    assert answers[:6] == [None] * 6
    assert answers[6].code is ReasonCode.GPU_LOST
    for words in ("GPU 0 (GPU-0)", "Timeout", "NVML error 10", "6 looks", "nvidia-smi -r"):
        assert words in answers[6].sentence


def test_many_fast_looks_do_not_end_it_sooner():
    """While the memory of another GPU is awaited, looks are four a second."""
    healthy = look(gpu(0))
    failed = [look(unidentified={0: UNKNOWN}, at=0.25 * i, earlier=healthy) for i in range(1, 30)]
    assert set(looks(healthy, *failed)) == {None}
    assert len(failed) > LOST_AFTER_LOOKS
    assert failed[-1].probe_started < LOST_AFTER_SECONDS


def test_a_good_look_between_counts_from_the_start_again():
    healthy = [look(gpu(0), at=4.0 * i) for i in range(10)]
    failed = [look(unidentified={0: UNKNOWN}, at=4.0 * i + 2, earlier=healthy[0]) for i in range(10)]
    assert set(looks(*(each for pair in zip(healthy, failed, strict=True) for each in pair))) == {None}


def test_a_probe_that_failed_as_a_whole_counts_neither_way():
    healthy = look(gpu(0))
    failed = [look(unidentified={0: UNKNOWN}, at=4.0 * i, earlier=healthy) for i in range(1, 6)]
    hung = probed(at=9.0)
    hung = replace(hung, fault=GpuFault(FaultKind.HANG, "no answer"))
    answers = list(looks(healthy, *failed[:2], hung, *failed[2:]))
    assert answers[3] is None
    assert answers[-1] is not None


@pytest.mark.parametrize("fault", [LOST, RESET])
def test_a_gpu_that_is_lost_or_requires_a_reset_ends_it_at_once(fault):
    (_, problem) = looks(look(gpu(0)), look(unidentified={0: fault}, earlier=look(gpu(0)), at=2.0))
    assert problem.code is ReasonCode.GPU_LOST
    assert fault.message in problem.sentence
    (problem,) = looks(look(gpu(0, fault=fault)))
    assert problem.code is ReasonCode.GPU_LOST


def test_a_count_that_fell_ends_it_at_once():
    (_, problem) = looks(look(gpu(0), gpu(1)), look(gpu(1), at=2.0, earlier=look(gpu(0), gpu(1))))
    assert problem.code is ReasonCode.GPU_LOST
    assert "GPU-0" in problem.sentence


def test_where_the_count_fell_an_index_does_not_say_which_gpu_it_is():
    """The others move up: the one that does not say which it is may be any of them."""
    earlier = look(gpu(0), gpu(1), gpu(2))
    inventory = look(gpu(0), unidentified={1: UNKNOWN}, earlier=earlier)
    assert inventory.find("GPU-1") is None
    assert judge_running(("GPU-1",), inventory) is None
    assert judge_running(("GPU-2",), inventory) is None
    assert judge_running(("GPU-0",), inventory) is None


def test_an_error_of_the_driver_on_one_device_ends_nothing():
    """After an upgrade the library differs from the module; what has the GPU open computes on."""
    mismatch = GpuFault(FaultKind.VERSION_MISMATCH, "Driver/library version mismatch", 18)
    assert set(looks(*(look(gpu(0, fault=mismatch), at=4.0 * i) for i in range(9)))) == {None}


def test_the_neighbours_failed_look_is_not_ones_own():
    healthy = look(gpu(0), gpu(1))
    failed = [look(gpu(0), unidentified={1: UNKNOWN}, at=4.0 * i, earlier=healthy) for i in range(1, 9)]
    assert set(looks(*failed)) == {None}


def test_a_mig_instance_shares_the_doubt_about_its_gpu():
    whole, split = gpu(0, mig_enabled=True), mig_instance(0, 0)
    healthy = look(whole, split)
    failed = look(unidentified={0: UNKNOWN}, earlier=healthy)
    assert failed.find("MIG-0-0").fault == UNKNOWN
    assert judge_running(("MIG-0-0",), failed) is None
    unlisted = look(replace(whole, fault=UNKNOWN), earlier=healthy)
    assert judge_running(("MIG-0-0",), unlisted) is None
    lost = look(replace(whole, fault=LOST), earlier=healthy)
    assert judge_running(("MIG-0-0",), lost).code is ReasonCode.GPU_LOST


def test_a_mig_instance_that_is_not_listed_on_a_healthy_gpu_is_gone():
    healthy = look(gpu(0, mig_enabled=True), mig_instance(0, 0))
    problem = judge_running(("MIG-0-0",), look(gpu(0, mig_enabled=True), earlier=healthy))
    assert problem.code is ReasonCode.GPU_LOST


def test_an_identity_is_carried_on_with_name_address_and_the_newest_xid():
    earlier = look(gpu(0, name="A100", pci_bus_id="00000000:65:00.0", used=1))
    inventory = look(unidentified={0: LOST}, earlier=earlier, xids={"0000:65:00": 79})
    (device,) = inventory.devices
    assert (device.name, device.last_xid, device.fault, device.memory_used) == ("A100", 79, LOST, None)
    assert inventory.unidentified == {}
    assert "Xid 79" in judge_running(HELD, inventory).sentence
