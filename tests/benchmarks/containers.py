"""A plugin's container run by the engine's API alone: the floor for the orchestrator's work on it."""

import itertools
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker

from benchmarks.processes import answers

_TIMEOUT = 0.5
"""Time limit of a tool, in seconds."""
_START = 30.0
_POLL = 0.005
_numbers = itertools.count()


def one_life(engine: docker.DockerClient, model: Mapping[str, Any], tool: str) -> None:
    """Create and start a container like `model` (from `docker inspect`), call `tool`, which ends it, and remove it."""
    with tempfile.TemporaryDirectory(prefix="po-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)  # the plugin's user does not exist on the host
        created = engine.api.create_container_from_config(
            config_like(model, folder), f"bench-{os.getpid()}-{next(_numbers)}"
        )
        try:
            engine.api.start(created["Id"])
            address, end = Path(folder) / "tools.sock", time.monotonic() + _START
            while not answers(address):
                assert time.monotonic() < end, "the container does not answer"
                time.sleep(_POLL)
            _call(address, tool)
            with suppress(docker.errors.APIError):  # the tool has ended it
                engine.api.kill(created["Id"])
        finally:
            engine.api.remove_container(created["Id"], v=True, force=True)


def config_like(model: Mapping[str, Any], run_folder: str) -> dict[str, Any]:
    """For the engine's `POST /containers/create`: the same, with a run folder of its own and without labels."""
    mounts = [
        mount | ({"Source": run_folder} if mount["Target"] == "/run/plugin" else {})
        for mount in model["HostConfig"]["Mounts"]
    ]
    return {**model["Config"], "Labels": {}, "HostConfig": {**model["HostConfig"], "Mounts": mounts}}


def _call(address: Path, tool: str) -> None:
    """Return after the answer, a broken connection, or the time-out."""
    with socket.socket(socket.AF_UNIX) as caller, suppress(OSError):
        caller.settimeout(_TIMEOUT)
        caller.connect(str(address))
        head = f"POST /tools/{tool} HTTP/1.1\r\nHost: plugin\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        caller.sendall(f"{head}\r\n{{}}".encode())
        caller.recv(4096)
