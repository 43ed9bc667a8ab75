"""What can be learned of NVIDIA hardware and driver without NVML: files of the kernel, and `nvidia-smi`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from orchestrator.gpus.child import BoundedChild, ChildResult

_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"
"""PCI class of GPUs. NVIDIA's audio and bridge functions have others."""
_MODULE_VERSION: Final = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")
SMI_COMMAND: Final = ("nvidia-smi", "-L")


@dataclass(frozen=True, slots=True)
class HardwareHints:
    """`pci_gpus`: NVIDIA GPUs on the PCI bus, None where the bus cannot be looked at. `module_version`: of the driver's
    kernel module, None where it is not loaded. `device_nodes`: how many /dev/nvidia<number> there are.
    """

    pci_gpus: int | None = None
    module_version: str | None = None
    device_nodes: int = 0

    @property
    def hardware(self) -> bool:
        """Something says that an NVIDIA GPU is in this host."""
        return bool(self.pci_gpus) or self.module_version is not None or self.device_nodes > 0


@dataclass(frozen=True, slots=True)
class SmiOpinion:
    """What `nvidia-smi -L` came to. `said`: its first line, or what killed it."""

    outcome: Literal["works", "fails", "hangs", "missing"]
    said: str = ""


def look_for_hardware(root: Path = Path("/")) -> HardwareHints:
    """Reads /sys, /proc and /dev below `root`; milliseconds, and no driver is asked."""
    return HardwareHints(
        pci_gpus=_pci_gpus(root / "sys/bus/pci/devices"),
        module_version=_module_version(root / "proc/driver/nvidia/version"),
        device_nodes=sum(1 for node in _entries(root / "dev") or () if re.fullmatch(r"nvidia\d+", node.name)),
    )


class Smi:
    """nvidia-smi, the second opinion."""

    def __init__(
        self, *, bound: float, environment: Mapping[str, str] | None = None, command: Sequence[str] = SMI_COMMAND
    ) -> None:
        """`bound` in seconds; `environment` is added to that of the child."""
        self._child = BoundedChild(command, bound=bound, environment=environment)

    async def ask(self) -> SmiOpinion:
        """Bounded as `BoundedChild.run` is; never raises."""
        return opinion(await self._child.run())


def opinion(result: ChildResult) -> SmiOpinion:
    """The result of nvidia-smi in our words. It ends with 0 and an empty list where there is no GPU."""
    if result.outcome == "missing":
        return SmiOpinion("missing")
    if result.outcome == "hung":
        return SmiOpinion("hangs")
    said = (result.stdout.strip() or result.stderr.strip()).splitlines()
    if result.exit_code == 0:
        return SmiOpinion("works", said[0] if said else "")
    return SmiOpinion("fails", said[0][:200] if said else result.signal or f"exit code {result.exit_code}")


def _pci_gpus(folder: Path) -> int | None:
    devices = _entries(folder)
    if devices is None:
        return None
    return sum(_read(d / "vendor") == _NVIDIA and _read(d / "class").startswith(_DISPLAY) for d in devices)


def _module_version(file: Path) -> str | None:
    said = _read(file)
    if not said:
        return None
    found = _MODULE_VERSION.search(said)
    return found[1] if found else "unknown"


def _entries(folder: Path) -> list[Path] | None:
    try:
        return list(folder.iterdir())
    except OSError:
        return None


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
