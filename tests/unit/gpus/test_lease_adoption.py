"""Leases over a restart of the orchestrator."""

import json

import pytest
from unit.gpus.books import ONE, leases_of, refused, split_gpu
from unit.gpus.looks import GIB, gpu, probed

from orchestrator.gpus import GpuDemand, Grant, LeaseTable
from orchestrator.gpus.claims import LABEL_GPUS


def test_a_running_container_keeps_its_lease_over_a_restart():
    leases = leases_of(gpu(0, used=GIB), gpu(1, used=GIB))
    grant = leases.grant("i1", "first", GpuDemand(memory=8 * GIB))
    labels = grant.labels()
    again = LeaseTable()
    assert again.adopt(Grant.from_labels(labels, holder="i1", plugin="first"))
    again.observe(probed(gpu(0, used=9 * GIB), gpu(1, used=GIB), at=100.0), 100.0)
    assert again.grant_of("i1") == grant
    assert again.grant("i2", "second", ONE).uuids == ("GPU-1",)
    again.release("i1", 110.0)
    assert again.observe(probed(gpu(0, used=5 * GIB), gpu(1), at=111.0), 111.0) == ()  # the old baseline holds
    assert again.observe(probed(gpu(0, used=GIB), gpu(1), at=112.0), 112.0)[0].state == "free"


def test_a_repeated_adoption_changes_nothing():
    leases = LeaseTable()
    grant = Grant("i1", "first", ("GPU-0",), baselines={"GPU-0": GIB})
    assert leases.adopt(grant)
    assert leases.adopt(grant)
    assert len(leases.claims) == 1


@pytest.mark.parametrize(
    ("first", "second", "adopted"),
    [
        ("exclusive", "exclusive", False),
        ("exclusive", "shared", False),
        ("shared", "exclusive", False),
        ("shared", "shared", True),
    ],
)
def test_of_two_containers_on_one_gpu_the_second_is_adopted_only_where_both_share(first, second, adopted):
    leases = LeaseTable()
    assert leases.adopt(Grant("i1", "first", ("GPU-0",), first, GIB))
    assert leases.adopt(Grant("i2", "second", ("GPU-1", "GPU-0"), second, GIB)) is adopted
    assert (leases.grant_of("i2") is not None) is adopted


def test_a_container_on_a_mig_instance_and_one_on_its_gpu_are_not_both_adopted():
    leases = leases_of(*split_gpu(0))
    assert leases.adopt(Grant("i1", "first", ("GPU-0",)))
    assert not leases.adopt(Grant("i2", "second", ("MIG-0-0",)))


def test_an_adopted_mig_instance_still_blocks_its_gpu():
    labels = leases_of(*split_gpu(0)).grant("i1", "first", ONE).labels()
    leases = LeaseTable()
    assert leases.adopt(Grant.from_labels(labels, holder="i1", plugin="first"))
    leases.observe(probed(gpu(0, mig_enabled=False), at=1.0), 1.0)
    refused(leases.grant("i2", "second", ONE), "held by the plugin first")


def test_a_lease_on_a_removed_gpu_is_adopted_too():
    leases = leases_of(gpu(0))
    assert leases.adopt(Grant("i1", "first", ("GPU-9",)))
    assert leases.report()["GPU-9"]["holders"][0]["plugin"] == "first"


def test_a_container_without_gpus_has_no_grant():
    assert Grant.from_labels({"other": "label"}, holder="i1", plugin="first") is None


@pytest.mark.parametrize(
    "label",
    [
        "no json",
        "[]",
        "{}",
        "null",
        json.dumps({"devices": [], "sharing": "exclusive", "memory": None, "parents": {}}),
        json.dumps({"devices": {}, "sharing": "exclusive", "memory": None, "parents": {}}),
        json.dumps({"devices": {"GPU-0": "much"}, "sharing": "exclusive", "memory": None, "parents": {}}),
        json.dumps({"devices": {"GPU-0": 1}, "sharing": "exclusive", "memory": None}),
        json.dumps({"devices": {"GPU-0": 1}, "sharing": "exclusive", "memory": None, "parents": "GPU-0"}),
        json.dumps({"devices": {"GPU-0": 1}, "sharing": "maybe", "memory": None, "parents": {}}),
        json.dumps({"devices": {"GPU-0": 1}, "sharing": "shared", "memory": "1GiB", "parents": {}}),
        json.dumps({"devices": {"GPU-0": 1}, "sharing": [], "memory": None, "parents": {}}),
    ],
)
def test_a_label_that_cannot_be_read_is_an_error_and_not_no_gpu(label):
    with pytest.raises(ValueError, match="cannot be read"):
        Grant.from_labels({LABEL_GPUS: label}, holder="i1", plugin="first")
