"""An open store on a fresh folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from unit.registry.history.samples import store_in

from orchestrator.registry.history import HistoryStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[HistoryStore]:
    """In `tmp_path`."""
    store = store_in(tmp_path)
    await store.restore()
    yield store
    await store.close()
