"""The end of a lease: when the device is free again, and quarantine where it is not."""

import pytest
from unit.gpus.books import ONE, leases_of, refused, shared
from unit.gpus.looks import GIB, gpu, probed

from orchestrator.gpus import GpuDemand, Grant


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
