"""Leases over a restart of the orchestrator."""

import json

import pytest
from test_gpus.books import ONE, book_of, refused, split
from test_gpus.looks import GIB, gpu, look

from orchestrator.gpus import GpuDemand, Grant, LeaseBook
from orchestrator.gpus.claims import LABEL_GPUS


def test_a_running_container_takes_its_lease_with_it_over_a_restart():
    book = book_of(gpu(0, used=GIB), gpu(1, used=GIB))
    grant = book.grant("i1", "first", GpuDemand(memory=8 * GIB))
    labels = grant.labels()
    again = LeaseBook()
    assert again.adopt(Grant.from_labels(labels, holder="i1", plugin="first"))
    again.observe(look(gpu(0, used=9 * GIB), gpu(1, used=GIB), began=100.0), 100.0)
    assert again.grant_of("i1") == grant
    assert again.grant("i2", "second", ONE).uuids == ("GPU-1",)
    again.release("i1", 110.0)
    assert again.observe(look(gpu(0, used=5 * GIB), gpu(1), began=111.0), 111.0) == ()  # the old baseline holds
    assert again.observe(look(gpu(0, used=GIB), gpu(1), began=112.0), 112.0)[0].now == "free"


def test_an_adoption_told_twice_is_one():
    book = LeaseBook()
    grant = Grant("i1", "first", ("GPU-0",), baselines={"GPU-0": GIB})
    assert book.adopt(grant)
    assert book.adopt(grant)
    assert len(book.claims) == 1


@pytest.mark.parametrize(
    ("there", "comes", "fits"),
    [
        ("exclusive", "exclusive", False),
        ("exclusive", "shared", False),
        ("shared", "exclusive", False),
        ("shared", "shared", True),
    ],
)
def test_of_two_containers_on_one_gpu_the_second_is_adopted_only_where_both_share(there, comes, fits):
    book = LeaseBook()
    assert book.adopt(Grant("i1", "first", ("GPU-0",), there, GIB))
    assert book.adopt(Grant("i2", "second", ("GPU-1", "GPU-0"), comes, GIB)) is fits
    assert (book.grant_of("i2") is not None) is fits


def test_a_container_on_a_part_and_one_on_its_whole_are_not_both_adopted():
    book = book_of(*split(0))
    assert book.adopt(Grant("i1", "first", ("GPU-0",)))
    assert not book.adopt(Grant("i2", "second", ("MIG-0-0",)))


def test_a_part_that_is_taken_up_again_still_bars_its_whole():
    labels = book_of(*split(0)).grant("i1", "first", ONE).labels()
    book = LeaseBook()
    assert book.adopt(Grant.from_labels(labels, holder="i1", plugin="first"))
    book.observe(look(gpu(0, mig_enabled=False), began=1.0), 1.0)
    refused(book.grant("i2", "second", ONE), "held by the plugin first")


def test_a_lease_on_a_gpu_that_is_gone_is_taken_up_all_the_same():
    book = book_of(gpu(0))
    assert book.adopt(Grant("i1", "first", ("GPU-9",)))
    assert book.report()["GPU-9"]["holders"][0]["plugin"] == "first"


def test_a_container_without_gpus_tells_of_none():
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
