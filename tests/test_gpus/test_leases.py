"""Who may use which GPU: grants, refusals, the two steps of an end, quarantine, adoption."""

import json

import pytest
from test_gpus.looks import GIB, gpu, look, part

from orchestrator.gpus import GpuDemand, GpuProblem, Grant, LeaseBook
from orchestrator.gpus.claims import LABEL_GPUS
from orchestrator.gpus.inventory import FaultKind, GpuFault
from orchestrator.lifecycle import ReasonCode

ONE = GpuDemand()


def shared(memory):
    return GpuDemand(memory=memory, sharing="shared")


def book_of(*devices):
    book = LeaseBook()
    book.observe(look(*devices), 0.0)
    return book


def refused(answer, *words):
    assert isinstance(answer, GpuProblem)
    assert answer.code is ReasonCode.GPU_BUSY
    for word in words:
        assert word in answer.sentence
    return answer.sentence


# Grants


def test_two_plugins_never_get_one_gpu():
    book = book_of(gpu(0), gpu(1))
    assert book.grant("i1", "first", ONE).uuids == ("GPU-0",)
    assert book.grant("i2", "second", ONE).uuids == ("GPU-1",)


def test_a_refusal_names_who_holds_what_and_what_to_do():
    book = book_of(gpu(0), gpu(1))
    book.grant("i1", "first", ONE)
    book.grant("i2", "second", ONE)
    sentence = refused(
        book.grant("i3", "third", ONE), "GPU 0 is held by the plugin first", "GPU 1 is held by the plugin second"
    )
    assert sentence.endswith("Stop a plugin that has one, then restart the plugin.")


def test_a_plugin_can_have_several():
    book = book_of(gpu(0), gpu(1), gpu(2))
    book.grant("i1", "first", ONE)
    assert book.grant("i2", "second", GpuDemand(count=2)).uuids == ("GPU-1", "GPU-2")


def test_who_cannot_have_all_it_asks_for_gets_none():
    book = book_of(gpu(0), gpu(1))
    book.grant("i1", "first", ONE)
    refused(book.grant("i2", "second", GpuDemand(count=2)), "2 GPUs", "GPU 1 would do")
    assert book.grant("i3", "third", ONE).uuids == ("GPU-1",)


def test_a_grant_asked_for_again_is_the_same():
    book = book_of(gpu(0), gpu(1))
    assert book.grant("i1", "first", ONE) == book.grant("i1", "first", ONE)
    assert len(book.claims) == 1


def test_the_smallest_device_that_suffices_is_given():
    book = book_of(gpu(0, total=80 * GIB), gpu(1, total=16 * GIB), gpu(2, total=24 * GIB))
    assert book.grant("i1", "first", GpuDemand(memory=20 * GIB)).uuids == ("GPU-2",)
    assert book.grant("i2", "second", ONE).uuids == ("GPU-1",)


def test_memory_that_others_use_is_not_free():
    book = book_of(gpu(0, total=24 * GIB, used=20 * GIB))
    refused(
        book.grant("i1", "first", GpuDemand(memory=8 * GIB)),
        "GPU 0 has 4.0 GiB of its 24.0 GiB free",
        "8.0 GiB",
        "Free a GPU",
    )


def test_where_the_driver_tells_no_memory_an_exclusive_plugin_gets_the_gpu_and_a_shared_one_does_not():
    book = book_of(gpu(0, total=None, used=None))
    refused(book.grant("i1", "first", shared(GIB)), "does not tell how much memory")
    assert isinstance(book.grant("i2", "second", GpuDemand(memory=8 * GIB)), Grant)


def test_a_gpu_out_of_order_is_given_to_nobody():
    book = book_of(gpu(0, fault=GpuFault(FaultKind.GPU_LOST, "GPU is lost")))
    refused(book.grant("i1", "first", ONE), "out of order (GPU is lost)")


def test_what_is_wrong_with_the_host_is_the_answer_to_every_demand():
    problem = GpuProblem(ReasonCode.GPU_DRIVER_ERROR, "The driver is broken.")
    book = LeaseBook()
    book.observe(look(problem=problem), 0.0)
    assert book.grant("i1", "first", ONE) is problem


def test_nothing_is_granted_before_the_first_look():
    assert LeaseBook().grant("i1", "first", ONE).code is ReasonCode.GPU_DRIVER_ERROR


# Sharing


def test_sharers_get_one_gpu_as_long_as_its_memory_lasts():
    book = book_of(gpu(0, total=24 * GIB, used=GIB), gpu(1, total=24 * GIB, used=GIB))
    for number in range(2):
        assert book.grant(f"i{number}", f"p{number}", shared(10 * GIB)).uuids == ("GPU-0",)
    assert book.grant("i2", "p2", shared(10 * GIB)).uuids == ("GPU-1",)
    book.grant("i3", "p3", shared(10 * GIB))
    refused(book.grant("i4", "p4", shared(10 * GIB)), "GPU 0 has 3.0 GiB of its 24.0 GiB free beside p0, p1")
    assert book.grant("i5", "p5", shared(3 * GIB)).uuids == ("GPU-0",)


