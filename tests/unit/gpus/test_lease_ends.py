"""The end of a lease: when the device is free again, and quarantine where it is not."""

from dataclasses import replace

import pytest
from unit.gpus.books import ONE, leases_of, refused, shared
from unit.gpus.looks import GIB, gpu, probed

from orchestrator.gpus import GpuDemand, Grant, LeaseTable
from orchestrator.gpus.inventory import FaultKind, GpuFault, GpuProcess
from orchestrator.gpus.memory import Holding


def test_a_lease_ends_only_when_a_later_probe_finds_the_memory_free():
    leases = leases_of(gpu(0, used=GIB))
    leases.grant("i1", "first", ONE)
    assert leases.release("i1", 10.0)
    refused(leases.grant("i2", "second", ONE), "is being released by the plugin first")
    assert leases.observe(probed(gpu(0, used=9 * GIB), at=11.0), 11.0) == ()
    refused(leases.grant("i2", "second", ONE), "is being released")
    assert leases.reclaiming
    (change,) = leases.observe(probed(gpu(0, used=GIB + 1000), at=12.0), 12.0)
    assert (change.state, change.uuid) == ("free", "GPU-0")
    assert not leases.reclaiming
    assert leases.grant("i2", "second", ONE).uuids == ("GPU-0",)


def test_a_probe_that_started_before_the_container_was_removed_proves_nothing():
    leases = leases_of(gpu(0))
    leases.grant("i1", "first", ONE)
    leases.release("i1", 10.0)
    assert leases.observe(probed(gpu(0), at=9.9), 10.5) == ()
    refused(leases.grant("i2", "second", ONE), "is being released")


def test_an_old_probe_that_arrives_late_is_ignored():
    leases = leases_of(gpu(0))
    leases.grant("i1", "first", ONE)
    leases.release("i1", 10.0)
    leases.observe(probed(gpu(0, used=9 * GIB), at=12.0), 12.0)
    assert leases.observe(probed(gpu(0), at=11.0), 12.5) == ()


def test_memory_that_is_not_freed_in_time_quarantines_the_gpu():
    leases = leases_of(gpu(0, used=GIB), gpu(1))
    leases.grant("i1", "first", GpuDemand(count=2))
    leases.release("i1", 10.0)
    leaking = probed(gpu(0, used=5 * GIB), gpu(1), at=41.0)
    changes = {change.uuid: change for change in leases.observe(leaking, 41.0)}
    assert changes["GPU-1"].state == "free"
    assert changes["GPU-0"].state == "quarantined"
    (sentence,) = leases.quarantines()
    for words in ("GPU 0", "plugin first", "5.0 GiB", "1.0 GiB were before", "nvidia-smi", "gpus --release GPU-0"):
        assert words in sentence
    leases.grant("i2", "second", ONE)
    refused(leases.grant("i3", "third", ONE), "GPU 0 is quarantined")
    refused(leases.grant("i4", "fourth", shared(GIB)), "GPU 0 is quarantined")
    assert leases.report()["GPU-0"]["state"] == "quarantined"


def test_a_quarantine_ends_by_itself_when_the_memory_is_free():
    leases = quarantined_leases()
    (change,) = leases.observe(probed(gpu(0), at=60.0), 60.0)
    assert change.state == "free"
    assert leases.quarantines() == ()
    assert isinstance(leases.grant("i2", "second", ONE), Grant)


def test_an_operator_can_release_a_quarantine_and_memory_in_use_then_is_the_new_baseline():
    leases = quarantined_leases()
    assert leases.release_quarantine("GPU-0")
    assert not leases.release_quarantine("GPU-0")
    assert not leases.release_quarantine("GPU-unknown")
    assert leases.grant("i2", "second", ONE).baselines == {"GPU-0": 5 * GIB}


def test_a_held_lease_cannot_be_released_from_quarantine():
    leases = leases_of(gpu(0))
    leases.grant("i1", "first", ONE)
    assert not leases.release_quarantine("GPU-0")
    assert leases.grant_of("i1")


def quarantined_leases():
    leases = leases_of(gpu(0))
    leases.grant("i1", "first", ONE)
    leases.release("i1", 10.0)
    leases.observe(probed(gpu(0, used=5 * GIB), at=50.0), 50.0)
    assert leases.quarantines()
    return leases


@pytest.mark.parametrize("late", [probed(at=50.0), probed(gpu(0, used=None), at=50.0)])
def test_a_gpu_that_cannot_be_seen_any_more_is_quarantined_too(late):
    leases = leases_of(gpu(0))
    leases.grant("i1", "first", ONE)
    leases.release("i1", 10.0)
    (change,) = leases.observe(late, 50.0)
    assert (change.state, "cannot be seen" in change.sentence) == ("quarantined", True)


