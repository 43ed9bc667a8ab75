"""`make check` refuses what the rules forbid: each fault is planted in a copy of the tree, and the output names it."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import PROJECT, copy_checkout

TARGETS = ("lint", "types", "imports", "plugins", "scripts", "page")
_GIVEN = ("--old-file=python-env", "--old-file=page-tools")
"""The copy uses this project's environment, so make has nothing to install for it."""
_OUTER_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
"""Variables that `make test` passes on; they make an inner make print the folders it enters."""


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", *_GIVEN, *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _OUTER_MAKE}
    return subprocess.run(
        command, cwd=folder, env=environment, text=True, capture_output=True, check=False, timeout=280
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, with this project's environment and mypy's cache."""
    folder = tmp_path_factory.mktemp("tree")
    copy_checkout(folder)
    (folder / ".venv").symlink_to(PROJECT / ".venv")
    if (PROJECT / ".mypy_cache").is_dir():
        shutil.copytree(PROJECT / ".mypy_cache", folder / ".mypy_cache")
    return folder


@pytest.fixture
def plant(tree: Path) -> Iterator["Plant"]:
    planting = Plant(tree)
    yield planting
    planting.undo()


class Plant:
    """Changes files of the copy for the length of a test."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._before: dict[Path, str] = {}

    def __call__(self, path: str, old: str, new: str) -> None:
        file = self._tree / path
        text = self._before.setdefault(file, file.read_text())
        assert old in text, f"{path} no longer says {old!r}"
        file.write_text(text.replace(old, new, 1))

    def at_the_end(self, path: str, text: str) -> None:
        before = (self._tree / path).read_text()
        self(path, before, before + text)

    def undo(self) -> None:
        for file, text in self._before.items():
            file.write_text(text)


def refused(tree: Path, target: str) -> str:
    """The output of the target, which must fail, on one line."""
    done = make(tree, target)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0, said
    return said


def test_check_is_all_of_its_targets() -> None:
    """CI runs `make check`: it runs every target, and no step of it may fail unnoticed."""
    whole = make(PROJECT, "--dry-run", "check").stdout.splitlines()
    expected = [line for target in TARGETS for line in make(PROJECT, "--dry-run", target).stdout.splitlines()]
    assert whole == expected
    assert len(whole) >= len(TARGETS)
    assert not [line for line in whole if line.startswith("-") or "|| true" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("orchestrator/lifecycle/states.py", "import orchestrator.supervisor.fleet", "Imports run downwards BROKEN"),
        (
            "plugin-images/runtime/src/plugin_runtime/supervising/hangs.py",
            "import orchestrator.errors",
            "The runtime knows nothing of the orchestrator BROKEN",
        ),
        (
            "plugin-images/runtime/src/plugin_runtime/supervising/hangs.py",
            "import plugin_runtime.tools.results",
            "The supervisor loads nothing of the worker BROKEN",
        ),
        (
            "plugin-images/runtime/src/plugin_runtime/tools/results.py",
            "import plugin_runtime.worker.calls",
            "Rooms of the runtime BROKEN",
        ),
        ("orchestrator/tools/admission.py", "import asyncio", "Decisions know no effects BROKEN"),
        ("orchestrator/supervisor/record_writer.py", "import docker", "knows the Docker SDK BROKEN"),
        ("orchestrator/gpus/leases.py", "import pynvml", "Only gpus.nvml knows NVML BROKEN"),
        ("orchestrator/health/health_model.py", "import orchestrator.client", "The client serves those outside BROKEN"),
    ],
)
def test_an_import_against_the_rules_is_refused(tree: Path, plant: Plant, path: str, line: str, broken: str) -> None:
    """Upwards through the layers, of the Docker SDK outside its module, of effects in pure modules."""
    plant.at_the_end(path, f"\n\n{line}\n")
    said = refused(tree, "imports")
    assert broken in said
    importing = path.removesuffix(".py").removeprefix("plugin-images/runtime/src/").replace("/", ".")
    imported = line.removeprefix("import ")
    assert f"{importing} is not allowed to import" in said or f"{importing} -> {imported}" in said


@pytest.mark.slow
def test_a_package_that_is_in_no_layer_is_refused(tree: Path) -> None:
    """A new folder does not escape the rules."""
    package = tree / "orchestrator" / "odds_and_ends"
    package.mkdir()
    (package / "__init__.py").write_text('"""Helpers for everything."""\n')
    try:
        assert "orchestrator.odds_and_ends" in refused(tree, "imports")
    finally:
        shutil.rmtree(package)


def test_the_picture_of_the_layers_is_the_rule() -> None:
    """orchestrator/README.md draws the enforced layers, line by line."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    picture = (PROJECT / "orchestrator" / "README.md").read_text().split("```")[1]
    assert [line.split("  ")[0] for line in picture.strip().splitlines()] == contracts[0]["layers"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("orchestrator/lifecycle/states.py", "orchestrator"),
        ("plugin-images/runtime/src/plugin_runtime/supervising/hangs.py", "plugin_runtime"),
    ],
)
def test_an_untyped_function_is_refused(tree: Path, plant: Plant, path: str, package: str) -> None:
    """By mypy, on the host's side and in the containers'; by ruff everywhere except in tests."""
    plant.at_the_end(path, "\n\ndef half(number):\n    return number / 2\n")
    assert "Function is missing a type annotation [no-untyped-def]" in (said := refused(tree, "types"))
    assert f"{package}/" in said
    assert "ANN001" in refused(tree, "lint")


@pytest.mark.slow
def test_a_plugin_without_validate_is_refused(tree: Path, plant: Plant) -> None:
    """By the audit, before any of its code runs."""
    plant("plugins/motion_detector/motion_detector/plugin.py", "def validate(self)", "def check(self)")
    assert "motion-detector validate: The class MotionDetector has no validate()" in refused(tree, "plugins")
