"""promtool, Prometheus' own judge of metrics and queries."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_BROUGHT: Final = Path(__file__).parents[2] / ".venv-tools" / "bin" / "promtool"
_PATH: Final = shutil.which("promtool") or (str(_BROUGHT) if _BROUGHT.exists() else None)

needs_promtool = pytest.mark.skipif(_PATH is None, reason="promtool is not here; `make test-tools` brings it")


def promtool(*arguments: str, told: str = "") -> tuple[bool, str]:
    """Whether it is content, and what it said."""
    assert _PATH is not None
    done = subprocess.run([_PATH, *arguments], input=told, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr
