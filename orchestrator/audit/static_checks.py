"""Checks of a plugin's folder, one per function. Files are read and never run. Pure."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

from orchestrator.audit.findings import Finding, error, findings_or_ok, ok, warning
from orchestrator.audit.source import PluginClass, SourceError, parsed, plugin_class, python_files
from orchestrator.errors import BuildError
from orchestrator.loader.image_recipe import SHARED
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.loader.requirements_file import REQUIREMENTS, Line, named_files, requirement_lines
from orchestrator.loader.samples import SamplesError, read_samples
from orchestrator.mcp.names import misfit
from orchestrator.registry import EffectiveLimits
from orchestrator.supervisor.container_policy import CACHE_FOLDER, cache_variables

_GPU_PACKAGES: Final = ("cupy", "nvidia-", "onnxruntime-gpu", "tensorrt", "pycuda", "jax-cuda", "torch-tensorrt")
"""Prefixes of distributions that are useless without an NVIDIA GPU."""
_GPU_MODULES: Final = frozenset({"cupy", "tensorrt", "pycuda", "pynvml", "torch_tensorrt"})
_CUDA_WORDS: Final = ("cuda", "CUDAExecutionProvider", "TensorrtExecutionProvider")
_MAX_TIMEOUT: Final = 3600.0
"""Seconds; longer work is better split into several asynchronous runs."""
_MAX_MEMORY: Final = 64 * 1024**3
_MAX_QUEUE_WAIT: Final = 600.0
"""Seconds that the last run of a full queue may wait; a longer queue only hides that the plugin is too slow."""


def check_folder(plugin: DiscoveredPlugin, limits: EffectiveLimits | None) -> Iterator[Finding]:
    """All static checks of one plugin. `limits`: its effective limits, operator's defaults included."""
    manifest = plugin.manifest
    if manifest is None:
        yield error(plugin.name, "manifest", plugin.error or "The manifest is not valid.")
        return
    yield ok(plugin.name, "manifest")
    if manifest.image in SHARED:
        yield from _check_class(plugin.name, plugin.folder, manifest.entrypoint)
        yield from findings_or_ok(plugin.name, "requirements", list(_requirements(plugin.name, plugin.folder)))
        yield from findings_or_ok(plugin.name, "gpu", list(_gpu(manifest, plugin.folder)))
    yield from findings_or_ok(plugin.name, "instances", list(_instances(manifest)))
    if manifest.cache:
        yield from findings_or_ok(plugin.name, "cache", list(_cache(manifest)))
    if limits is not None:
        yield from findings_or_ok(plugin.name, "limits", list(_limits(plugin.name, limits)))
    yield from findings_or_ok(plugin.name, "samples and tests", list(_samples(plugin.name, plugin.folder)))


def _cache(manifest: Manifest) -> Iterator[Finding]:
    for variable in sorted(cache_variables().keys() & manifest.env.keys()):
        if not manifest.env[variable].startswith(CACHE_FOLDER):
            sentence = (
                f"`env` sets {variable} to a folder outside of {CACHE_FOLDER}: what it holds ends with the instance."
            )
            yield warning(manifest.name, "cache", sentence)


def _instances(manifest: Manifest) -> Iterator[Finding]:
    if "spread" in manifest.model_fields_set and not manifest.requires_gpu:
        sentence = "spread is set without requires_gpu: true. It spreads instances over GPUs and does nothing here."
        yield warning(manifest.name, "instances", sentence)
    elif manifest.spread == "pack" and manifest.gpu.sharing == "exclusive":
        sentence = (
            "spread: pack needs gpu.sharing: shared. Each instance has its GPUs for itself, so none can be packed."
        )
        yield warning(manifest.name, "instances", sentence)
    if manifest.idle.keep and not manifest.requires_gpu:
        sentence = "idle.keep is set without requires_gpu: true. Only plugins with GPUs are parked for another plugin."
        yield warning(manifest.name, "instances", sentence)


def _check_class(name: str, folder: Path, entrypoint: str) -> Iterator[Finding]:
    try:
        found = plugin_class(folder, entrypoint)
    except SourceError as problem:
        yield error(name, "entrypoint", f"The entrypoint {entrypoint} cannot be found: {problem}.")
        return
    yield ok(name, "entrypoint")
    yield from findings_or_ok(name, "validate", list(_validate(name, found)))
    yield from findings_or_ok(name, "tools", list(_tools(name, found)))


