"""SimulatedHost: builds the stand-ins and writes the state file that they read."""

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from orchestrator.gpus.evidence import read_hardware_hints
from orchestrator.gpus.probe import GpuHost, NvmlProbe, SmiProbe

SOURCES = Path(__file__).parent
GIB = 1024**3
HOOK = "nvidia-container-runtime-hook"
RUNTIME = "nvidia-container-runtime"
DRIVER = "550.54.15"


@dataclass(frozen=True)
class SimulatedMigInstance:
    """A MIG instance."""

    uuid: str
    name: str = "Simulated A100 MIG 1g.10gb"
    memory_total: int | None = 10 * GIB
    memory_used: int | None = 0


@dataclass(frozen=True)
class SimulatedGpu:
    """A value of None is answered with NVML_ERROR_NOT_SUPPORTED; `mig_enabled=None`: the model has no MIG."""

    uuid: str
    name: str = "Simulated A100"
    memory_total: int | None = 80 * GIB
    memory_used: int | None = GIB // 2
    utilization: int | None = 7
    temperature: int | None = 41
    ecc_errors: int | None = 0
    bus: str = "00000000:65:00.0"
    mig_enabled: bool | None = None
    mig_instances: tuple[SimulatedMigInstance, ...] = ()
    persistence: bool | None = None
    processes: tuple[tuple[int, int | None], ...] = ()
    """(pid, bytes) of those that compute; bytes of None are not available."""
    graphics: tuple[tuple[int, int | None], ...] = ()

    def text(self, index: int = 0) -> str:
        """As state.h reads it. `index`: number of GPUs before it."""
        mig = None if self.mig_enabled is None else int(self.mig_enabled)
        memory, sensors = (self.memory_total, self.memory_used), (self.utilization, self.temperature, self.ecc_errors)
        lines: list[tuple[object, ...]] = [("gpu", self.uuid, self.name, *memory, *sensors, self.bus, mig)]
        if self.persistence is not None:
            lines.append(("persistence", index, int(self.persistence)))
        for kind, processes in (("compute", self.processes), ("graphics", self.graphics)):
            lines += [("process", index, pid, memory, kind) for pid, memory in processes]
        lines += [("mig", index, m.uuid, m.name, m.memory_total, m.memory_used) for m in self.mig_instances]
        return _text(lines)


@dataclass(frozen=True)
class SimulatedState:
    """The whole host. `fail`: (function of NVML or CUDA, code, GPU's number or -1); `smi`: (code, text) or `hang`."""

    gpus: tuple[SimulatedGpu, ...] = ()
    driver: str = DRIVER
    cuda: int | None = 12040
    cuinit: int = 0
    fail: tuple[tuple[str, int, int], ...] = ()
    hang: tuple[str, ...] = ()
    crash: tuple[str, ...] = ()
    smi: tuple[int, str] | str | None = None
    slow: int = 0
    """Seconds that nvmlInit takes."""

    def text(self) -> str:
        """As state.h reads it."""
        lines: list[tuple[object, ...]] = [("driver", self.driver), ("cuda", self.cuda), ("cuinit", self.cuinit)]
        if self.slow:
            lines.append(("slow", self.slow))
        lines += [("fail", *failure) for failure in self.fail]
        lines += [("hang", function) for function in self.hang] + [("crash", function) for function in self.crash]
        if self.smi is not None:
            lines.append(("smi", "hang") if self.smi == "hang" else ("smi", "fail", *self.smi))
        return "".join(gpu.text(index) for index, gpu in enumerate(self.gpus)) + _text(lines)


