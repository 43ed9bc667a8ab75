"""This project among its peers: an orchestrator, each plugin in a container; today's code or an earlier commit's."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.before import PROJECT, earlier
from benchmarks.bench import build_image, write_plugin
from benchmarks.peers.contestant import BURNT, ITEMS, TEXT, Call, NotAvailableError, Running, Setup, Tool
from benchmarks.peers.peer import json_body
from benchmarks.peers.process_tree import processes
from benchmarks.peers.table import BEFORE, OURS
from benchmarks.rows.calls import WIDE_MANIFEST
from benchmarks.served import Served, served

_WIDE: Final = "-wide"
"""Ends the name of the same plugin that lets 16 calls run at once, as peers do that have threads or a loop."""
_SHIMS: Final = ("containerd-shim", "conmon")


class Ours:
    """`commit`: an earlier one; None for today's code. `stack` ends what `prepare` makes."""

    def __init__(self, stack: ExitStack, commit: str | None = None) -> None:
        self._stack = stack
        self._commit = commit
        self._code = PROJECT
        self._environment: Mapping[str, str] | None = None
        self._image = ""
        self.name = BEFORE if commit else OURS
        self.title = f"this project, {commit}" if commit else "this project"
        self.isolation = (
            "a container for each plugin: own namespaces, user and network, seccomp, limits of memory and processes; "
            "every run in a journal on disk"
        )

    def prepare(self) -> None:
        try:
            if self._commit is None:
                self._image = build_image()
                return
            unpacked = self._stack.enter_context(earlier(self._commit))
        except subprocess.CalledProcessError as error:
            raise NotAvailableError(f"cannot be built: {error}") from error
        self._code, self._environment, self._image = unpacked.folder, unpacked.environment, unpacked.image

    @contextmanager
    def running(self, setup: Setup) -> Iterator[Running]:
        with TemporaryDirectory(prefix="bench-plugins-") as name:
            folder = Path(name)
            for plugin in setup.plugins:
                broken = {"env": {"BENCH_BROKEN": "1"}} if plugin == setup.broken else {}
                write_plugin(folder, plugin, self._image, **broken)
                if setup.for_load:
                    write_plugin(folder, plugin + _WIDE, self._image, **WIDE_MANIFEST)
            with served(folder, self._environment, code=self._code) as orchestrator:
                yield _Orchestrator(orchestrator)

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        called = plugin + _WIDE if callers > 1 else plugin
        path = f"/v1/plugins/{called}/tools/{tool}/run"
        match tool:
            case Tool.ECHO:
                return Call(path, json_body({"text": TEXT}))
            case Tool.DIGEST:
                return Call(path, content, "application/octet-stream")
            case Tool.ITEMS:
                return Call(path, json_body({"number": ITEMS}), headers={"Accept": "application/x-ndjson"})
            case Tool.BURN:
                return Call(path, json_body({"milliseconds": BURNT}))
            case Tool.DIE:
                return Call(path, b"{}")

    def health(self, plugin: str) -> Sequence[str]:
        return (f"/v1/plugins/{plugin}/health",)


class _Orchestrator:
    """See `Running`."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def target(self, plugin: str, tool: Tool) -> str:
        return self._served.target

    def pids(self) -> set[int]:
        """The orchestrator, its containers' processes, and what the engine keeps for each container."""
        there = processes()
        found = {self._served.pid}
        for container in self._served.containers():
            inside = {int(process[1]) for process in container.top()["Processes"]}
            found |= inside | {there[pid].parent for pid in inside if pid in there and _is_shim(there[pid].parent)}
        return found

    def exited(self) -> str | None:
        process = self._served.process
        code = None if process is None else process.poll()
        return None if code is None else f"exited with {code}"


def _is_shim(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith(_SHIMS)
    except OSError:
        return False
