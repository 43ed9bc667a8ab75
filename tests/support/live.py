"""A real orchestrator in a process of its own, over the real engine, for end-to-end tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx

from support.waiting import PATIENCE

HEALTH_ROUTES_ANSWER = {200, 404}


@dataclass
class LiveOrchestrator:
    """`statuses` are those of the health routes during `health_watch`."""

    client: httpx.Client
    environment: dict[str, str]
    log: Path
    state_dir: Path
    run_dir: Path
    python: Path
    cwd: Path | None
    process: subprocess.Popen[bytes] = field(init=False)
    stop_plugins: bool = True
    """Whether the next process takes the containers down when it is stopped."""
    statuses: set[int] = field(default_factory=set)
    slowest: float = 0.0

    @property
    def deployment(self) -> str:
        return (self.state_dir / "deployment-id").read_text().strip()

    def health(self, plugin: str) -> dict[str, Any]:
        response = self.client.get(f"/v1/plugins/{plugin}/health")
        response.raise_for_status()
        return response.json()

    def wait_ready(self, seconds: float) -> None:
        """Wait until every plugin has started or failed."""
        end = time.monotonic() + seconds * PATIENCE
        while (state := self.client.get("/readyz")).status_code != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"not ready: {state.text}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.1)

    def wait_for(self, plugin: str, *states: str, seconds: float = 30) -> dict[str, Any]:
        end = time.monotonic() + seconds * PATIENCE
        while (health := self.health(plugin))["state"] not in states:
            assert time.monotonic() < end, f"{plugin} is {health['state']}, not {states}: {health}"
            time.sleep(0.02)
        return health

    def run(self, plugin: str, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        if "files" in options:
            return self.client.post(f"/v1/plugins/{plugin}/tools/{tool}/run", data=arguments or {}, **options)
        return self.client.post(f"/v1/plugins/{plugin}/tools/{tool}/run", json=arguments or {}, **options)

    def restart(self, plugin: str, wait: float = 60 * PATIENCE) -> dict[str, Any]:
        response = self.client.post(
            f"/v1/plugins/{plugin}/restart", params={"wait": wait}, timeout=wait + 30 * PATIENCE
        )
        response.raise_for_status()
        return response.json()

    def containers(self) -> list[Any]:
        engine = docker.from_env()
        try:
            label = f"plugin-orchestrator.deployment={self.deployment}"
            while True:
                try:
                    return engine.containers.list(all=True, filters={"label": label}, ignore_removed=True)
                except docker.errors.APIError as error:
                    # Podman's answer about one that was removed since the list is no 404.
                    if "no such container" not in str(error):
                        raise
        finally:
            engine.close()

    def socket_folders(self) -> list[Path]:
        folder = self.run_dir / self.deployment
        return list(folder.iterdir()) if folder.is_dir() else []

    def start(self) -> None:
        """Start the process, each time with the same settings and folders; does not wait."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [self.python, "-m", "orchestrator", "serve", *(["--stop-plugins"] if self.stop_plugins else [])],
                env=self.environment,
                cwd=self.cwd,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_serving(self, seconds: float = 90) -> None:
        end = time.monotonic() + seconds * PATIENCE
        while True:
            try:
                if self.client.get("/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """By SIGKILL: it cannot clean up."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60 * PATIENCE)


def processes_of(container: Any) -> list[int]:
    """Numbers on this host of a container's processes: its first, then its descendants, oldest first. From /proc: what
    engines answer to `top` differs, by Podman it is no JSON at all.
    """
    container.reload()
    first = int(container.attrs["State"]["Pid"])
    assert first > 1, "the container does not run"
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [first]
    for pid in found:
        found += sorted(child for child, parent in parents.items() if parent == pid)
    return found


def pause_container(container: Any, seconds: float = 30) -> None:
    """Pause it, again where the engine could not freeze it in time, as on a busy machine (status 500)."""
    end = time.monotonic() + seconds * PATIENCE
    while container.status != "paused":
        try:
            container.pause()
        except docker.errors.APIError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        container.reload()


@contextmanager
def live_orchestrator(
    plugins_dirs: Sequence[Path],
    *,
    engine: bool = True,
    python: Path = Path(sys.executable),
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[LiveOrchestrator]:
    """Run an orchestrator during the context; then it is stopped with its containers, however the test ended.

    `engine` false: the test has none. `python`: the interpreter whose orchestrator runs. `variables`: additions to the
    environment of the process.
    """
    home = Path(tempfile.mkdtemp(prefix="po-"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {
        "ORCHESTRATOR_PORT": str(port),
        "ORCHESTRATOR_PLUGINS_DIRS": ":".join(str(folder) for folder in plugins_dirs),
        "ORCHESTRATOR_STATE_DIR": str(home / "state"),
        "ORCHESTRATOR_RUN_DIR": str(home / "run"),
        **{f"ORCHESTRATOR_{name.upper()}": value for name, value in settings.items()},
        **(variables or {}),
    }
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90 * PATIENCE, trust_env=False) as client:
        state, run = environment["ORCHESTRATOR_STATE_DIR"], environment["ORCHESTRATOR_RUN_DIR"]
        live = LiveOrchestrator(client, environment, home / "log", Path(state), Path(run), python, cwd)
        live.start()
        try:
            live.wait_until_serving()
            yield live
        finally:
            live.stop()
            for container in live.containers() if engine else ():
                container.remove(force=True, v=True)
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def health_watch(live: LiveOrchestrator, names: Sequence[str]) -> Iterator[None]:
    """Poll the two health routes during the context and collect their statuses."""
    stopped = threading.Event()

    def poll() -> None:
        with httpx.Client(base_url=live.client.base_url, timeout=30, trust_env=False) as client:
            while not stopped.is_set():
                for path in ("/v1/plugins", *(f"/v1/plugins/{name}/health" for name in names)):
                    started = time.monotonic()
                    live.statuses.add(client.get(path).status_code)
                    live.slowest = max(live.slowest, time.monotonic() - started)
                stopped.wait(0.05)

    watcher = threading.Thread(target=poll)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()
