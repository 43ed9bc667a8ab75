"""A separate Docker Engine for a test, with its own network namespace, data and socket. Nothing is left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

READY_WITHIN = 60.0
"""Seconds."""


class OwnDockerd:
    """An engine that a test may freeze, kill and start again on the same data."""

    def __init__(self, folder: Path, program: str, path: str, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.environment: Mapping[str, str] = {"DOCKER_HOST": f"unix://{self.socket}"}
        """Environment of its clients."""
        (folder / "daemon.json").write_text(json.dumps(settings))
        # In the host's network namespace a second dockerd would delete the first one's bridge.
        self._command = ["unshare", "--net", program, "--host", f"unix://{self.socket}", "--log-level=warn"]
        self._command += ["--config-file", str(folder / "daemon.json"), "--pidfile", str(folder / "pid")]
        self._command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
        self._command += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        self._environ = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "s"

    def start(self) -> None:
        """Start it and wait until it answers. If it exits meanwhile it is started again, as by a service manager."""
        deadline = time.monotonic() + READY_WITHIN
        self._launch()
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                self.docker("version")
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"the test's own dockerd does not answer:\n{self.log.read_text()[-3000:]}")
            if self._daemon is None or self._daemon.poll() is not None:
                self._end_containerd()
                self._launch()
            time.sleep(0.1)

    def _launch(self) -> None:
        (self.folder / "pid").unlink(missing_ok=True)
        with self.log.open("ab") as output:
            self._daemon = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT, env=self._environ)

    def _end_containerd(self) -> None:
        """Kill a containerd that a killed dockerd left behind: it may hold the next one's lock. Containers survive."""
        pid_file = self.folder / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            if "containerd" in Path(f"/proc/{pid}/comm").read_text():
                os.kill(pid, signal.SIGKILL)
            pid_file.unlink()

    def stop(self) -> None:
        """SIGTERM first: after SIGKILL, mounts and its containerd would be left behind."""
        if self._daemon is None:
            return
        self.thaw()
        self._daemon.send_signal(signal.SIGTERM)
        try:
            self._daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL; its containers continue."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(10)

    def freeze(self) -> None:
        """From now on it accepts connections and does not answer."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGCONT)

    def docker(self, *arguments: str) -> str:
        """Run the docker command line against this engine. Raises `CalledProcessError`."""
        command = ["docker", "--host", self.environment["DOCKER_HOST"], *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def load_image(self, reference: str) -> None:
        """Copy an image from the machine's main engine."""
        with subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE) as save:
            command = ["docker", "--host", self.environment["DOCKER_HOST"], "load", "--quiet"]
            subprocess.run(command, stdin=save.stdout, check=True, capture_output=True)
        assert save.returncode == 0, f"the main engine does not give {reference}"

    def clear(self) -> None:
        """Remove all its containers; a dead engine is started first."""
        self.thaw()
        if self._daemon is None or self._daemon.poll() is not None:
            self.start()
        containers = self.docker("ps", "--all", "--quiet", "--no-trunc").split()
        if containers:
            self.docker("rm", "--force", "--volumes", *containers)


@contextlib.contextmanager
def own_dockerd(
    *, path: str = "", program: str = "dockerd", settings: Mapping[str, Any] | None = None
) -> Iterator[OwnDockerd]:
    """An engine for the length of the context. Needs root.

    `path` is prepended to the PATH on which it finds hooks; `settings` is its daemon.json.
    """
    folder = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))  # a socket's path must be short
    engine = OwnDockerd(folder, program, path, settings or {})
    try:
        engine.start()
        try:
            yield engine
        finally:
            engine.clear()
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)
