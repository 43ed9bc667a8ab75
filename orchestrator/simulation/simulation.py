"""Simulation: the faults that are asked for now, what they have touched, and what carries them."""

import contextlib
import itertools
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.image_recipe import SHARED
from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
from orchestrator.simulation.faults import Fault, FaultRefusedError, Place, require_possible
from orchestrator.simulation.folders import HOLDER, PluginFolders, write_holder
from orchestrator.simulation.gpus import Gpu, SimulatedGpus

FAULTS_FOLDER: Final = "faults"
"""In an instance's folder: the worker's program, and the faults that it carries."""
_ARMED: Final = "armed.json"
_PLUGIN: Final = "plugin"


@dataclass(frozen=True, slots=True)
class SimulationPlan:
    """What is simulated from the start on. `gpus`: None for the host's own; `stand_ins`: names of plugins that stand in
    for others.
    """

    gpus: tuple[Gpu, ...] | None = None
    faults: tuple[Fault, ...] = ()
    stand_ins: frozenset[str] = frozenset()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """From JSON. Raises `FaultRefusedError`, `KeyError`."""
        gpus = fields.get("gpus")
        return cls(
            None if gpus is None else tuple(map(Gpu.of, gpus)),
            tuple(map(Fault.of, fields.get("faults", ()))),
            frozenset(fields.get("stand_ins", ())),
        )

    def report(self) -> dict[str, Any]:
        return {
            "gpus": None if self.gpus is None else [gpu.report() for gpu in self.gpus],
            "faults": [fault.report() for fault in self.faults],
            "stand_ins": sorted(self.stand_ins),
        }