def _validate(name: str, found: PluginClass) -> Iterator[Finding]:
    if "validate" in found.methods:
        return
    sentence = f"The class {found.name} has no validate(): write one that loads the models and raises on a problem."
    yield (
        error(name, "validate", sentence)
        if found.complete
        else warning(name, "validate", f"{sentence} A base class outside the folder, which is not read, may define it.")
    )


def _tools(name: str, found: PluginClass) -> Iterator[Finding]:
    if not found.tools and found.complete:
        yield error(name, "tools", f"The class {found.name} has no tool: mark a method with @tool.")
    for tool in found.tools:
        if tool.untyped:
            untyped = ", ".join(tool.untyped)
            yield error(name, "tools", f"The tool {tool.name} has parameters without type hints: {untyped}. Add them.")
        if tool.variadic:
            yield error(name, "tools", f"The tool {tool.name} takes *args or **kwargs: give it named parameters.")
        if (sentence := misfit(name, tool.name)) is not None:
            yield warning(name, "tools", sentence)
        if not tool.described:
            yield error(
                name,
                "tools",
                f"The tool {tool.name} has no docstring: write one, which callers see as its description.",
            )


def _requirements(name: str, folder: Path) -> Iterator[Finding]:
    if not (folder / REQUIREMENTS).is_file():
        return
    try:
        named_files(folder, ())
        found = requirement_lines(folder)
    except BuildError as problem:
        yield error(name, "requirements", f"{problem}.")
        return
    for line in found:
        sentence = _requirement_problem(line)
        if sentence is not None:
            yield error(name, "requirements", f"{line.where}: {sentence}")
        elif not line.requirement and not list(line.option_values()):
            yield warning(name, "requirements", f"{line.where}: the option {line.text.split()[0]} is not checked.")


def _requirement_problem(line: Line) -> str | None:
    if not line.requirement or line.path is not None:  # an option; a file of the plugin's folder
        return None
    try:
        requirement = Requirement(line.requirement)
    except InvalidRequirement as problem:
        return str(problem).splitlines()[0]
    if _pinned(requirement):
        return None
    return f"{requirement.name} is not pinned; write {requirement.name}==<version>, so that every build is the same."


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
            continue  # the entrypoint's check reports it if it matters
        modules, words = _cuda_in(tree)
        module_path = path.relative_to(folder)
        certain += [f"{module_path} imports {module}" for module in sorted(modules)]
        likely += [f"{module_path} has {word!r}" for word in sorted(words)]
    advice = "set requires_gpu: true, or state in its README that it also runs without a GPU"
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
    if limits.timeout > _MAX_TIMEOUT:
        yield warning(name, "limits", f"limits.timeout is {limits.timeout:g} s: over an hour for one run.")
    if limits.memory > _MAX_MEMORY:
        yield warning(name, "limits", f"limits.memory is {limits.memory} bytes: over 64 GiB for one plugin.")
    if limits.shm > limits.memory:
        yield error(name, "limits", "limits.shm is larger than limits.memory, which includes it: lower limits.shm.")
    if limits.cpus is not None and limits.cpus < 0.1:
        yield warning(name, "limits", f"limits.cpus is {limits.cpus:g}: its start will be several times slower.")
    waiting = limits.timeout * limits.queue / limits.concurrency
    if waiting > _MAX_QUEUE_WAIT and limits.queue > 16:
        yield warning(
            name,
            "limits",
            f"queue is {limits.queue}: its last run could wait {waiting:g} s. Lower it: callers then get 429 instead.",
        )


def _samples(name: str, folder: Path) -> Iterator[Finding]:
    if not _has_file(folder / "samples", "*"):
        yield warning(name, "samples and tests", "It has no samples/: add an input to try it with.")
    try:
        for sample in read_samples(folder):
            sample.check_files()
    except SamplesError as problem:
        yield error(name, "samples and tests", str(problem))
    if not _has_file(folder / "tests", "test_*.py"):
        yield warning(name, "samples and tests", "It has no tests/test_*.py: add tests.")


def _has_file(folder: Path, pattern: str) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.rglob(pattern))