def test_a_sharer_that_uses_more_than_its_budget_leaves_less_for_others():
    book = book_of(gpu(0, total=24 * GIB))
    book.grant("i1", "greedy", shared(4 * GIB))
    book.observe(look(gpu(0, total=24 * GIB, used=20 * GIB), began=1.0), 1.0)
    refused(book.grant("i2", "second", shared(8 * GIB)), "4.0 GiB of its 24.0 GiB free beside greedy")


def test_exclusive_and_shared_never_meet():
    book = book_of(gpu(0))
    book.grant("i1", "sharer", shared(GIB))
    refused(book.grant("i2", "loner", ONE), "GPU 0 is shared by the plugin sharer")
    book = book_of(gpu(0))
    book.grant("i1", "loner", ONE)
    refused(book.grant("i2", "sharer", shared(GIB)), "GPU 0 is held by the plugin loner")


def test_who_shares_without_naming_its_memory_shares_with_nobody():
    book = book_of(gpu(0))
    assert book.grant("i1", "vague", shared(None)).sharing == "exclusive"
    refused(book.grant("i2", "second", shared(GIB)), "held by the plugin vague")


# MIG


def split(*slots, **more):
    return (gpu(0, mig_enabled=True, **more), *(part(0, slot) for slot in slots))


def test_the_parts_of_a_split_gpu_are_given_and_never_the_whole():
    book = book_of(*split(0, 1))
    assert [book.grant(f"i{n}", f"p{n}", ONE).uuids for n in range(2)] == [("MIG-0-0",), ("MIG-0-1",)]
    sentence = refused(book.grant("i2", "third", ONE), "GPU 0 MIG 0 is held by the plugin p0")
    assert "split into" not in sentence  # its parts say it all


def test_a_split_gpu_without_parts_is_refused_as_that():
    refused(book_of(*split()).grant("i1", "first", ONE), "GPU 0 is split into MIG instances")


def test_a_slice_goes_before_a_whole_gpu():
    book = book_of(gpu(1), *split(0))
    assert book.grant("i1", "first", ONE).uuids == ("MIG-0-0",)
    assert book.grant("i2", "second", GpuDemand(memory=40 * GIB)).uuids == ("GPU-1",)


def test_several_gpus_are_never_several_slices_since_cuda_sees_only_one():
    book = book_of(*split(0, 1), gpu(1))
    refused(book.grant("i1", "first", GpuDemand(count=2)), "can use only one")


def test_a_gpu_that_is_put_together_again_under_a_lease_on_its_part_is_not_given():
    book = book_of(*split(0))
    book.grant("i1", "first", ONE)
    book.observe(look(gpu(0, mig_enabled=False), began=1.0), 1.0)
    refused(book.grant("i2", "second", ONE), "held by the plugin first")
    assert book.report()["GPU-0"]["state"] == "unusable"


def test_the_parts_of_a_gpu_that_is_split_under_a_lease_are_not_given():
    book = book_of(gpu(0, mig_enabled=False))
    book.grant("i1", "first", ONE)
    book.observe(look(*split(0, 1), began=1.0), 1.0)
    refused(book.grant("i2", "second", ONE), "held by the plugin first")


# The end of a lease


def test_a_lease_ends_only_when_a_later_look_finds_the_memory_back():
    book = book_of(gpu(0, used=GIB))
    book.grant("i1", "first", ONE)
    assert book.release("i1", 10.0)
    refused(book.grant("i2", "second", ONE), "is being given back by the plugin first")
    assert book.observe(look(gpu(0, used=9 * GIB), began=11.0), 11.0) == ()
    refused(book.grant("i2", "second", ONE), "is being given back")
    assert book.unsettled
    (change,) = book.observe(look(gpu(0, used=GIB + 1000), began=12.0), 12.0)
    assert (change.now, change.uuid) == ("free", "GPU-0")
    assert not book.unsettled
    assert book.grant("i2", "second", ONE).uuids == ("GPU-0",)


def test_a_look_that_began_before_the_container_was_gone_proves_nothing():
    book = book_of(gpu(0))
    book.grant("i1", "first", ONE)
    book.release("i1", 10.0)
    assert book.observe(look(gpu(0), began=9.9), 10.5) == ()
    refused(book.grant("i2", "second", ONE), "is being given back")


def test_an_old_look_that_comes_late_is_not_believed():
    book = book_of(gpu(0))
    book.grant("i1", "first", ONE)
    book.release("i1", 10.0)
    book.observe(look(gpu(0, used=9 * GIB), began=12.0), 12.0)
    assert book.observe(look(gpu(0), began=11.0), 12.5) == ()


