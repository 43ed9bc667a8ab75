"""A server of others: its processes, in an environment of its own."""

import base64
import json
import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from benchmarks.peers.contestant import BURNT, ITEMS, TEXT, Call, Running, Setup, Tool
from benchmarks.peers.environments import environment
from benchmarks.peers.process_tree import Process, end_all, processes, tree
from benchmarks.processes import free_port

APPS = Path(__file__).with_name("apps")
_LOG_END = 1500


@dataclass(frozen=True)
class Launch:
    """How to start a server: `files` are written into its working folder."""

    command: Sequence[str | Path]
    environment: Mapping[str, str]
    files: Mapping[str, str]


class Peer(ABC):
    """Serves `apps/NAME_app.py`, or what its module says."""

    name: str
    title: str
    isolation: str
    requirements: Sequence[str]

    @final
    def prepare(self) -> None:
        """See `Contestant`."""
        self.python()

    @final
    def python(self) -> Path:
        """The Python of its environment, which is made if it is not there. Raises NotAvailableError."""
        return environment(self.name, self.requirements)

    @abstractmethod
    def launch(self, python: Path, port: int, setup: Setup) -> Launch:
        """How a server is started on that port of the loopback address."""

    def servers(self, setup: Setup) -> Mapping[str, Setup]:
        """What each server serves. One, unless a peer's server has one plugin, or one kind of tool."""
        return {"": setup}

    def server_of(self, plugin: str, tool: Tool) -> str:
        """Which of `servers` a tool is called at."""
        return ""

    @abstractmethod
    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        """See `Contestant`."""

    @abstractmethod
    def health(self, plugin: str) -> Sequence[str]:
        """See `Contestant`."""

    @final
    @contextmanager
    def running(self, setup: Setup) -> Iterator[Running]:
        """Start its servers, each with the variables that `apps/workload.py` reads."""
        python = self.python()
        with ExitStack() as stack:
            running = {}
            for server, part in self.servers(setup).items():
                port = free_port()
                running[server] = stack.enter_context(_process(self.launch(python, port, part), port, part))
            yield _Servers(self, running)


class _Server:
    """One process tree."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process = process
        self._log = log
        self.target = f"tcp:127.0.0.1:{port}"
        self.seen: dict[int, Process] = {}
        """Every process that has been one of its own, to be ended even if its parent no longer is."""

    def pids(self) -> set[int]:
        there = processes()
        found = tree(there, self._process.pid) & set(there)
        self.seen |= {pid: there[pid] for pid in found}
        return found

    def exited(self) -> str | None:
        code = self._process.poll()
        return None if code is None else f"exited with {code}"

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-_LOG_END:]


class _Servers:
    """See `Running`."""

    def __init__(self, peer: Peer, servers: Mapping[str, _Server]) -> None:
        self._peer = peer
        self._servers = servers

    def target(self, plugin: str, tool: Tool) -> str:
        return self._servers[self._peer.server_of(plugin, tool)].target

    def pids(self) -> set[int]:
        return set().union(*(server.pids() for server in self._servers.values()))

    def exited(self) -> str | None:
        return next(filter(None, (server.exited() for server in self._servers.values())), None)


@contextmanager
def _process(launch: Launch, port: int, setup: Setup) -> Iterator[_Server]:
    with tempfile.TemporaryDirectory(prefix="peer-") as name, ExitStack() as stack:
        folder = Path(name)
        for file, content in launch.files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content)
        log = folder / "server.log"
        variables = {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")},
            "PYTHONPATH": str(APPS),
            "PEER_PORT": str(port),
            "PEER_PLUGINS": ",".join(setup.plugins),
            "PEER_BROKEN": setup.broken or "",
            "PEER_FOR_LOAD": "1" if setup.for_load else "",
            "PATH": f"{Path(launch.command[0]).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            **launch.environment,
        }
        process = subprocess.Popen(
            [str(part) for part in launch.command],
            cwd=folder,
            env=variables,
            stdout=stack.enter_context(log.open("wb")),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        server = _Server(process, port, log)
        try:
            yield server
        except Exception as error:
            error.add_note(f"{launch.command[0]} said:\n{server.log()}")
            raise
        finally:
            end_all(process.pid, server.seen)
            process.wait()


def json_arguments(tool: Tool, content: bytes) -> dict[str, object]:
    """Arguments of a tool for a peer that takes JSON alone: an upload is base64."""
    match tool:
        case Tool.ECHO:
            return {"text": TEXT}
        case Tool.DIGEST:
            return {"data": base64.b64encode(content).decode()}
        case Tool.ITEMS:
            return {"number": ITEMS}
        case Tool.BURN:
            return {"milliseconds": BURNT}
        case Tool.DIE:
            return {}


def json_body(content: object) -> bytes:
    """Without blanks."""
    return json.dumps(content, separators=(",", ":")).encode()


_BOUNDARY = "benchmark-boundary-7b1f"


def multipart(field: str, content: bytes) -> tuple[bytes, str]:
    """A form with one file; also its media type."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="upload.bin"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={_BOUNDARY}"
