"""SIGKILL at any moment: acknowledged writes are stored, and the counters are the sums of the rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.reliability import ReliabilityTable
from unit.registry.history import busy_writer

pytestmark = pytest.mark.slow

_ROUNDS = 60


def test_sigkill_loses_no_acknowledged_write(tmp_path: Path, reliability: ReliabilityTable) -> None:
    """60 busy writers, one after the other on one file, each killed at a random moment; each finds the sums so far."""
    tests = Path(busy_writer.__file__).parents[3]
    program = subprocess.run(
        [sys.executable, busy_writer.__file__, tmp_path, str(_ROUNDS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tests), str(tests.parent)))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    seen = json.loads(program.stdout)
    stored = seen["acknowledged"] - seen["lost"]
    reliability.count(f"history: stored over {_ROUNDS} SIGKILLs of its writer", right=stored, of=seen["acknowledged"])
    assert seen["rounds"] == _ROUNDS
    assert seen["acknowledged"] > 10 * _ROUNDS