class SimulatedHost:
    """A folder with the stand-ins and their state. `set` changes the state; the next call of any stand-in sees it."""

    def __init__(self, folder: Path, *, libraries: Path | None = None) -> None:
        """`libraries`: a folder that `build_libraries` has filled; built here without it."""
        self.folder = folder
        self.state_file = folder / "state"
        self.libraries = libraries or build_libraries(folder / "lib")
        self.programs = folder / "bin"
        self.root = folder / "root"
        """Stands for / where hardware is detected by the kernel's files."""
        for subfolder in (self.programs, self.root / "sys/bus/pci/devices"):
            subfolder.mkdir(parents=True)
        shutil.copy(SOURCES / "nvidia-smi", self.programs)
        self.set(SimulatedState())

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that is to see this host's driver."""
        return {
            "LD_LIBRARY_PATH": str(self.libraries),
            "SIMULATED_NVIDIA": str(self.state_file),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }

    def set(self, state: SimulatedState) -> None:
        """Set the state that the stand-ins read from now on."""
        new = self.state_file.with_suffix(".new")
        new.write_bytes(state.text().encode("utf-8", "surrogateescape"))
        new.replace(self.state_file)

    def plug_in(self, *, pci_class: str = "0x030200", address: str = "0000:65:00.0") -> None:
        """Put an NVIDIA device on the PCI bus."""
        device = self.root / "sys/bus/pci/devices" / address
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text(f"{pci_class}\n")

    def load_module(self, version: str = DRIVER) -> None:
        """Load the driver's kernel module."""
        folder = self.root / "proc/driver/nvidia"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "version").write_text(
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Thu Feb 22 01:44:30 UTC 2024\n"
            "GCC version:  gcc version 12.2.0\n"
        )

    def install_toolkit(self, *, mode: str = "") -> str:
        """Install the container toolkit: its hook, which in a mode other than its usual one refuses the engine, and its
        runtime. Returns the folder that an engine must have on its PATH.
        """
        for program in (HOOK, RUNTIME):
            shutil.copy(SOURCES / program, self.programs)
        if mode:
            (self.folder / "mode").write_text(mode)
        if not (self.folder / "lib").exists():
            (self.folder / "lib").symlink_to(self.libraries)
        return str(self.programs)

    @property
    def runtimes(self) -> dict[str, object]:
        """The toolkit's runtime, as an engine's settings have it."""
        return {"runtimes": {"nvidia": {"path": str(self.programs / RUNTIME)}}}

    def runtime_calls(self) -> list[dict[str, str]]:
        """Containers that the runtime has created, oldest first: visible_devices."""
        file = self.folder / "runtime-calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def hook_calls(self) -> list[dict[str, str]]:
        """Calls of the hook, oldest first: container, visible_devices, capabilities."""
        file = self.folder / "hook-calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def write_cdi_spec(
        self, folder: Path, gpus: tuple[SimulatedGpu, ...], *, by_index: bool = False, stale: str = ""
    ) -> None:
        """A CDI spec such as nvidia-ctk makes: every GPU under its UUID, or under its index, as older ones do; driver
        and programs for all of them. `stale`: a file of an earlier driver, which is not there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        libraries = f"/usr/lib/{platform.machine()}-linux-gnu"
        common = [
            (self.programs / "nvidia-smi", "/usr/bin/nvidia-smi"),
            (self.libraries / "libnvidia-ml.so.1", f"{libraries}/libnvidia-ml.so.1"),
            (self.libraries / "libcuda.so.1", f"{libraries}/libcuda.so.1"),
            (self._write("host", SimulatedState()), "/etc/simulated-nvidia.d/host"),
        ]
        devices = [
            {
                "name": f"{number}" if by_index else gpu.uuid,
                "containerEdits": {
                    "env": [f"CDI_DEVICE_{number}={gpu.uuid}"],
                    "mounts": _mounts([(self._write(gpu.uuid, gpu), f"/etc/simulated-nvidia.d/{gpu.uuid}")]),
                },
            }
            for number, gpu in enumerate(gpus)
        ]
        edits: dict[str, object] = {"env": ["NVIDIA_VISIBLE_DEVICES=void"], "mounts": _mounts(common)}
        if stale:
            missing = {"hostPath": stale, "containerPath": stale, "options": ["ro", "nosuid", "nodev", "bind"]}
            edits["mounts"] = [*_mounts(common), missing]
        spec = {"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": edits}
        (folder / "nvidia.json").write_text(json.dumps(spec))

    def _write(self, name: str, content: SimulatedState | SimulatedGpu) -> Path:
        folder = self.folder / "cdi-state"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content.text())
        return folder / name

    def gpu_host(self, *, bound: float = 5.0) -> GpuHost:
        """The real GpuHost, probing this host."""
        return GpuHost(
            NvmlProbe(bound=bound, environment=self.environment),
            SmiProbe(bound=bound, environment=self.environment, command=(str(self.programs / "nvidia-smi"), "-L")),
            lambda: read_hardware_hints(self.root),
        )


def build_libraries(folder: Path) -> Path:
    """Compile libnvidia-ml and libcuda into `folder`, under the names that the loader searches for."""
    folder.mkdir(parents=True)
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    for source, library in (("libnvidia_ml.c", f"libnvidia-ml.so.{DRIVER}"), ("libcuda.c", "libcuda.so.1")):
        subprocess.run([*command, "-o", str(folder / library), str(SOURCES / source)], check=True)
    (folder / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{DRIVER}")
    return folder


def _text(lines: list[tuple[object, ...]]) -> str:
    return "".join("\t".join("-" if field is None else str(field) for field in line) + "\n" for line in lines)


def _mounts(mounts: list[tuple[Path, str]]) -> list[dict[str, object]]:
    return [
        {"hostPath": str(source.resolve()), "containerPath": target, "options": ["ro", "nosuid", "nodev", "bind"]}
        for source, target in mounts
    ]
