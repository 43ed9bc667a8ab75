"""An engine whose answers are scripted."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .fake_dockerd import FakeDockerd


@pytest.fixture
async def dockerd(tmp_path: Path) -> AsyncIterator[FakeDockerd]:
    dockerd = FakeDockerd(tmp_path / "docker.sock")
    dockerd.answers["GET", "/info"] = {"ServerVersion": "fake"}
    await dockerd.start()
    yield dockerd
    await dockerd.stop()
