"""Lease tables as tests start with them, and what a refusal must contain."""

from unit.gpus.looks import gpu, mig_instance, probed

from orchestrator.gpus import GpuDemand, GpuProblem, LeaseTable
from orchestrator.lifecycle import ReasonCode

ONE = GpuDemand()


def shared(memory):
    return GpuDemand(memory=memory, sharing="shared")


def leases_of(*devices):
    leases = LeaseTable()
    leases.observe(probed(*devices), 0.0)
    return leases


def refused(answer, *words):
    assert isinstance(answer, GpuProblem)
    assert answer.code is ReasonCode.GPU_BUSY
    for word in words:
        assert word in answer.sentence
    return answer.sentence


def split_gpu(*slots, **more):
    return (gpu(0, mig_enabled=True, **more), *(mig_instance(0, slot) for slot in slots))
