"""promtool, Prometheus' own checker of metrics and queries."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_INSTALLED: Final = Path(__file__).parents[2] / ".venv-tools" / "bin" / "promtool"
_PATH: Final = shutil.which("promtool") or (str(_INSTALLED) if _INSTALLED.exists() else None)

needs_promtool = pytest.mark.skipif(_PATH is None, reason="promtool is not installed; `make test-tools` installs it")


def promtool(*arguments: str, stdin: str = "") -> tuple[bool, str]:
    """Returns whether it found no fault, and its output."""
    assert _PATH is not None
    done = subprocess.run([_PATH, *arguments], input=stdin, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr
