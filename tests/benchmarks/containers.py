"""A plugin's container led by the engine's API alone, as a floor for what an orchestrator does with it."""

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
"""Seconds that a tool may take."""
_START = 30.0
_POLL = 0.005
_numbers = itertools.count()


def one_life(engine: docker.DockerClient, model: Mapping[str, Any], tool: str) -> None:
    """A container as `docker inspect` describes the model is created and started; once it serves its tools this one
    is called, which ends it, or it is killed in the end; and it is removed.
    """
    with tempfile.TemporaryDirectory(prefix="po-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)  # the plugin's user is nobody's on the host
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
            with suppress(docker.errors.APIError):  # it has ended
                engine.api.kill(created["Id"])
        finally:
            engine.api.remove_container(created["Id"], v=True, force=True)


def config_like(model: Mapping[str, Any], run_folder: str) -> dict[str, Any]:
    """For the engine's `POST /containers/create`: the same, but with a run folder of its own, and nobody's labels."""
    mounts = [
        mount | ({"Source": run_folder} if mount["Target"] == "/run/plugin" else {})
        for mount in model["HostConfig"]["Mounts"]
    ]
    return {**model["Config"], "Labels": {}, "HostConfig": {**model["HostConfig"], "Mounts": mounts}}


def _call(address: Path, tool: str) -> None:
    """Until it is answered, or broken off, or the time is over."""
    with socket.socket(socket.AF_UNIX) as caller, suppress(OSError):
        caller.settimeout(_TIMEOUT)
        caller.connect(str(address))
        head = f"POST /tools/{tool} HTTP/1.1\r\nHost: plugin\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        caller.sendall(f"{head}\r\n{{}}".encode())
        caller.recv(4096)
