"""One orchestrator for all workers of pytest-xdist: the first that needs it starts it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock
from testcontainers.core.config import testcontainers_config
from testcontainers.core.docker_client import DockerClient

from orchestrator.testing.leftovers import remove_session
from orchestrator.testing.orchestrator_container import OrchestratorContainer
from orchestrator.testing.running import RunningOrchestrator

_FILE: Final = "orchestrator.json"


@contextmanager
def shared_orchestrator(folder: Path, make: Callable[[], OrchestratorContainer]) -> Iterator[RunningOrchestrator]:
    """The orchestrator whose address is in `folder`, which `make` makes where there is none yet. It stays: see
    `remove_shared`. Raises as `OrchestratorContainer.start`.
    """
    file = folder / _FILE
    with FileLock(folder / "orchestrator.lock"):
        if not file.exists():
            # Ryuk would remove it with this worker, and others may go on.
            testcontainers_config.ryuk_disabled = True
            started = make().start()
            known = {
                "address": started.address,
                "api_key": started.api_key,
                "container": started.get_wrapped_container().id,
                "token": started.token,
            }
            file.touch(mode=0o600)
            file.write_text(json.dumps(known))
    found = json.loads(file.read_text())
    with RunningOrchestrator(found["address"], found["api_key"], found["container"]) as orchestrator:
        yield orchestrator


def remove_shared(folder: Path) -> None:
    """Remove the orchestrator whose address is in `folder`; no error where there is none."""
    try:
        token = json.loads((folder / _FILE).read_text())["token"]
    except FileNotFoundError:
        return
    engine = DockerClient()
    try:
        remove_session(engine, token)
    finally:
        engine.client.close()
