"""The orchestrator's own image."""

import subprocess
import sys

from support.waiting import PATIENCE


def build_own_image() -> str:
    """Build it if its content changed; returns its name."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "image"],
        capture_output=True,
        text=True,
        timeout=280 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
