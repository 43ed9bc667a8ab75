"""Faults in the orchestrator's copies of plugin folders: a manifest that is changed, a module that is no Python."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import MANIFEST_FILE
from orchestrator.simulation.faults import Fault, FaultRefusedError

HOLDER: Final = "gpu-holder"
"""The plugin that has all GPUs while `GPU_BUSY` is asked for."""
_NO_REGISTRY: Final = "127.0.0.1:9/simulated/no-such-image:0"
_MODEL: Final = "simulated-fault"

Manifest = dict[str, Any]


def _with_model(file: str) -> Callable[[Manifest], Manifest]:
    return lambda manifest: {**manifest, "models": {**(manifest.get("models") or {}), _MODEL: f"models/{file}"}}


_CHANGES: Final[Mapping[str, Callable[[Manifest], Manifest]]] = {
    ReasonCode.MANIFEST_INVALID: lambda manifest: {**manifest, "simulated_fault": True},
    ReasonCode.MODEL_MISSING: _with_model("not-there.safetensors"),
    ReasonCode.MODEL_CORRUPT: _with_model("zeros.safetensors"),
    ReasonCode.SECRET_MISSING: lambda manifest: {
        **manifest,
        "secrets": [*(manifest.get("secrets") or ()), "SECRET_OF_A_TEST"],
    },
    ReasonCode.IMAGE_MISSING: lambda manifest: {**manifest, "image": _NO_REGISTRY},
}


def changed_manifest(manifest: Manifest, faults: Iterable[Fault]) -> Manifest:
    """The manifest as these faults want it. Pure."""
    for fault in faults:
        if fault.code in _CHANGES:
            manifest = _CHANGES[fault.code](manifest)
        seconds = None if fault.limit is None else f"{fault.limit:g}s"
        if fault.limit_name == "timeout":
            manifest = {**manifest, "limits": {**(manifest.get("limits") or {}), "timeout": seconds}}
        elif fault.limit_name:
            manifest = {**manifest, fault.limit_name: seconds}
    return manifest


class PluginFolders:
    """The copies; `originals` is a folder for what they were before."""

    def __init__(self, originals: Path) -> None:
        self._originals = originals

    def apply(self, plugin: str, folder: Path, faults: Iterable[Fault]) -> None:
        """Make the folder what these faults want it to be, and what it was where there are none."""
        wanted = tuple(faults)
        original = self._original(plugin, folder / MANIFEST_FILE)
        manifest = yaml.safe_load(original)
        changed = changed_manifest(manifest, wanted)
        (folder / MANIFEST_FILE).write_bytes(
            original if changed == manifest else yaml.safe_dump(changed, sort_keys=False).encode()
        )
        codes = {fault.code for fault in wanted}
        zeros = folder / "models" / "zeros.safetensors"
        if ReasonCode.MODEL_CORRUPT in codes:
            zeros.parent.mkdir(exist_ok=True)
            zeros.write_bytes(bytes(4096))
        else:
            zeros.unlink(missing_ok=True)
        self._break_module(plugin, folder, str(manifest.get("entrypoint", "")), broken=ReasonCode.BUILD_FAILED in codes)

    def _break_module(self, plugin: str, folder: Path, entrypoint: str, *, broken: bool) -> None:
        module = module_file(folder, entrypoint)
        if module is None:
            if broken:
                raise FaultRefusedError(f"The module of {plugin}'s entrypoint {entrypoint!r} is not in its folder.")
            return
        if broken:
            self._original(plugin, module)
            module.write_text("this is no Python\n")
        elif (self._originals / plugin / module.name).exists():
            module.write_bytes(self._original(plugin, module))

    def _original(self, plugin: str, file: Path) -> bytes:
        stored = self._originals / plugin / file.name
        if not stored.exists():
            stored.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, stored)
        return stored.read_bytes()


def module_file(folder: Path, entrypoint: str) -> Path | None:
    """The file of the entrypoint's module; None where the folder has none."""
    path = folder.joinpath(*entrypoint.partition(":")[0].split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def write_holder(folder: Path, gpus: int) -> None:
    """A plugin that has all GPUs, `gpus` of them, and gives them to nobody."""
    manifest = {
        "version": "0",
        "description": "Has all GPUs while a test wants none to be free.",
        "entrypoint": "gpu_holder:Holder",
        "requires_gpu": True,
        "replicas": gpus,  # one each: a program can use only one MIG instance
        "idle": {"keep": True},
        "limits": {"memory": "128MiB"},
    }
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_FILE).write_text(yaml.safe_dump(manifest))
    (folder / "gpu_holder.py").write_text("class Holder:\n    def validate(self) -> None:\n        pass\n")
