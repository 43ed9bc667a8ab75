"""The wheel, built once, and an environment that holds only it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.uv import run_uv

Uv = Callable[..., str]


@pytest.fixture(scope="session")
def uv() -> Uv:
    """Runs uv as `make python-env` does."""
    return run_uv


@pytest.fixture(scope="session")
def wheel(uv: Uv, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that this is complete too."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--out-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(uv: Uv, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    uv("venv", "--quiet", folder)
    uv("pip", "install", "--quiet", "--python", folder / "bin" / "python", wheel)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def installed_for_tests(uv: Uv, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of another project's environment: the wheel with its extra for tests, and pytest-xdist."""
    folder = tmp_path_factory.mktemp("another") / "venv"
    uv("venv", "--quiet", folder)
    python = folder / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", python, f"{wheel}[testing]", "pytest-xdist")
    return python
