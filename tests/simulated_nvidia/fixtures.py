"""Fixtures of a simulated NVIDIA host, for conftest.py of the suites that need one."""

from pathlib import Path

import pytest

from simulated_nvidia.host import SimulatedHost, build_libraries


@pytest.fixture(scope="session")
def nvidia_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_libraries(tmp_path_factory.mktemp("nvidia") / "lib")


@pytest.fixture
def nvidia(tmp_path: Path, nvidia_libraries: Path) -> SimulatedHost:
    """No GPU, nothing wrong: tests set the state that they need."""
    return SimulatedHost(tmp_path / "nvidia", libraries=nvidia_libraries)
