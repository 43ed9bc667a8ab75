"""Process 1 of the testing image: it starts the orchestrator anew where that is killed on demand."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.waiting import PATIENCE

from orchestrator.simulation.__main__ import MARK

CHILD = """
import os, signal, sys, time
file = sys.argv[1]
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
open(file, "a").write(f"{os.getpid()} {len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))}\\n")
time.sleep(60)
"""
PARENT = """
import sys
from orchestrator.simulation.__main__ import supervise
sys.exit(supervise([sys.executable, "-c", sys.argv[1], sys.argv[2]]))
"""


@pytest.fixture
def started(tmp_path: Path):
    file = tmp_path / "started"
    file.touch()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, file])
    yield parent, file
    parent.kill()
    parent.wait()


def lines(file: Path, count: int) -> list[list[str]]:
    end = time.monotonic() + 20 * PATIENCE
    while len(found := [line.split() for line in file.read_text().splitlines()]) < count:
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_it_kills_and_starts_anew_and_ends_with_its_child(started) -> None:
    """The new one is another process, which blocks no signal; SIGTERM is the child's to answer."""
    parent, file = started
    lines(file, 1)
    parent.send_signal(signal.SIGUSR1)
    (first, _), (second, blocked) = lines(file, 2)
    assert first != second
    assert blocked == "0"
    with pytest.raises(ProcessLookupError):
        os.kill(int(first), 0)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20 * PATIENCE) == 7


@pytest.mark.slow
def test_outside_its_image_it_simulates_nothing(tmp_path: Path) -> None:
    """Though an installed wheel has the package: it is no switch of the orchestrator."""
    assert not MARK.exists()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.simulation", "--plan", tmp_path / "plan.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not the testing image" in done.stderr