def test_where_the_driver_reports_no_memory_the_lease_ends_with_its_container():
    leases = leases_of(gpu(0, total=None, used=None))
    leases.grant("i1", "first", ONE)
    leases.release("i1", 10.0)
    (change,) = leases.observe(probed(gpu(0, total=None, used=None), at=11.0), 11.0)
    assert change.state == "free"


def test_a_sharers_lease_ends_when_no_more_is_in_use_than_the_others_may_use():
    leases = leases_of(gpu(0, total=24 * GIB, used=GIB))
    leases.grant("i1", "stays", shared(8 * GIB))
    leases.grant("i2", "leaves", shared(8 * GIB))
    leases.release("i2", 10.0)
    assert leases.observe(probed(gpu(0, total=24 * GIB, used=14 * GIB), at=11.0), 11.0) == ()
    refused(leases.grant("i3", "third", shared(8 * GIB)), "free beside leaves, stays")
    (change,) = leases.observe(probed(gpu(0, total=24 * GIB, used=8 * GIB), at=12.0), 12.0)
    assert change.plugin == "leaves"
    assert isinstance(leases.grant("i3", "third", shared(8 * GIB)), Grant)


def test_a_repeated_release_changes_nothing():
    leases = leases_of(gpu(0))
    leases.grant("i1", "first", ONE)
    assert leases.release("i1", 10.0)
    assert leases.release("i1", 39.0)
    (change,) = leases.observe(probed(gpu(0, used=GIB), at=41.0), 41.0)
    assert change.state == "quarantined"  # counted from the first


def test_an_unknown_holder_releases_nothing():
    leases = leases_of(gpu(0))
    leases.grant("i1", "first", ONE)
    assert not leases.release("i9", 10.0)
    assert leases.grant_of("i1") is not None


def test_an_instance_that_released_its_gpus_gets_no_new_ones():
    leases = leases_of(gpu(0), gpu(1))
    leases.grant("i1", "first", ONE)
    leases.release("i1", 10.0)
    refused(leases.grant("i1", "first", ONE), "restart")


# Whose memory it is, where the driver names the processes

OURS, THEIRS = GpuProcess(11, 4 * GIB), GpuProcess(99, 7 * GIB)
OWNERS = {11: "i1", 99: ""}


def used_by(*processes, reserve=GIB, at=0.0):
    """A look at a GPU on which these processes hold memory, and the driver's own reserve is in use."""
    used = reserve + sum(process.memory or 0 for process in processes)
    return probed(gpu(0, used=used, processes=processes), at=at)


def leased(first=None):
    leases = LeaseTable()
    leases.observe(first or used_by(), 0.0, OWNERS)
    leases.grant("i1", "tracker", GpuDemand(memory=4 * GIB))
    return leases


def test_memory_that_another_program_took_meanwhile_is_no_reason_to_withhold_the_gpu():
    leases = leased()
    leases.observe(used_by(OURS, at=5.0), 5.0, OWNERS)
    leases.release("i1", 10.0)
    (change,) = leases.observe(used_by(THEIRS, at=11.0), 11.0, OWNERS)
    assert change.state == "free"
    assert isinstance(leases.grant("i2", "tracker", GpuDemand(memory=4 * GIB)), Grant)


def test_the_same_where_the_plugin_never_touched_its_gpu_and_all_memory_is_accounted_for():
    leases = leased()
    leases.release("i1", 10.0)
    (change,) = leases.observe(used_by(THEIRS, at=11.0), 11.0, OWNERS)
    assert change.state == "free"


def test_memory_of_its_own_process_is_waited_for_though_the_sum_is_as_before():
    leases = leased(used_by(THEIRS))
    leases.release("i1", 10.0)
    assert leases.observe(used_by(OURS, at=11.0), 11.0, OWNERS) == ()
    (change,) = leases.observe(used_by(OURS, at=41.0), 41.0, OWNERS)
    assert change.state == "quarantined"
    assert "11 still hold memory" in change.sentence
    assert "cannot be known" not in change.sentence


