"""The host's NVIDIA GPUs: what there is and how it fares, who holds what, and how an engine is asked for it.

Owns: NVML (`nvml` is the only module that imports pynvml, and only a child process runs it), the check of the host, the
leases, the wording of device requests. Must not know: containers, plugins' manifests, the registry. `child`,
`evidence`, `nvml`, `xid`, `nvml_probe` and `gpu_host` have effects, all else is pure.
"""

from orchestrator.gpus.claims import GpuDemand, Grant
from orchestrator.gpus.gpu_host import GpuHost
from orchestrator.gpus.inventory import GpuDevice, GpuInventory, GpuProblem
from orchestrator.gpus.leases import LeaseBook, LeaseChange
from orchestrator.gpus.nvml_probe import NvmlProbe

__all__ = [
    "GpuDemand",
    "GpuDevice",
    "GpuHost",
    "GpuInventory",
    "GpuProblem",
    "Grant",
    "LeaseBook",
    "LeaseChange",
    "NvmlProbe",
]
