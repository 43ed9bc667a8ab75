"""The real runtime as a child process on a folder of its own; no engine needed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 15.0
numbers = itertools.count()


class Runtime:
    """One running plugin, and the requests of its callers."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.scratch = folder / "scratch"
        self.log = folder / "log"
        self.run_dir.mkdir(exist_ok=True)
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(folder),
            "PLUGIN_RUN_DIR": str(self.run_dir),
            "PLUGIN_SCRATCH_DIR": str(self.scratch),
            **environment,
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "plugin_runtime"], env=variables, cwd=folder, stdout=log, stderr=log
            )
        self.clients: dict[str, httpx.Client] = {}

    def client(self, name: str) -> httpx.Client:
        if name not in self.clients:
            self.clients[name] = self.new_client(name)
        return self.clients[name]

    def new_client(self, name: str) -> httpx.Client:
        transport = httpx.HTTPTransport(
            uds=str(self.run_dir / f"{name}.sock"), verify=False
        )  # else it reads all certificates
        return httpx.Client(transport=transport, base_url="http://plugin", timeout=PATIENCE)

    def connect(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(PATIENCE)
        connection.connect(str(self.run_dir / f"{name}.sock"))
        return connection

    def status(self) -> dict[str, Any]:
        return self.client("control").get("/status").json()

    def diagnose(self) -> str:
        return self.client("control").post("/diagnose").json()["stacks"]

    def watch(self) -> Iterator[dict[str, Any]]:
        with self.new_client("control") as client, client.stream("GET", "/watch") as response:
            for line in response.iter_lines():
                yield json.loads(line)

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status that fulfils it, taken from the watch stream."""
        with contextlib.closing(self.watch()) as lines:
            return next(status for status in lines if condition(status))

    def listening(self) -> None:
        """Wait for the control socket. It is there a moment before it accepts anyone."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
                connection.connect(str(self.run_dir / "control.sock"))
                return
            time.sleep(0.005)

    def settled(self) -> dict[str, Any]:
        """The status after the start, however that went."""
        self.listening()
        return self.until(lambda status: status["phase"] != "starting")

    def ready(self) -> Runtime:
        status = self.settled()
        assert status["phase"] == "ready", (status, self.log.read_text())
        return self

    def run(self, tool: str, **arguments: Any) -> httpx.Response:
        return self.post(tool, json=arguments)

    def post(self, tool: str, **request: Any) -> httpx.Response:
        return self.client("tools").post(f"/tools/{tool}", **request)

    def result(self, tool: str, **arguments: Any) -> Any:
        answer = self.run(tool, **arguments).json()
        assert answer["ok"], answer
        return answer["result"]

    def stop(self) -> int:
        for client in self.clients.values():
            client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Launcher:
    """Starts runtimes; what `source` says becomes the module that holds the class `Plugin`."""

    def __init__(self) -> None:
        self.runtimes: list[Runtime] = []
        self.folder = Path(tempfile.mkdtemp(prefix="rt-"))

    def __call__(self, source: str = "", *, files: dict[str, str] | None = None, **environment: Any) -> Runtime:
        folder = self.folder / str(next(numbers))
        folder.mkdir()
        files = {"plugin.py": source, **(files or {})}
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        variables = {"PLUGIN_ENTRYPOINT": "plugin:Plugin"}
        for key, value in environment.items():
            variables[f"PLUGIN_{key.upper()}"] = value if isinstance(value, str) else json.dumps(value)
        runtime = Runtime(folder, variables)
        self.runtimes.append(runtime)
        return runtime

    def close(self) -> None:
        for runtime in self.runtimes:
            runtime.stop()
        shutil.rmtree(self.folder)


@pytest.fixture
def launch() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def launch_once() -> Iterator[Launcher]:
    """For plugins that a module's tests share."""
    launcher = Launcher()
    yield launcher
    launcher.close()
