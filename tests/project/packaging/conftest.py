"""The wheel, built once, and an environment that holds only it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkout import PROJECT

Uv = Callable[..., str]


@pytest.fixture(scope="session")
def uv() -> Uv:
    """Runs uv as `make python-env` does: with the host's index and certificates."""
    bundled = PROJECT / ".venv-tools" / "bin" / "uv"
    program = str(bundled) if bundled.exists() else shutil.which("uv")
    assert program is not None, "`make python-env` installs uv"
    index = os.environ.get("PIP_INDEX_URL")
    environment = os.environ | ({"UV_DEFAULT_INDEX": index} if index else {})
    environment.setdefault("UV_SYSTEM_CERTS", "true")
    if bundle := os.environ.get("ORCHESTRATOR_CA_BUNDLE"):
        environment["SSL_CERT_FILE"] = bundle
    environment.pop("VIRTUAL_ENV", None)

    def run(*arguments: object, **variables: str) -> str:
        done = subprocess.run(
            [program, *map(str, arguments)],
            env=environment | variables,
            cwd=PROJECT,
            text=True,
            capture_output=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


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
