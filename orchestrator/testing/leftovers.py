"""What a killed test process left on the engine: found by the label of its owner, and removed."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any, Final

from testcontainers.core.docker_client import DockerClient

from orchestrator.loader.image_recipe import PLUGIN_LABEL

LABEL: Final = "plugin-orchestrator.testing"
"""On everything that a session makes, with a value per orchestrator."""
STOP_SECONDS: Final = 90
"""For an orchestrator to stop, with runs in flight."""
OWNER: Final = "plugin-orchestrator.testing.owner"
"""On everything that a test session makes: the process that removes it."""
_PROC: Final = Path("/proc")
_UNKNOWN: Final = "0"
"""In place of the time at which a process was started."""


def owner_of(pid: int) -> str:
    """A process of this machine, so that another one with its number is not taken for it."""
    return f"{_place()}/{pid}/{_started(pid)}"


def is_alive(owner: str) -> bool:
    """Whether the owner may still live; True for one that cannot be seen from here: on another machine, in another
    container, or another user's where /proc hides those (`hidepid`).
    """
    place, _, process = owner.rpartition("/")[0].rpartition("/")
    if place != _place() or not process.isdecimal():
        return True
    # Before the question whether it is there: one that ends in between is not taken for one that is hidden.
    started = _started(int(process))
    hidden = _UNKNOWN in (started, owner.rpartition("/")[2])
    return (hidden or owner == f"{place}/{process}/{started}") and _exists(int(process))


def remove_leftovers(engine: DockerClient) -> list[str]:
    """Remove the containers and volumes of owners that have died; the names of what was removed."""
    removed: list[str] = []
    labelled: dict[str, Any] = {"label": OWNER}
    for container in engine.client.containers.list(all=True, filters=labelled, ignore_removed=True):
        if not is_alive(container.labels.get(OWNER, "")):
            with contextlib.suppress(OSError):  # another session removes it too
                container.remove(force=True, v=True)
                removed.append(str(container.name))
    for volume in engine.client.volumes.list(filters=labelled):
        if not is_alive((volume.attrs.get("Labels") or {}).get(OWNER, "")):
            with contextlib.suppress(OSError):
                volume.remove(force=True)
                removed.append(str(volume.name))
    return removed


def remove_session(engine: DockerClient, token: str) -> None:
    """Stop the orchestrator of this session, which ends its plugins, and remove everything of it."""
    ours: dict[str, Any] = {"label": f"{LABEL}={token}"}
    containers = engine.client.containers.list(all=True, filters=ours, ignore_removed=True)
    for container in sorted(containers, key=lambda each: PLUGIN_LABEL in each.labels):
        with contextlib.suppress(OSError):  # removed meanwhile, or the engine does not stop it: it is removed by force
            if PLUGIN_LABEL not in container.labels:
                container.stop(timeout=STOP_SECONDS)
            container.remove(force=True, v=True)
    for volume in engine.client.volumes.list(filters=ours):
        with contextlib.suppress(OSError):
            volume.remove(force=True)


def _place() -> str:
    """The machine, since it was started, and what it numbers processes by."""
    with contextlib.suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink().name.strip('pid:[]')}"
    return socket.gethostname()


def _started(pid: int) -> str:
    """When it was started, in the kernel's units; `_UNKNOWN` where nothing says it."""
    try:
        # After the name, which may hold anything: the 22nd field.
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return _UNKNOWN


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
