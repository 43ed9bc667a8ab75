"""The process that loads the plugin and runs its tools."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from plugin_runtime.cgroup import Cgroup
from plugin_runtime.process import DUMP_SIGNAL
from plugin_runtime.runs import RunBook
from plugin_runtime.service import ToolService, log
from plugin_runtime.sockets import listen
from plugin_runtime.startup import StartFailure, start_plugin
from plugin_runtime.status import FAILED, READY

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import NoReturn

    from plugin_runtime.cgroup import Cgroup
    from plugin_runtime.checks import Check
    from plugin_runtime.environment import Environment
    from plugin_runtime.run_board import RunBoard

PAUSE_SECONDS = 0.1


class SupervisorLink:
    """What the worker tells: one line of JSON each. Any thread may."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self._lock = threading.Lock()

    def tell(self, **news: Any) -> None:
        """A supervisor that is gone takes this process along; until then there is nobody to tell."""
        with contextlib.suppress(OSError), self._lock:
            self._told.sendall(msgspec.json.encode(news) + b"\n")

    def tell_checks(self, checks: list[Check]) -> None:
        """All so far."""
        self.tell(checks=[check._asdict() for check in checks])


class KillCount:
    """The kernel's counter of out-of-memory kills, read before every answer: whose helper process was killed may give
    a result that is none. A change is told to the supervisor, which else looks once a second.
    """

    def __init__(self, cgroup: Cgroup, on_change: Callable[[], None]) -> None:
        self._cgroup = cgroup
        self._on_change = on_change
        self._known = 0

    def now(self) -> int:
        """Since the container's start; 0 where the kernel does not say."""
        kills = self._cgroup.oom_kills() or 0
        if kills != self._known:
            self._known = kills
            self._on_change()
        return kills


def run(environment: Environment, cgroup: Cgroup, board: RunBoard, told: socket.socket, stacks: int) -> None:
    """Start the plugin and serve its tools for ever. Returns where it could not start."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    if environment.code_dir is not None:
        add_code_folder(environment.code_dir, sys.path)
    link = SupervisorLink(told)
    try:
        tools = start_plugin(environment, link.tell_checks)
    except StartFailure as problem:
        log(f"{environment.name} cannot start: {problem.failure.code}: {problem}\n{problem.traceback or ''}")
        link.tell(
            phase=FAILED,
            reason_code=problem.failure.code,
            reason=problem.failure.reason,
            traceback=problem.traceback,
        )
        return
    kills = KillCount(cgroup, on_change=lambda: link.tell(killed=True))
    service = ToolService(environment, tools, RunBook(board), kills.now)
    listener = listen(environment.tools_socket)
    link.tell(phase=READY, tools=[tool.document() for tool in tools.values()])
    accept_for_ever(listener, service)


def add_code_folder(folder: str, path: list[str]) -> None:
    """Before the installed packages and behind the standard library: a plugin's json.py must not become everyone's."""
    installed = (place for place, entry in enumerate(path) if entry.endswith("site-packages"))
    path.insert(next(installed, len(path)), folder)


def accept_for_ever(listener: socket.socket, service: ToolService) -> NoReturn:
    """A thread for each connection; callers keep theirs."""
    while True:
        try:
            peer, _ = listener.accept()
        except OSError as error:  # out of file descriptors: the plugin's affair, and it may pass
            log(f"a caller could not be taken: {error}\n")
            time.sleep(PAUSE_SECONDS)
            continue
        try:
            threading.Thread(target=service.serve, args=(peer,), daemon=True).start()
        except RuntimeError as error:  # the container's limit on processes and threads
            log(f"a caller could not be served: {error}\n")
            peer.close()
