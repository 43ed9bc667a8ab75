"""Evidence of NVIDIA hardware and driver besides NVML: the kernel's files and log, and the result of `nvidia-smi`."""

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from orchestrator.gpus.inventory import xid_key

_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"  # PCI class of GPUs; NVIDIA's audio and bridge functions have others
_MODULE_VERSION: Final = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")
_XID: Final = re.compile(
    r"NVRM: Xid \(PCI:(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})[^)]*\): (?P<xid>\d+)"
)
# Those that a process opens which computes: of the driver, of Tegra, of WSL2.
_NODE: Final = re.compile(r"nvidia\d+|nvidiactl|nvidia-uvm|nvhost-.*|nvmap|dxg")
_TEGRA_CHIP: Final = re.compile(r"nvidia,tegra\d+")
_TEGRA_RELEASE: Final = re.compile(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_GROUP: Final = stat.S_IRGRP | stat.S_IWGRP
_RECORD_BYTES: Final = 8192  # the kernel's own bound on one record of its log
_MAX_RECORDS: Final = 200_000


@dataclass(frozen=True, slots=True)
class HardwareHints:
    """`pci_gpus`: NVIDIA GPUs on the PCI bus, None where the bus cannot be read. `module_version`: version of the
    loaded kernel module, None where none is loaded. `device_nodes`: number of /dev/nvidia<number> nodes. `container`:
    this process runs in a container, of Docker or Podman. `tegra`: what this machine is called where its GPU is part of
    an NVIDIA Tegra chip (Jetson), which is on no PCI bus; empty elsewhere.
    """

    pci_gpus: int | None = None
    module_version: str | None = None
    device_nodes: int = 0
    container: bool = False
    tegra: str = ""

    @property
    def hardware(self) -> bool:
        return bool(self.pci_gpus or self.tegra) or self.module_version is not None or self.device_nodes > 0

    @property
    def lost_to_container(self) -> bool:
        """The driver is there, and this process in its container may have lost its right to it."""
        return self.container and self.module_version is not None and self.device_nodes > 0


@dataclass(frozen=True, slots=True)
class NodeAccess:
    """Who may open the device nodes. `groups`: numbers of the groups without which nobody but root may open one;
    `closed`: paths of the nodes that only root may open.
    """

    groups: tuple[int, ...] = ()
    closed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SmiResult:
    """Outcome of `nvidia-smi -L`. `message`: its first line, or the signal that killed it."""

    outcome: Literal["works", "fails", "hangs", "missing"]
    message: str = ""


def read_hardware_hints(root: Path = Path("/")) -> HardwareHints:
    """Read /sys, /proc and /dev below `root`, without the driver."""
    return HardwareHints(
        pci_gpus=_pci_gpus(root / "sys/bus/pci/devices"),
        module_version=_module_version(root / "proc/driver/nvidia/version"),
        device_nodes=sum(1 for node in _entries(root / "dev") or () if re.fullmatch(r"nvidia\d+", node.name)),
        container=any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")),
        tegra=_tegra(root),
    )


def read_node_access(root: Path = Path("/")) -> NodeAccess:
    """Look at the nodes in /dev below `root`. Root may open all of them, so that its own tries show nothing."""
    groups: set[int] = set()
    closed = []
    for node in sorted(_entries(root / "dev") or ()):
        if _NODE.fullmatch(node.name) is None:
            continue
        try:
            status = node.stat()
        except OSError:
            continue
        if status.st_mode & _OTHERS == _OTHERS:
            continue
        # Membership of group 0 would open more than the node.
        if status.st_mode & _GROUP == _GROUP and status.st_gid != 0:
            groups.add(status.st_gid)
        else:
            closed.append(f"/dev/{node.name}")
    return NodeAccess(tuple(sorted(groups)), tuple(closed))


def last_xids() -> dict[str, int]:
    """`xid_key` of a GPU → its last XID, the driver's own error number. Empty where the kernel's log is unreadable."""
    # NVML reports an XID only to a process that was listening when it occurred; the log still holds it later.
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # most systems show it to root only
        return {}
    try:
        return parse_xids(_records(log))
    finally:
        os.close(log)


def parse_xids(records: Iterable[str]) -> dict[str, int]:
    """The last XID per GPU in these records of the kernel's log, oldest first."""
    found: dict[str, int] = {}
    for record in records:
        if (xid := _XID.search(record)) is not None:
            found[xid_key(xid["bus"])] = int(xid["xid"])
    return found


def _records(log: int) -> Iterable[str]:
    for _ in range(_MAX_RECORDS):
        try:
            record = os.read(log, _RECORD_BYTES)
        except BlockingIOError:  # end of the log
            return
        except BrokenPipeError:  # overwritten while we read: the next read continues behind it
            continue
        except OSError:
            return
        yield record.decode("utf-8", "replace")


def _pci_gpus(folder: Path) -> int | None:
    devices = _entries(folder)
    if devices is None:
        return None
    return sum(_read(d / "vendor") == _NVIDIA and _read(d / "class").startswith(_DISPLAY) for d in devices)


def _module_version(file: Path) -> str | None:
    text = _read(file)
    if not text:
        return None
    found = _MODULE_VERSION.search(text)
    return found[1] if found else "unknown"


def _tegra(root: Path) -> str:
    release = _read(root / "etc/nv_tegra_release")
    chip = _TEGRA_CHIP.search(_read(root / "proc/device-tree/compatible"))
    # Containers have neither of the two, but this.
    if not (release or chip or _read(root / "sys/devices/soc0/family") == "Tegra"):
        return ""
    named = (_read(root / file).strip("\0") for file in ("proc/device-tree/model", "sys/devices/soc0/machine"))
    model = next(filter(None, named), "") or (chip[0] if chip else "Tegra")
    version = _TEGRA_RELEASE.search(release)
    return f"{model}, L4T {version[1]}.{version[2]}" if version else model


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
