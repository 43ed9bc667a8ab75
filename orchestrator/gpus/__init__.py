"""The host's NVIDIA GPUs: inventory, health, leases, and the device requests that hand them to containers.

Owns: NVML (`nvml` is the only module that imports pynvml, and only a child process runs it), the diagnosis of the host,
the leases. Must not know: containers, plugins' manifests, the registry. `probe`, `evidence` and `nvml` have effects;
the other modules are pure.
"""

from orchestrator.gpus.claims import GpuDemand, Grant
from orchestrator.gpus.inventory import GpuDevice, GpuInventory, GpuProblem
from orchestrator.gpus.leases import LeaseChange, LeaseTable
from orchestrator.gpus.probe import GpuHost, NvmlProbe

__all__ = [
    "GpuDemand",
    "GpuDevice",
    "GpuHost",
    "GpuInventory",
    "GpuProblem",
    "Grant",
    "LeaseChange",
    "LeaseTable",
    "NvmlProbe",
]
