"""A simulated host is judged by the same code as a real one."""

import pytest

from orchestrator.gpus import GpuHost
from orchestrator.simulation.gpus import Gpu, SimulatedGpus, devices_of, gpus_of

GIB = 1024**3


@pytest.mark.parametrize(
    ("wanted", "memories"),
    [
        ("24GiB", [24]),
        ("2x24GiB", [24, 24]),
        ("2 x 24 GiB, 80GiB", [24, 24, 80]),
        ([Gpu(memory="8GiB"), Gpu("NVIDIA L4", "24GiB")], [8, 24]),
        ([], []),
    ],
)
def test_gpus_are_written_as_people_write_them(wanted, memories: list[int]) -> None:
    assert [device.memory_total for device in devices_of(gpus_of(wanted))] == [size * GIB for size in memories]


@pytest.mark.parametrize("wanted", ["", "two", "2x", "24"[:0] + "x24GiB"])
def test_what_is_no_gpu_is_said(wanted: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        gpus_of(wanted)


def test_mig_instances_follow_their_gpu() -> None:
    """The GPU itself is split, and cannot be granted."""
    whole, first, second = devices_of([Gpu(memory="40GiB", mig=("10GiB", "20GiB"))])
    assert not whole.grantable
    assert (first.memory_total, second.memory_total) == (10 * GIB, 20 * GIB)
    assert first.parent_uuid == second.parent_uuid == whole.uuid
    assert len({whole.uuid, first.uuid, second.uuid}) == 3


async def judged(simulated: SimulatedGpus) -> str | None:
    host: GpuHost = simulated.host()
    inventory = await host.check()
    return None if inventory.problem is None else str(inventory.problem.code)


async def test_healthy_gpus_are_no_problem() -> None:
    assert await judged(SimulatedGpus(gpus_of("2x24GiB"))) is None


async def test_without_gpus_there_is_none() -> None:
    assert await judged(SimulatedGpus(())) == "GPU_NOT_FOUND"


async def test_a_fault_of_the_host_is_judged_as_a_real_one() -> None:
    simulated = SimulatedGpus(gpus_of("24GiB"))
    simulated.absent = True
    assert await judged(simulated) == "GPU_NOT_FOUND"
    simulated.absent, simulated.driver_broken = False, True
    assert await judged(simulated) == "GPU_DRIVER_ERROR"
    simulated.driver_broken, simulated.lost = False, {devices_of(simulated.gpus)[0].uuid}
    assert await judged(simulated) == "GPU_LOST"


async def test_a_lost_gpu_takes_its_mig_instances_with_it() -> None:
    simulated = SimulatedGpus([Gpu(mig=("4GiB",)), Gpu()])
    simulated.lost = {devices_of(simulated.gpus)[0].uuid}
    assert [device.fault is not None for device in simulated.inventory().devices] == [True, True, False]
