"""An orchestrator as operators run it; it can be killed and started again on the same folders."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker

from benchmarks.processes import free_port

LABEL = "plugin-orchestrator.deployment"
LABEL_PLUGIN = "plugin-orchestrator.plugin"
UP = frozenset({"INITIALIZED", "RUNNING"})
_POLL = 0.002
"""Seconds between requests to the health API."""


class Served:
    """`engine`: environment variables that name the engine; none for the default one. `code`: where the code is, if not
    here.
    """

    def __init__(
        self, home: Path, plugins: Path, engine: Mapping[str, str], code: Path | None = None, **settings: str
    ) -> None:
        self._code = code
        self.port = free_port()
        self.home = home
        self.run_dir = home / "run"
        self.process: subprocess.Popen[bytes] | None = None
        self._engine = engine
        self._environment = {
            **os.environ,
            **engine,
            "ORCHESTRATOR_PORT": str(self.port),
            "ORCHESTRATOR_PLUGINS_DIRS": str(plugins),
            "ORCHESTRATOR_STATE_DIR": str(home / "state"),
            "ORCHESTRATOR_RUN_DIR": str(self.run_dir),
            **{f"ORCHESTRATOR_{name.upper()}": value for name, value in settings.items()},
        }

    @property
    def target(self) -> str:
        return f"tcp:127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # The process

    def start(self) -> None:
        """Start the process, without waiting for an answer."""
        with (self.home / "log").open("ab") as log:
            command = [sys.executable, "-m", "orchestrator", "serve", "--stop-plugins"]
            self.process = subprocess.Popen(
                command, cwd=self._code, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it with the plugins' containers."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(120)

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")[-3000:]

    # Its API

    def request(self, method: str, path: str, body: Any = None, timeout: float = 120) -> tuple[int, Any]:
        """Return status and JSON. Raises `OSError` without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {} if body is None else {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def health(self, name: str) -> dict[str, Any]:
        status, content = self.request("GET", f"/v1/plugins/{name}/health")
        assert status == 200, f"the health route of {name} answered {status}"
        found: dict[str, Any] = content
        return found

    def plugins(self) -> list[dict[str, Any]]:
        status, content = self.request("GET", "/v1/plugins")
        assert status == 200, f"GET /v1/plugins answered {status}"
        found: list[dict[str, Any]] = content
        return found

    def run(self, name: str, tool: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
        return self.request("POST", f"/v1/plugins/{name}/tools/{tool}/run", arguments)

    def command(self, names: Collection[str], what: str) -> None:
        """Send start, stop or restart to all of them at the same time."""
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            for status, answer in pool.map(lambda name: self.request("POST", f"/v1/plugins/{name}/{what}"), names):
                assert status == 200, f"{what} was answered {status}: {answer}"

    def until_all(self, good: Callable[[dict[str, Any]], bool], *, within: float = 300, poll: float = 0.02) -> float:
        """Wait until the orchestrator answers and `good` holds of every plugin; return `time.monotonic()`."""
        end = time.monotonic() + within
        seen: list[dict[str, Any]] = []
        while True:
            with suppress(OSError):
                seen = self.plugins()
                if seen and all(good(plugin) for plugin in seen):
                    return time.monotonic()
            assert self.process is not None and self.process.poll() is None, f"it exited:\n{self.log()}"
            wrong = [(p["name"], p["state"], p["reason"]) for p in seen if not good(p)][:3]
            assert time.monotonic() < end, f"waited {within} s for {wrong}\n{self.log()}"
            time.sleep(poll)

    def until_up(self, within: float = 300) -> float:
        """Wait until every plugin takes runs; return the time."""
        return self.until_all(lambda plugin: plugin["state"] in UP, within=within)

    def until_states(self, name: str, states: Collection[str], within: float = 60) -> float:
        """Poll the health API every 2 ms until it reports one of the states; return the time."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        end = time.monotonic() + within
        try:
            while True:
                connection.request("GET", f"/v1/plugins/{name}/health")
                state = json.loads(connection.getresponse().read())["state"]
                if state in states:
                    return time.monotonic()
                assert time.monotonic() < end, f"{name} is still {state}, none of {sorted(states)}"
                time.sleep(_POLL)
        finally:
            connection.close()

    # Its containers

    @contextmanager
    def docker(self) -> Iterator[docker.DockerClient]:
        client = docker.from_env(environment={**os.environ, **self._engine}, timeout=120)
        try:
            yield client
        finally:
            client.close()

    def containers(self, *, every: bool = False) -> list[Any]:
        """The running containers of this orchestrator; `every`: also the others."""
        deployment = self.home / "state" / "deployment-id"
        if not deployment.exists():
            return []
        label = f"{LABEL}={deployment.read_text().strip()}"
        with self.docker() as client:
            return list(client.containers.list(all=every, filters={"label": label}, ignore_removed=True))

    def container(self, name: str) -> Any:
        """The plugin's container; `attrs` is `docker inspect`."""
        (found,) = [container for container in self.containers() if container.labels[LABEL_PLUGIN] == name]
        return found

    def socket(self, name: str) -> Path:
        """The plugin's tool socket."""
        (folder,) = (m["Source"] for m in self.container(name).attrs["Mounts"] if m["Destination"] == "/run/plugin")
        return Path(folder) / "tools.sock"


@contextmanager
def served(
    plugins: Path,
    engine: Mapping[str, str] | None = None,
    *,
    start: bool = True,
    code: Path | None = None,
    **settings: str,
) -> Iterator[Served]:
    """Run an orchestrator over the plugins of a folder, with folders of its own; remove everything afterwards."""
    home = Path(tempfile.mkdtemp(prefix="po-", dir="/tmp"))  # a socket's path must be short
    orchestrator = Served(home, plugins, engine or {}, code, **settings)
    try:
        if start:
            orchestrator.start()
        yield orchestrator
        orchestrator.stop()
    finally:
        if orchestrator.process is not None and orchestrator.process.poll() is None:
            orchestrator.kill()
        for container in orchestrator.containers(every=True):
            container.remove(force=True, v=True)
        shutil.rmtree(home, ignore_errors=True)
