"""Fixtures that more than one suite needs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.house import House


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """The whole orchestrator, not yet open: add plugins, then `await house.open()`."""
    house = House(tmp_path)
    yield house
    await house.close()
