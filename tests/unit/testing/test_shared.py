"""Workers of pytest-xdist share one orchestrator: the first that needs it starts it, and none of them ends it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from testcontainers.core.config import testcontainers_config

from orchestrator.testing import shared
from orchestrator.testing.shared import remove_shared, shared_orchestrator


class Container:
    """Counts its starts."""

    started = 0

    def start(self) -> Any:
        Container.started += 1
        wrapped = SimpleNamespace(id="container-1")
        return SimpleNamespace(
            address="http://127.0.0.1:9",
            api_key="po_key",
            token="token-1",
            get_wrapped_container=lambda: wrapped,
        )


@pytest.fixture(autouse=True)
def without_ryuk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testcontainers_config, "_ryuk_disabled", False)
    monkeypatch.setattr(Container, "started", 0)


def worker(folder: Path) -> str:
    with shared_orchestrator(folder, Container) as orchestrator:  # type: ignore[arg-type]
        return orchestrator.address + orchestrator.api_key


def test_one_is_started_for_all(tmp_path: Path) -> None:
    """Also where they come at the same time; its key is for this user's eyes."""
    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(worker, [tmp_path] * 4))
    assert (Container.started, seen) == (1, {"http://127.0.0.1:9po_key"})
    assert (tmp_path / "orchestrator.json").stat().st_mode & 0o077 == 0


def test_it_is_removed_by_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who started the workers, once; without any worker that needed one, there is nothing to remove."""
    removed: list[str] = []
    monkeypatch.setattr(shared, "DockerClient", lambda: SimpleNamespace(client=SimpleNamespace(close=lambda: None)))
    monkeypatch.setattr(shared, "remove_session", lambda _, token: removed.append(token))
    remove_shared(tmp_path)
    worker(tmp_path)
    remove_shared(tmp_path)
    assert removed == ["token-1"]


def test_what_cannot_be_done_without_its_container_is_said(tmp_path: Path) -> None:
    with (
        shared.RunningOrchestrator("http://127.0.0.1:9", "") as orchestrator,
        pytest.raises(RuntimeError, match="only its API"),
        orchestrator.host_silent(),
    ):
        pass
