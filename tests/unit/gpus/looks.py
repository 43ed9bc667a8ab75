"""Inventories of made-up GPUs, for tests of the pure modules."""

from datetime import UTC, datetime

from orchestrator.gpus.inventory import GpuDevice, GpuInventory, GpuProblem

GIB = 1024**3


def gpu(number: int, *, total: int | None = 80 * GIB, used: int | None = 0, **more) -> GpuDevice:
    return GpuDevice(f"GPU-{number}", number, memory_total=total, memory_used=used, **more)


def mig_instance(parent: int, slot: int, *, total: int | None = 10 * GIB, used: int | None = 0) -> GpuDevice:
    return GpuDevice(
        f"MIG-{parent}-{slot}",
        parent,
        memory_total=total,
        memory_used=used,
        parent_uuid=f"GPU-{parent}",
        mig_index=slot,
    )


def probed(*devices: GpuDevice, at: float = 0.0, problem: GpuProblem | None = None) -> GpuInventory:
    """What a probe that started `at` this time found."""
    return GpuInventory(devices, datetime.now(UTC), at, problem=problem)
