"""SIGKILL at any moment: what was acknowledged is there, and the counters are the sums of the rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.reliability import ReliabilityTable
from test_history import busy_writer

pytestmark = pytest.mark.slow

_ROUNDS = 60


def test_nothing_that_was_acknowledged_is_lost_by_sigkill(tmp_path: Path, reliability: ReliabilityTable) -> None:
    """60 lives of a busy writer on one file, each killed at a random moment, each finding the sums of those before."""
    tests = Path(busy_writer.__file__).parents[1]
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
    kept = seen["acknowledged"] - seen["lost"]
    reliability.count(f"history: kept over {_ROUNDS} SIGKILLs of its writer", right=kept, of=seen["acknowledged"])
    assert seen["rounds"] == _ROUNDS
    assert seen["acknowledged"] > 10 * _ROUNDS
