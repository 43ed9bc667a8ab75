"""What a plugin's folder promises: one check a function, each over files that are read and never run."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

from orchestrator.audit.findings import Finding, error, ok, settled, warning
from orchestrator.audit.source import PluginClass, SourceError, parsed, plugin_class, python_files
from orchestrator.loader.image_recipe import REQUIREMENTS, SHARED
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import EffectiveLimits

_GPU_PACKAGES: Final = ("cupy", "nvidia-", "onnxruntime-gpu", "tensorrt", "pycuda", "jax-cuda", "torch-tensorrt")
"""Distributions that are of no use without an NVIDIA GPU, by the beginning of their names."""
_GPU_MODULES: Final = frozenset({"cupy", "tensorrt", "pycuda", "pynvml", "torch_tensorrt"})
_CUDA_WORDS: Final = ("cuda", "CUDAExecutionProvider", "TensorrtExecutionProvider")
_LONGEST_TIMEOUT: Final = 3600.0
"""Seconds; a run that takes longer is better asynchronous work in several runs."""
_MOST_MEMORY: Final = 64 * 1024**3
_MOST_WAITING: Final = 600.0
"""Seconds that the last of a full queue may have to wait, before the queue only hides that it is too slow."""


def check_folder(plugin: DiscoveredPlugin, limits: EffectiveLimits | None) -> Iterator[Finding]:
    """All static checks of one plugin. `limits`: what holds for it with the operator's defaults."""
    manifest = plugin.manifest
    if manifest is None:
        yield error(plugin.name, "manifest", plugin.error or "The manifest is not valid.")
        return
    yield ok(plugin.name, "manifest")
    if manifest.image in SHARED:
        yield from _check_class(plugin.name, plugin.folder, manifest.entrypoint)
        yield from settled(plugin.name, "requirements", list(_requirements(plugin.name, plugin.folder)))
        yield from settled(plugin.name, "gpu", list(_gpu(manifest, plugin.folder)))
    if limits is not None:
        yield from settled(plugin.name, "limits", list(_limits(plugin.name, limits)))
    yield from settled(plugin.name, "samples and tests", list(_samples(plugin.name, plugin.folder)))


def _check_class(name: str, folder: Path, entrypoint: str) -> Iterator[Finding]:
    try:
        found = plugin_class(folder, entrypoint)
    except SourceError as problem:
        yield error(name, "entrypoint", f"The entrypoint {entrypoint} cannot be found: {problem}.")
        return
    yield ok(name, "entrypoint")
    yield from settled(name, "validate", list(_validate(name, found)))
    yield from settled(name, "tools", list(_tools(name, found)))


def _validate(name: str, found: PluginClass) -> Iterator[Finding]:
    if "validate" in found.methods:
        return
    sentence = f"The class {found.name} has no validate(): write one that loads what the plugin needs and raises."
    yield (
        error(name, "validate", sentence)
        if found.whole
        else warning(
            name, "validate", f"{sentence} It may stand in a base class from outside the folder, which is not read."
        )
    )


def _tools(name: str, found: PluginClass) -> Iterator[Finding]:
    if not found.tools and found.whole:
        yield error(name, "tools", f"The class {found.name} has no tool: mark a method with @tool.")
    for tool in found.tools:
        if tool.untyped:
            given = ", ".join(tool.untyped)
            yield error(name, "tools", f"The tool {tool.name} has parameters without type hints: {given}. Add them.")
        if tool.variadic:
            yield error(name, "tools", f"The tool {tool.name} takes *args or **kwargs: name its parameters.")
        if not tool.described:
            yield error(name, "tools", f"The tool {tool.name} has no docstring: callers read it as its description.")


