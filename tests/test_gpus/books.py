"""Lease books as tests begin with them, and what a refusal has to be."""

from test_gpus.looks import gpu, look, part

from orchestrator.gpus import GpuDemand, GpuProblem, LeaseBook
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


def split(*slots, **more):
    return (gpu(0, mig_enabled=True, **more), *(part(0, slot) for slot in slots))
