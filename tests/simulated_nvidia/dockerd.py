"""A Docker Engine of the test's own: own network namespace, own data, own socket. Nothing of it is left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_WITHIN = 60.0
"""Seconds."""


@dataclass(frozen=True)
class OwnDockerd:
    """An engine that answers."""

    environment: Mapping[str, str]
    """For a client of it: DOCKER_HOST."""
    folder: Path
    log: Path

    def docker(self, *arguments: str) -> str:
        """The command line against this engine. Raises `CalledProcessError`."""
        command = ["docker", "--host", self.environment["DOCKER_HOST"], *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def load_image(self, reference: str) -> None:
        """Take over an image from the machine's main engine."""
        with subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE) as save:
            command = ["docker", "--host", self.environment["DOCKER_HOST"], "load", "--quiet"]
            subprocess.run(command, stdin=save.stdout, check=True, capture_output=True)
        assert save.returncode == 0, f"the main engine does not give {reference}"


@contextlib.contextmanager
def own_dockerd(
    *, path: str = "", program: str = "dockerd", settings: Mapping[str, Any] | None = None
) -> Iterator[OwnDockerd]:
    """Runs `program` as a Docker Engine for the time of the context. Needs root.

    `path` goes before the PATH on which it looks for hooks; `settings` is its daemon.json.

    In the host's network namespace a second dockerd would delete the first one's bridge.
    """
    folder = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))  # a socket's path is short
    socket, log = folder / "s", folder / "log"
    (folder / "daemon.json").write_text(json.dumps(settings or {}))
    command = ["unshare", "--net", program, "--host", f"unix://{socket}", "--config-file", str(folder / "daemon.json")]
    command += [
        "--data-root",
        str(folder / "data"),
        "--exec-root",
        str(folder / "exec"),
        "--pidfile",
        str(folder / "pid"),
    ]
    command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--log-level=warn"]
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        engine = OwnDockerd({"DOCKER_HOST": f"unix://{socket}"}, folder, log)
        _wait_until_it_answers(engine, daemon)
        yield engine
        _remove_containers(engine)
    finally:
        _end(daemon)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(engine: OwnDockerd, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        with contextlib.suppress(subprocess.SubprocessError):
            engine.docker("version")
            return
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the test's own dockerd does not answer:\n{engine.log.read_text()[-3000:]}")
        time.sleep(0.1)


def _remove_containers(engine: OwnDockerd) -> None:
    containers = engine.docker("ps", "--all", "--quiet", "--no-trunc").split()
    if containers:
        engine.docker("rm", "--force", "--volumes", *containers)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """It takes its containerd with it. Ended hard, it would leave mounts and that child behind."""
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(10)