@pytest.mark.parametrize(
    ("look", "owners"),
    [
        # A list that is empty while memory is in use: a container without the host's processes.
        (probed(gpu(0, used=9 * GIB, processes=()), at=11.0), OWNERS),
        (probed(gpu(0, used=9 * GIB, processes=None), at=11.0), OWNERS),  # MIG
        (probed(gpu(0, used=9 * GIB, processes=(GpuProcess(99),)), at=11.0), OWNERS),  # WSL2: no bytes
        (probed(gpu(0, used=9 * GIB, processes=(GpuProcess(0, 8 * GIB),)), at=11.0), OWNERS),
        (used_by(THEIRS, at=11.0), {}),  # the engine did not say whose they are
    ],
)
def test_where_it_cannot_be_known_the_gpu_is_waited_for_and_that_is_said(look, owners):
    leases = leased()
    leases.release("i1", 10.0)
    assert leases.observe(look, 11.0, owners) == ()
    assert leases.unsure
    (change,) = leases.observe(replace(look, probe_started=41.0), 41.0, owners)
    assert (change.state, "cannot be known" in change.sentence) == ("quarantined", True)


def test_a_wait_for_a_process_that_is_known_is_not_unsure():
    leases = leased()
    leases.release("i1", 10.0)
    leases.observe(used_by(OURS, at=11.0), 11.0, OWNERS)
    assert not leases.unsure


@pytest.mark.parametrize(
    "look",
    [probed(gpu(1), at=11.0), probed(replace(gpu(0), fault=GpuFault(FaultKind.GPU_LOST, "Gone.")), at=11.0)],
    ids=["not listed", "lost"],
)
def test_a_lost_gpu_is_not_one_whose_users_are_unknown(look):
    """The driver lists no processes of it; to wait shows nothing."""
    leases = leased()
    leases.release("i1", 10.0)
    leases.observe(look, 11.0, OWNERS)
    assert not leases.unsure


def test_a_sharer_may_use_more_than_its_budget_when_the_other_leaves():
    leases = LeaseTable()
    leases.observe(used_by(), 0.0)
    leases.grant("i1", "leaves", shared(8 * GIB))
    leases.grant("i2", "stays", shared(8 * GIB))
    greedy = GpuProcess(22, 30 * GIB)
    owners = {11: "i1", 22: "i2"}
    leases.observe(used_by(OURS, greedy, at=5.0), 5.0, owners)
    holdings, others = leases.holdings("GPU-0")
    assert holdings == {"leaves": Holding(8 * GIB, 4 * GIB), "stays": Holding(8 * GIB, 30 * GIB)}
    assert others == 0
    leases.release("i1", 10.0)
    (change,) = leases.observe(used_by(greedy, at=11.0), 11.0, owners)
    assert change.plugin == "leaves"


def test_what_a_plugin_holds_is_unknown_until_it_is_in_the_list():
    leases = leased()
    assert leases.held_bytes("i1", "GPU-0") is None
    leases.observe(used_by(OURS, GpuProcess(12, GIB), at=5.0), 5.0, {11: "i1", 12: "i1"})
    assert leases.held_bytes("i1", "GPU-0") == 5 * GIB
    leases.observe(used_by(at=6.0), 6.0, {})
    assert leases.held_bytes("i1", "GPU-0") == 0


def test_a_restarted_orchestrator_judges_by_the_same_figures():
    leases = leased(used_by(THEIRS))
    grant = Grant.from_labels(leases.grant_of("i1").labels(), holder="i1", plugin="tracker")
    assert grant.listed == {"GPU-0": 7 * GIB}
    adopted = LeaseTable()
    adopted.observe(used_by(THEIRS, OURS, at=20.0), 20.0, {})
    assert adopted.adopt(grant)
    adopted.release("i1", 21.0)
    more = GpuProcess(98, 20 * GIB)
    (change,) = adopted.observe(used_by(THEIRS, more, at=22.0), 22.0, {**OWNERS, 98: ""})
    assert change.state == "free"


# Memory that is the machine's


def test_plugins_share_the_memory_of_a_machine_whose_gpu_has_none_of_its_own():
    unified = gpu(0, total=None, used=None, system_memory_total=120 * GIB, system_memory_used=20 * GIB)
    leases = leases_of(unified)
    assert isinstance(leases.grant("i1", "first", shared(60 * GIB)), Grant)
    assert leases.report()["GPU-0"]["memory_available_bytes"] == 40 * GIB
    refused(leases.grant("i2", "second", shared(50 * GIB)), "40.0 GiB of its 120.0 GiB free beside first")
    assert isinstance(leases.grant("i3", "third", shared(40 * GIB)), Grant)
    # Programs of the whole machine use it: its use says nothing about a lease's end.
    leases.release("i1", 10.0)
    (change,) = leases.observe(probed(replace(unified, system_memory_used=100 * GIB), at=11.0), 11.0)
    assert change.state == "free"
