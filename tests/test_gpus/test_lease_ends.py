"""The end of a lease: when it is over, and what is done where it is not."""

import pytest
from test_gpus.books import ONE, book_of, refused, shared
from test_gpus.looks import GIB, gpu, look

from orchestrator.gpus import GpuDemand, Grant


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
