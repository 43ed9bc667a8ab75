"""An environment for each peer, with the versions that it names, in the user's cache."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs
from support.uv import UvError, run_uv

from benchmarks.peers.contestant import NotAvailableError

_MARK = "requirements"
"""File in a complete environment: what it was made of."""


def cache() -> Path:
    """`PEERS_CACHE`, else a folder of the user's cache."""
    named = os.environ.get("PEERS_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("plugin-orchestrator") / "peers"


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Install the requirements for the Python that runs this, if they are not there; return that environment's Python.

    Raises NotAvailableError.
    """
    folder = cache() / name
    interpreter = Path(sys.executable).resolve()
    wanted = "\n".join([str(interpreter), sys.version, *requirements])
    mark, python = folder / _MARK, folder / "bin" / "python"
    if not (mark.exists() and mark.read_text() == wanted):
        try:
            run_uv("venv", "--quiet", "--clear", "--python", interpreter, folder)
            run_uv("pip", "install", "--quiet", "--compile-bytecode", "--python", python, *requirements, seconds=1200)
        except UvError as error:
            lines = str(error).splitlines() or ["uv failed without a message"]
            raise NotAvailableError(f"cannot be installed: {' '.join(' '.join(lines).split())[:300]}") from error
        mark.write_text(wanted)
    return python


def installed(python: Path) -> list[str]:
    """Every package of an environment with its version, as pip freezes them."""
    return run_uv("pip", "freeze", "--quiet", "--python", python).splitlines()
