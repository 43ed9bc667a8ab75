"""The process that never runs plugin code: it serves the control socket, reaps, passes SIGTERM on, and says how the
worker is, which is most needed when the worker is busy, hung or gone.

One thread, one selector: nothing here waits for anything but the selector.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from plugin_runtime.control import ControlConnection
from plugin_runtime.diagnosis import StackDump
from plugin_runtime.health_note import HealthNote
from plugin_runtime.process import kill_the_rest
from plugin_runtime.pulse import Pulse
from plugin_runtime.sockets import listen
from plugin_runtime.status import READY, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plugin_runtime.cgroup import Cgroup
    from plugin_runtime.environment import Environment
    from plugin_runtime.run_board import RunBoard

LOOK_SECONDS = 1.0
REST_SECONDS = 3.0  # the same of a plugin that does nothing; also how often it is said that all is as it was
DUMP_CHECK_SECONDS = 0.01
MAX_TOLD = 64 * 1024 * 1024


class Worker(NamedTuple):
    """The child process and what it speaks through: `told` has lines of JSON, `stacks` has faulthandler's text."""

    pid: int
    told: socket.socket
    stacks: int


class Supervisor:
    """`run` returns when the worker has left after a SIGTERM."""

    def __init__(self, environment: Environment, worker: Worker, cgroup: Cgroup, board: RunBoard) -> None:
        self._worker = worker
        self._status = Status(worker.pid)
        self._cgroup = cgroup
        self._status.count_kills(self._cgroup.oom_kills())
        self._board = board
        self._since = time.monotonic()
        self._ready_since: float | None = None
        self._selector = selectors.DefaultSelector()
        self._watchers: list[ControlConnection] = []
        self._asking: list[ControlConnection] = []
        self._dump = StackDump(worker.pid, worker.stacks)
        self._pulse = Pulse(worker.pid, environment.tools_socket)
        self._note = HealthNote(environment.health_file)
        self._told_at = 0.0
        self._runs_seen = 0
        self._told = bytearray()
        self._terminating = False
        self._listener = listen(environment.control_socket)
        self._address = environment.control_socket
        self._inode = os.stat(self._address).st_ino  # noqa: PTH116 - pathlib costs the supervisor a megabyte
        self._signals, signals = socket.socketpair()
        for end in (self._signals, signals):
            end.setblocking(False)  # noqa: FBT003 - its own signature
        self._signal_writer = signals  # held, since the wakeup knows its number only: forgotten, it would be closed
        signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        worker.told.setblocking(False)  # noqa: FBT003 - its own signature
        self._on(self._listener, self._accept)
        self._on(self._signals, self._take_signals)
        self._on(worker.told, self._hear)
        self._on(worker.stacks, self._read_stacks)

    def run(self) -> int:
        """The exit status."""
        self._reap()  # the worker may have left before SIGCHLD was caught
        self._note.write(self._status.phase)
        next_look = time.monotonic() + LOOK_SECONDS
        while not (self._terminating and self._status.left):
            now = time.monotonic()
            if now >= next_look:
                self._look(now)
                next_look = now + (REST_SECONDS if self._at_rest() else LOOK_SECONDS)
            self._finish_dump(now)
            for key, events in self._selector.select(self._patience(next_look - now)):
                key.data(events)
        return 0

    def _on(self, source: Any, callback: Callable[[int], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, callback)

    def _patience(self, seconds: float) -> float:
        return min(seconds, DUMP_CHECK_SECONDS) if self._asking else seconds

    # Signals and children

    def _take_signals(self, _events: int) -> None:
        try:
            numbers = self._signals.recv(4096)
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._terminating = True
            if not self._status.left:
                os.kill(self._worker.pid, signal.SIGTERM)
        self._reap()

    def _reap(self) -> None:
        """As PID 1 this process inherits every orphan of the container."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._worker.pid:
                self._hear(0)  # its last words come before its death
                self._status.leave(wait_status)
                self._status.find_stuck(stuck=False)
                self._pulse.close()
                self._status.count_kills(self._cgroup.oom_kills())
                kill_the_rest()
                self._publish()

    # What nobody tells

    def _look(self, now: float) -> None:
        self._count_kills()
        self._feel_pulse()
        if not self._can_be_asked():
            return
        self._note.write(self._status.phase)
        if now - self._told_at >= REST_SECONDS - LOOK_SECONDS / 2:
            # One that has not even read what it was sent before is not helped by more.
            self._publish([watcher for watcher in self._watchers if not watcher.wants_to_write])

    def _can_be_asked(self) -> bool:
        """Whether the socket is where callers look for it. Who cannot be asked must not say that all is well."""
        try:
            return os.stat(self._address, follow_symlinks=False).st_ino == self._inode  # noqa: PTH116 - as above
        except OSError:
            return False

    def _at_rest(self) -> bool:
        """The worker is gone; or nothing executes, nothing did since the last look, and nothing is in doubt."""
        before, self._runs_seen = self._runs_seen, self._board.begun
        idle = before == self._runs_seen and not self._board.executing()
        return self._status.left or (self._status.phase == READY and idle and not self._pulse.doubt)

    def _count_kills(self) -> None:
        if self._status.count_kills(self._cgroup.oom_kills()):
            self._publish()

    def _feel_pulse(self) -> None:
        if self._status.phase == READY:
            stuck = self._pulse.look(executing=bool(self._board.executing()))
            if self._status.find_stuck(stuck=stuck):
                self._publish()

    # What the worker tells

    def _hear(self, _events: int) -> None:
        while True:
            try:
                data = self._worker.told.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data or len(self._told) > MAX_TOLD:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(self._worker.told)
                break
            self._told += data
        *lines, rest = bytes(self._told).split(b"\n")
        self._told = bytearray(rest)
        changed = [self._status.tell(message(line)) for line in lines]
        if self._ready_since is None and self._status.phase == READY:
            self._ready_since = time.monotonic()
        if any(changed):
            self._publish()
        if lines:
            self._count_kills()

    def _read_stacks(self, _events: int) -> None:
        if not self._dump.read(time.monotonic()):
            self._selector.unregister(self._worker.stacks)

    # Callers

    def _accept(self, _events: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        connection = ControlConnection(peer, self._answer)
        self._on(peer, lambda events: self._serve(connection, events))

    def _serve(self, connection: ControlConnection, events: int) -> None:
        if connection.peer.fileno() < 0:
            return  # let go earlier in this round
        alive = True
        if events & selectors.EVENT_READ:
            alive = connection.receive()
        if alive and events & selectors.EVENT_WRITE:
            alive = connection.flush()
        self._settle(connection, alive=alive)

    def _settle(self, connection: ControlConnection, *, alive: bool) -> None:
        """Listen for what the connection waits for, or let it go."""
        if alive:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.wants_to_write else 0)
            key = self._selector.get_key(connection.peer)
            if key.events != events:
                self._selector.modify(connection.peer, events, key.data)
            return
        for members in (self._watchers, self._asking):
            if connection in members:
                members.remove(connection)
        self._selector.unregister(connection.peer)
        connection.peer.close()

    def _answer(self, connection: ControlConnection, method: str, path: str) -> None:
        match method, path:
            case "GET", "/status":
                self._status.count_kills(self._cgroup.oom_kills())
                connection.reply(200, self._document())
            case "GET", "/watch":
                connection.begin_stream()
                connection.send_line(self._document())
                self._watchers.append(connection)
            case "POST", "/diagnose":
                self._asking.append(connection)  # one dump answers all who ask meanwhile
                self._dump.ask(time.monotonic(), worker_left=self._status.left)
            case _:
                connection.reply(404, {"error": "there are GET /status, GET /watch and POST /diagnose"})

    def _document(self) -> dict[str, Any]:
        now = time.monotonic()
        return self._status.document(
            self._cgroup.memory(),
            self._cgroup.cpu_seconds(),
            uptime_seconds=now - self._since,
            ready_seconds=None if self._ready_since is None else now - self._ready_since,
            board=self._board,
        )

    def _publish(self, watchers: Sequence[ControlConnection] | None = None) -> None:
        """Tell these, or all, how it is."""
        if watchers is None:
            watchers = list(self._watchers)
            self._note.write(self._status.phase)
        self._told_at = time.monotonic()
        document = self._document() if watchers else {}
        for watcher in watchers:
            self._settle(watcher, alive=watcher.send_line(document))

    def _finish_dump(self, now: float) -> None:
        stacks = self._dump.finish(now, worker_left=self._status.left)
        if stacks is None:
            return
        asking, self._asking = self._asking, []
        for connection in asking:
            connection.reply(200, {"stacks": stacks})
            self._settle(connection, alive=connection.resume())


def message(line: bytes) -> dict[str, Any]:
    """One line of the worker. Plugin code shares its process and may write anything: what is no object says nothing."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
