"""The state folder's disk is full: runs continue, /healthz reports that history is not written, writing recovers."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from engine.faults.conftest import ECHOES, Watched
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")]

MAX_DETECTION = 20.0  # seconds


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _history(live: LiveOrchestrator) -> dict[str, Any]:
    history: dict[str, Any] = live.client.get("/healthz").json()["history"]
    return history


def _call_until(live: LiveOrchestrator, *, problem: bool) -> None:
    """Execute runs, each successful, until /healthz reports a problem, or none any more."""
    end = time.monotonic() + MAX_DETECTION
    while (_history(live)["problem"] is not None) is not problem:
        assert time.monotonic() < end, _history(live)
        assert live.run(ECHOES[0], "echo", {"text": "on"}).json()["result"] == "on"
        time.sleep(0.05)


def test_a_full_disk_stops_no_run(small_disk: Path, echoes: Path, watched: Watched) -> None:
    """Health and runs are answered, a plugin can be restarted; with free space history is written again."""
    with live_orchestrator([echoes], state_dir=str(small_disk / "state"), stop_grace="500ms") as live:
        live.wait_ready(120)
        with watched(live, ECHOES):
            ballast = small_disk / "ballast"
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            _call_until(live, problem=True)
            assert live.restart(ECHOES[1])["state"] == "INITIALIZED"
            assert live.run(ECHOES[1], "echo", {"text": "on"}).json()["result"] == "on"
            ballast.unlink()
            _call_until(live, problem=False)
