"""Who may use which GPU: grants, refusals, sharing, parts of a GPU, and what the API shows of it."""

from test_gpus.books import ONE, book_of, refused, shared, split
from test_gpus.looks import GIB, gpu, look

from orchestrator.gpus import GpuDemand, GpuProblem, Grant, LeaseBook
from orchestrator.gpus.inventory import FaultKind, GpuFault
from orchestrator.lifecycle import ReasonCode

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