def test_memory_that_does_not_come_back_in_time_puts_the_gpu_into_quarantine():
    book = book_of(gpu(0, used=GIB), gpu(1))
    book.grant("i1", "first", GpuDemand(count=2))
    book.release("i1", 10.0)
    leaking = look(gpu(0, used=5 * GIB), gpu(1), began=41.0)
    changes = {change.uuid: change for change in book.observe(leaking, 41.0)}
    assert changes["GPU-1"].now == "free"
    assert changes["GPU-0"].now == "quarantined"
    (sentence,) = book.quarantines()
    for words in ("GPU 0", "plugin first", "5.0 GiB", "1.0 GiB were before", "nvidia-smi", "gpus --release GPU-0"):
        assert words in sentence
    book.grant("i2", "second", ONE)
    refused(book.grant("i3", "third", ONE), "GPU 0 is quarantined")
    refused(book.grant("i4", "fourth", shared(GIB)), "GPU 0 is quarantined")
    assert book.report()["GPU-0"]["state"] == "quarantined"


def test_a_quarantine_ends_by_itself_when_the_memory_is_back():
    book = quarantined_book()
    (change,) = book.observe(look(gpu(0), began=60.0), 60.0)
    assert change.now == "free"
    assert book.quarantines() == ()
    assert isinstance(book.grant("i2", "second", ONE), Grant)


def test_an_operator_can_clear_a_quarantine_and_what_is_in_use_then_is_the_new_baseline():
    book = quarantined_book()
    assert book.clear("GPU-0")
    assert not book.clear("GPU-0")
    assert not book.clear("GPU-unknown")
    assert book.grant("i2", "second", ONE).baselines == {"GPU-0": 5 * GIB}


def test_a_lease_that_is_held_cannot_be_cleared():
    book = book_of(gpu(0))
    book.grant("i1", "first", ONE)
    assert not book.clear("GPU-0")
    assert book.grant_of("i1")


def quarantined_book():
    book = book_of(gpu(0))
    book.grant("i1", "first", ONE)
    book.release("i1", 10.0)
    book.observe(look(gpu(0, used=5 * GIB), began=50.0), 50.0)
    assert book.quarantines()
    return book


@pytest.mark.parametrize("late", [look(began=50.0), look(gpu(0, used=None), began=50.0)])
def test_a_gpu_that_cannot_be_seen_any_more_is_quarantined_too(late):
    book = book_of(gpu(0))
    book.grant("i1", "first", ONE)
    book.release("i1", 10.0)
    (change,) = book.observe(late, 50.0)
    assert (change.now, "cannot be seen" in change.sentence) == ("quarantined", True)


def test_where_no_memory_was_ever_told_the_end_of_the_container_is_the_end_of_the_lease():
    book = book_of(gpu(0, total=None, used=None))
    book.grant("i1", "first", ONE)
    book.release("i1", 10.0)
    (change,) = book.observe(look(gpu(0, total=None, used=None), began=11.0), 11.0)
    assert change.now == "free"


def test_a_sharer_that_leaves_is_gone_when_what_is_in_use_is_no_more_than_the_others_may_use():
    book = book_of(gpu(0, total=24 * GIB, used=GIB))
    book.grant("i1", "stays", shared(8 * GIB))
    book.grant("i2", "leaves", shared(8 * GIB))
    book.release("i2", 10.0)
    assert book.observe(look(gpu(0, total=24 * GIB, used=14 * GIB), began=11.0), 11.0) == ()
    refused(book.grant("i3", "third", shared(8 * GIB)), "free beside leaves, stays")
    (change,) = book.observe(look(gpu(0, total=24 * GIB, used=8 * GIB), began=12.0), 12.0)
    assert change.plugin == "leaves"
    assert isinstance(book.grant("i3", "third", shared(8 * GIB)), Grant)


def test_an_end_told_twice_is_one_end():
    book = book_of(gpu(0))
    book.grant("i1", "first", ONE)
    assert book.release("i1", 10.0)
    assert book.release("i1", 39.0)
    (change,) = book.observe(look(gpu(0, used=GIB), began=41.0), 41.0)
    assert change.now == "quarantined"  # counted from the first


def test_a_holder_that_nobody_knows_ends_nothing():
    book = book_of(gpu(0))
    book.grant("i1", "first", ONE)
    assert not book.release("i9", 10.0)
    assert book.grant_of("i1") is not None


def test_an_instance_that_gave_its_gpus_back_gets_no_new_ones():
    book = book_of(gpu(0), gpu(1))
    book.grant("i1", "first", ONE)
    book.release("i1", 10.0)
    refused(book.grant("i1", "first", ONE), "restart")


# Restart of the orchestrator


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


# What the API shows


def test_the_report_shows_every_device_and_its_holders():
    book = book_of(gpu(0), gpu(1, total=24 * GIB, used=GIB))
    book.grant("i1", "first", shared(8 * GIB))
    report = book.report()
    assert report["GPU-0"] == {"state": "free", "memory_available_bytes": 80 * GIB, "holders": []}
    assert report["GPU-1"] == {
        "state": "held",
        "memory_available_bytes": 15 * GIB,
        "holders": [
            {"plugin": "first", "instance": "i1", "sharing": "shared", "memory_bytes": 8 * GIB, "phase": "held"}
        ],
    }
    book.release("i1", 1.0)
    assert book.report()["GPU-1"]["state"] == "draining"
