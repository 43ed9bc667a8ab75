"""The deployment: the identity of one state folder's orchestrator among several on the same host."""

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings


class StateFolderError(OrchestratorError):
    """The state folder is unusable, or another orchestrator uses it."""


@dataclass(frozen=True)
class Deployment:
    """`id` labels this deployment's containers, `run_dir` holds its sockets, `lock` excludes other orchestrators from
    the state folder.
    """

    id: str
    run_dir: Path
    lock: FileLock


def claim(settings: Settings) -> Deployment:
    """Create and lock the state folder. Raises `StateFolderError`."""
    state = settings.state_dir
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The kernel releases it, however this process ends.
        lock = FileLock(state / "orchestrator.lock", timeout=0)
        lock.acquire()
        deployment = _identity(state / "deployment-id")
    except Timeout:
        raise StateFolderError(
            f"Another orchestrator uses the state folder {state}. Stop it, or set ORCHESTRATOR_STATE_DIR to another "
            "folder."
        ) from None
    except OSError as error:
        raise StateFolderError(
            f"The state folder {state} cannot be used: {error.strerror}. Set ORCHESTRATOR_STATE_DIR to another folder."
        ) from None
    return Deployment(deployment, settings.run_dir / deployment, lock)


def read_identity(settings: Settings) -> str | None:
    """The deployment's id; None where the state folder has none."""
    try:
        text = (settings.state_dir / "deployment-id").read_text().strip()
    except OSError:
        return None
    return text if re.fullmatch(r"[0-9a-f]{8}", text) else None


def _identity(path: Path) -> str:
    if path.exists() and re.fullmatch(r"[0-9a-f]{8}", text := path.read_text().strip()):
        return text
    # Short, since it is in the path of every socket.
    identity = secrets.token_hex(4)
    path.write_text(identity + "\n")
    return identity
