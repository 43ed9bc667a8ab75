"""Fixtures that more than one suite needs."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.house import House
from support.own_image import build_own_image

pytest_plugins = ["support.reliability"]

# An example may take as long as a busy machine needs; pytest's own time limit holds.
settings.register_profile("quick", deadline=None)
settings.load_profile("quick")

# A shell that begins the suite in the background has SIGINT ignored, which the programs under test would take over.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """The whole orchestrator, not yet open: add plugins, then `await house.open()`."""
    async with House(tmp_path) as house:
        yield house


@pytest.fixture(scope="session")
def own_image() -> str:
    """The name of the orchestrator's own image, built where it was out of date."""
    return build_own_image()