def _requirements(name: str, folder: Path) -> Iterator[Finding]:
    path = folder / REQUIREMENTS
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        text = line.split(" #")[0].strip().rstrip("\\").strip()
        if not text or text.startswith(("#", "--hash")):
            continue
        if text.startswith("-"):
            yield warning(
                name, "requirements", f"{REQUIREMENTS} line {number}: the option {text.split()[0]} is not read."
            )
            continue
        try:
            requirement = Requirement(text.split(" --hash")[0])
        except InvalidRequirement as problem:
            yield error(name, "requirements", f"{REQUIREMENTS} line {number}: {str(problem).splitlines()[0]}")
            continue
        if not _pinned(requirement):
            yield error(
                name,
                "requirements",
                f"{REQUIREMENTS} line {number}: {requirement.name} is not pinned; write {requirement.name}==<version>, "
                "so that every build is the same.",
            )


def _pinned(requirement: Requirement) -> bool:
    exact = [
        clause for clause in requirement.specifier if clause.operator in ("==", "===") and "*" not in clause.version
    ]
    return bool(exact) or requirement.url is not None


def _gpu(manifest: Manifest, folder: Path) -> Iterator[Finding]:
    if manifest.requires_gpu:
        return
    certain = [f"its image is {manifest.image}"] if manifest.image == "cuda" else []
    certain += [f"{REQUIREMENTS} names {name}" for name in _gpu_requirements(folder)]
    likely: list[str] = []
    for path in python_files(folder):
        try:
            tree = parsed(path)
        except SourceError:
            continue  # told by the entrypoint's check, where it matters
        modules, words = _cuda_in(tree)
        place = path.relative_to(folder)
        certain += [f"{place} imports {module}" for module in sorted(modules)]
        likely += [f"{place} says {word!r}" for word in sorted(words)]
    advice = "set requires_gpu: true, or say in its README that it also runs without"
    if certain:
        yield error(manifest.name, "gpu", f"It uses CUDA ({'; '.join(certain[:3])}) without requires_gpu: {advice}.")
    elif likely:
        yield warning(
            manifest.name, "gpu", f"It may use CUDA ({'; '.join(likely[:3])}) without requires_gpu: {advice}."
        )


def _gpu_requirements(folder: Path) -> Iterator[str]:
    path = folder / REQUIREMENTS
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    for line in lines:
        name = line.strip().lower().replace("_", "-")
        if name.startswith(_GPU_PACKAGES):
            yield line.split("=")[0].split(";")[0].strip()


def _cuda_in(tree: ast.Module) -> tuple[set[str], set[str]]:
    modules: set[str] = set()
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names} & _GPU_MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module.split(".")[0]} & _GPU_MODULES
        elif isinstance(node, ast.Attribute) and node.attr == "cuda":
            words.add(".cuda")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= {word for word in _CUDA_WORDS if node.value == word or node.value.startswith(f"{word}:")}
    return modules, words


def _limits(name: str, limits: EffectiveLimits) -> Iterator[Finding]:
    if limits.timeout > _LONGEST_TIMEOUT:
        yield warning(name, "limits", f"limits.timeout is {limits.timeout:g} s: over an hour for one run.")
    if limits.memory > _MOST_MEMORY:
        yield warning(name, "limits", f"limits.memory is {limits.memory} bytes: over 64 GiB for one plugin.")
    if limits.shm > limits.memory:
        yield error(name, "limits", "limits.shm is larger than limits.memory, and counts against it: lower it.")
    if limits.cpus is not None and limits.cpus < 0.1:
        yield warning(name, "limits", f"limits.cpus is {limits.cpus:g}: its start will take a multiple of its time.")
    waiting = limits.timeout * limits.queue / limits.concurrency
    if waiting > _MOST_WAITING and limits.queue > 16:
        yield warning(
            name,
            "limits",
            f"queue is {limits.queue}: its last run could wait {waiting:g} s. Callers are better told 429 than that.",
        )


def _samples(name: str, folder: Path) -> Iterator[Finding]:
    if not _holds(folder / "samples", "*"):
        yield warning(name, "samples and tests", "There is no samples/ with an input to try it with.")
    if not _holds(folder / "tests", "test_*.py"):
        yield warning(name, "samples and tests", "There is no tests/test_*.py.")


def _holds(folder: Path, pattern: str) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.rglob(pattern))
