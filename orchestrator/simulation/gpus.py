"""A host whose GPUs are simulated: what its driver answers, in this process and without a library."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

from pydantic import ByteSize, TypeAdapter, ValidationError

from orchestrator.gpus import GpuDevice, GpuHost, GpuInventory, NvmlProbe
from orchestrator.gpus.evidence import HardwareHints, SmiResult
from orchestrator.gpus.inventory import FaultKind, GpuFault
from orchestrator.gpus.probe import SmiProbe

_DRIVER: Final = "570.1"
_CUDA: Final = "12.8"
_SEVERAL: Final = re.compile(r"\s*(?:(\d+)\s*x\s*)?(.+)")
_SIZE: Final = TypeAdapter(ByteSize)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A simulated GPU. `memory`: such as "24GiB"; `mig`: the memory of each MIG instance that it is split into.

    Raises `ValueError` for what is no size.
    """

    name: str = "Simulated GPU"
    memory: str = "16GiB"
    mig: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for size in (self.memory, *self.mig):
            _bytes(size)
        object.__setattr__(self, "mig", tuple(self.mig))

    def report(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        return cls(fields["name"], fields["memory"], tuple(fields["mig"]))


def _bytes(size: str) -> int:
    try:
        return int(_SIZE.validate_python(size))
    except ValidationError:
        raise ValueError(f"expected a size such as 24GiB, not {size!r}") from None


def gpus_of(wanted: "str | Iterable[Gpu]") -> tuple[Gpu, ...]:
    """`2x24GiB`, `24GiB, 2x80GiB`, or the GPUs themselves. Raises `ValueError`."""
    if not isinstance(wanted, str):
        return tuple(wanted)
    found: list[Gpu] = []
    for part in wanted.split(","):
        match = _SEVERAL.fullmatch(part)
        if match is None:
            raise ValueError(f"expected GPUs such as 2x24GiB, not {wanted!r}")
        found += [Gpu(memory=match[2].strip())] * int(match[1] or 1)
    return tuple(found)


def devices_of(gpus: Iterable[Gpu]) -> tuple[GpuDevice, ...]:
    """Healthy and unused: each GPU, followed by its MIG instances."""
    found: list[GpuDevice] = []
    for index, gpu in enumerate(gpus):
        uuid = f"GPU-51d00000-0000-4000-8000-{index:012x}"
        found.append(
            GpuDevice(
                uuid,
                index,
                gpu.name,
                memory_total=_bytes(gpu.memory),
                memory_used=0,
                utilization=0,
                temperature=40,
                ecc_errors=0,
                pci_bus_id=f"00000000:{index + 1:02x}:00.0",
                mig_enabled=bool(gpu.mig),
                persistence_mode=True,
                processes=(),
            )
        )
        found += [
            GpuDevice(
                f"MIG-51d00000-0000-4000-8{slot:03x}-{index:012x}",
                index,
                f"{gpu.name} MIG",
                memory_total=_bytes(memory),
                memory_used=0,
                parent_uuid=uuid,
                mig_index=slot,
                processes=(),
            )
            for slot, memory in enumerate(gpu.mig)
        ]
    return tuple(found)


class SimulatedGpus:
    """What the host's driver answers; a fault of the host lasts until it is taken back."""

    def __init__(self, gpus: Iterable[Gpu]) -> None:
        self.gpus = tuple(gpus)
        self._devices = devices_of(self.gpus)
        self.absent = False
        """Neither GPU nor driver."""
        self.driver_broken = False
        self.lost: set[str] = set()
        """UUIDs of GPUs that fell off the bus."""

    def host(self) -> GpuHost:
        return GpuHost(_Probe(self), _Smi(self), self.hints)

    def inventory(self) -> GpuInventory:
        started = time.monotonic()
        fault = self._fault()
        return GpuInventory(
            devices=() if fault else tuple(self._now(device) for device in self._devices),
            observed_at=datetime.now(UTC),
            probe_started=started,
            driver_version=None if fault else _DRIVER,
            cuda_version=None if fault else _CUDA,
            seconds=0.0,
            fault=fault,
        )

    def smi(self) -> SmiResult:
        if self.absent or not self._devices:
            return SmiResult("missing")
        return (
            SmiResult("fails", "couldn't communicate with the NVIDIA driver")
            if self.driver_broken
            else SmiResult("works")
        )

    def hints(self) -> HardwareHints:
        count = 0 if self.absent else len(self.gpus)
        loaded = count and not self.driver_broken
        return HardwareHints(
            pci_gpus=count, module_version=_DRIVER if loaded else None, device_nodes=count if loaded else 0
        )

    def _fault(self) -> GpuFault | None:
        if self.absent or not self._devices:
            return GpuFault(FaultKind.LIBRARY_MISSING, "NVML Shared Library Not Found", 12)
        return GpuFault(FaultKind.DRIVER_NOT_LOADED, "Driver Not Loaded", 9) if self.driver_broken else None

    def _now(self, device: GpuDevice) -> GpuDevice:
        if self.lost.isdisjoint({device.uuid, device.parent_uuid}):
            return device
        fault = GpuFault(FaultKind.GPU_LOST, "GPU is lost", 15)
        return GpuDevice(
            device.uuid,
            device.index,
            device.name,
            last_xid=79,
            pci_bus_id=device.pci_bus_id,
            parent_uuid=device.parent_uuid,
            mig_index=device.mig_index,
            mig_enabled=device.mig_enabled,
            fault=fault,
        )


class _Probe(NvmlProbe):
    def __init__(self, host: SimulatedGpus) -> None:
        super().__init__()
        self._host = host

    async def read(self) -> GpuInventory:
        return self._host.inventory()


class _Smi(SmiProbe):
    def __init__(self, host: SimulatedGpus) -> None:
        super().__init__()
        self._host = host

    async def run(self) -> SmiResult:
        return self._host.smi()
