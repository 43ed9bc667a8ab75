"""Fake GPUs, behind the same interfaces as real ones."""

import asyncio
import time
from datetime import UTC, datetime

from orchestrator.gpus import GpuDevice, GpuHost, GpuInventory
from orchestrator.gpus.evidence import HardwareHints, SmiResult
from orchestrator.gpus.inventory import FaultKind, GpuFault

GIB = 1024**3


def device(index: int, **facts: object) -> GpuDevice:
    """A healthy, unused GPU of 16 GiB."""
    return GpuDevice(
        uuid=f"GPU-{index:08d}-0000-0000-0000-000000000000",
        index=index,
        **{"name": "Test GPU", "memory_total": 16 * GIB, "memory_used": 0, **facts},
    )


class FakeGpus:
    """Both NVML and nvidia-smi: they report what the test set last. Without devices NVML's library is missing."""

    def __init__(self, *devices: GpuDevice, fault: GpuFault | None = None) -> None:
        self.devices = devices
        self.fault = fault or (None if devices else GpuFault(FaultKind.LIBRARY_MISSING))
        self.unidentified: dict[int, GpuFault] = {}
        self.smi: SmiResult | None = None
        """Instead of one that works."""
        self.answer = asyncio.Event()
        """While it is cleared, NVML does not answer."""
        self.answer.set()

    async def read(self) -> GpuInventory:
        started = time.monotonic()
        await self.answer.wait()
        return GpuInventory(
            devices=() if self.fault else self.devices,
            observed_at=datetime.now(UTC),
            probe_started=started,
            driver_version="570.1",
            cuda_version="12.8",
            unidentified=dict(self.unidentified),
            fault=self.fault,
        )

    async def run(self) -> SmiResult:
        return self.smi or SmiResult("works" if self.devices else "missing")

    def hints(self) -> HardwareHints:
        count = len(self.devices)
        return HardwareHints(pci_gpus=count, module_version="570.1" if count else None, device_nodes=count)

    def host(self) -> GpuHost:
        return GpuHost(self, self, self.hints)