class Simulation:
    """Its faults outlive the process: an orchestrator that is killed is started with them."""

    def __init__(self, plan: SimulationPlan, loader: PluginLoader, *, state_dir: Path, run_dir: Path) -> None:
        """`run_dir`: the parent of the instances' folders of all deployments."""
        self._loader = loader
        self._run_dir = run_dir
        self._file = state_dir / "simulation" / "faults.json"
        self._folders = PluginFolders(state_dir / "simulation" / "originals")
        self._numbers = itertools.count(1)
        self._faults: dict[str, Fault] = {}
        self._touched: defaultdict[str, set[int]] = defaultdict(set)
        """Generations of a plugin's instances that have had a fault."""
        self.gpus = None if plan.gpus is None else SimulatedGpus(plan.gpus)
        self.stand_ins = plan.stand_ins
        """Names of plugins that stand in for others."""
        if not self._restore():
            for fault in plan.faults:
                if fault.place in (Place.COMMAND, Place.HOLDER, Place.LOSS):
                    raise FaultRefusedError(f"{fault.code} cannot be there from the start on: use fault().")
                self.arm(fault, generation=1)

    # Faults

    def faults_of(self, plugin: str, *places: Place) -> list[Fault]:
        """Those at these places; at any where none is given."""
        mine = [fault for fault in self._faults.values() if fault.plugin == plugin]
        return [fault for fault in mine if not places or fault.place in places]

    def has(self, plugin: str, code: ReasonCode) -> bool:
        return any(fault.code == code for fault in self.faults_of(plugin))

    def arm(self, fault: Fault, *, generation: int, tools: frozenset[str] = frozenset()) -> str:
        """Have it happen from now on; its id. `generation` of the plugin's newest instance; `tools`: see
        `require_possible`. Raises `FaultRefusedError`.
        """
        plugin = self._plugin(fault.plugin)
        manifest = plugin.manifest
        require_possible(
            fault,
            requires_gpu=manifest is not None and manifest.requires_gpu,
            gpus=self.gpus is not None,
            python=manifest is None or manifest.image in SHARED,
            tools=tools,
        )
        number = f"{next(self._numbers)}-{os.getpid()}"
        self._faults[number] = fault
        self._touched[fault.plugin].add(generation)
        try:
            self._apply(fault, plugin)
        except FaultRefusedError:
            del self._faults[number]
            raise
        return number

    def disarm(self, number: str) -> str | None:
        """Take it back; its plugin, None for one that is not there."""
        fault = self._faults.pop(number, None)
        if fault is None:
            return None
        with contextlib.suppress(FaultRefusedError):  # its folder is removed
            self._apply(fault, self._plugin(fault.plugin))
        return fault.plugin

    def touch(self, plugin: str, generation: int) -> None:
        """An instance has had a fault."""
        self._touched[plugin].add(generation)

    def is_simulated(self, plugin: str, generation: int, *, has_gpus: bool) -> bool:
        """Whether something about this instance is not real."""
        touched = bool(self.faults_of(plugin)) or generation in self._touched.get(plugin, ())
        return touched or plugin in self.stand_ins or (has_gpus and self.gpus is not None)

    def lose(self, uuids: Iterable[str]) -> None:
        """Have the driver report these GPUs as lost, as long as a fault wants that."""
        if self.gpus is not None:
            self.gpus.lost |= set(uuids)

    def _plugin(self, name: str) -> DiscoveredPlugin:
        found = next((each for each in self._loader.discover() if each.name == name), None)
        if found is None:
            raise FaultRefusedError(f"There is no plugin {name}; a StandIn is one by its name alone.")
        return found

    def _apply(self, fault: Fault, plugin: DiscoveredPlugin) -> None:
        """Bring what the faults of a plugin touch to what they are now."""
        if fault.place is Place.HOLDER:
            self._hold_gpus(plugin.folder.parent / HOLDER, wanted=bool(self.faults_of(fault.plugin, Place.HOLDER)))
        if fault.place is Place.FOLDER or fault.limit_name:
            self._folders.apply(fault.plugin, plugin.folder, self.faults_of(fault.plugin))
        self._break_host()
        self._write_armed(fault.plugin)
        self._store()

    def _hold_gpus(self, folder: Path, *, wanted: bool) -> None:
        if wanted and self.gpus is not None:
            write_holder(folder, sum(device.grantable for device in self.gpus.inventory().devices))
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def _break_host(self) -> None:
        if self.gpus is None:
            return
        codes = {fault.code for fault in self._faults.values()}
        self.gpus.absent = ReasonCode.GPU_NOT_FOUND in codes
        self.gpus.driver_broken = ReasonCode.GPU_DRIVER_ERROR in codes
        if ReasonCode.GPU_LOST not in codes:
            self.gpus.lost.clear()

    # What a worker carries

    def carry(self, plugin: str, run_folder: Path, program: str) -> None:
        """Lay out what the worker of an instance needs: its `program`, and the faults."""
        folder = run_folder / FAULTS_FOLDER
        folder.mkdir(mode=0o755)
        (folder / "worker.py").write_text(program)
        (folder / _PLUGIN).write_text(plugin)
        self._write(folder, plugin)
        for file in folder.iterdir():
            file.chmod(0o644)

    def _write_armed(self, plugin: str) -> None:
        for folder in self._run_dir.glob(f"*/*/{FAULTS_FOLDER}"):
            with contextlib.suppress(OSError):  # of an instance that is just removed
                if (folder / _PLUGIN).read_text() == plugin:
                    self._write(folder, plugin)

    def _write(self, folder: Path, plugin: str) -> None:
        faults = [
            {"id": number, **fault.report()}
            for number, fault in self._faults.items()
            if fault.plugin == plugin and fault.place in (Place.CALL, Place.START)
        ]
        unfinished = folder / f"{_ARMED}.new"
        unfinished.write_text(json.dumps(faults))
        unfinished.chmod(0o644)
        unfinished.replace(folder / _ARMED)

    # Across a restart

    def _store(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(
            json.dumps(
                {
                    "faults": {number: fault.report() for number, fault in self._faults.items()},
                    "touched": {plugin: sorted(generations) for plugin, generations in self._touched.items()},
                    "lost": sorted(self.gpus.lost) if self.gpus else [],
                }
            )
        )
        unfinished.replace(self._file)

    def _restore(self) -> bool:
        try:
            stored = json.loads(self._file.read_text())
        except FileNotFoundError:
            return False
        self._faults = {number: Fault.of(fields) for number, fields in stored["faults"].items()}
        for plugin, generations in stored["touched"].items():
            self._touched[plugin] = set(generations)
        self.lose(stored["lost"])
        self._break_host()
        return True

    def report(self) -> dict[str, Any]:
        """The faults by their ids, and the GPUs."""
        return {
            "faults": {number: fault.report() for number, fault in self._faults.items()},
            "gpus": None if self.gpus is None else [gpu.report() for gpu in self.gpus.gpus],
        }
