"""The process that never runs plugin code: it serves the control socket, reaps, passes SIGTERM on, and says how the
worker is, which matters most when the worker is busy, hung or dead. One thread: nothing blocks but the selector.
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

from plugin_runtime.shared.cgroup import shared_memory
from plugin_runtime.shared.disk_usage import DiskUsage
from plugin_runtime.shared.processes import READY, kill_all_others
from plugin_runtime.supervising.control import ControlSocket
from plugin_runtime.supervising.hangs import HangDetector, StackDump
from plugin_runtime.supervising.output import OutputRelay
from plugin_runtime.supervising.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin_runtime.shared.cgroup import Cgroup
    from plugin_runtime.shared.environment import Environment
    from plugin_runtime.shared.run_table import SharedRunTable
    from plugin_runtime.supervising.control import ControlConnection

CHECK_SECONDS = 1.0
IDLE_CHECK_SECONDS = 3.0  # where the plugin is idle; also how often watchers get an unchanged status
DUMP_CHECK_SECONDS = 0.01
MEASURE_SECONDS = 0.005  # of each check, for measuring what the scratch folder holds
DRAIN_SECONDS = 1.0  # limit for passing on the last output at the end
MAX_UNPARSED_REPORT = 64 * 1024 * 1024  # bytes
NOTE_BYTES = 32  # always the same, so that nothing of an older note stays behind a shorter one


class WorkerProcess(NamedTuple):
    """The child process and its pipes: `reports` carries lines of JSON, `stacks` faulthandler's text; the last two are
    its standard streams.
    """

    pid: int
    reports: socket.socket
    stacks: int
    stdout: int
    stderr: int


class HealthNote:
    """The file that `healthcheck.sh` reads: one line with the uptime of the machine in seconds, and the phase."""

    # It lies in memory (a tmpfs of the container). Plugin code runs as the same user and could forge it, as it could
    # replace the control socket: the orchestrator never reads the note.

    def __init__(self, path: str | None) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            if path is not None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.open(path, flags, 0o644)

    def write(self, phase: str) -> None:
        # A note that cannot be written grows old, and then the health check requests the status.
        if self._file is not None:
            # CLOCK_BOOTTIME is what /proc/uptime shows, which a shell can read.
            note = f"{int(time.clock_gettime(time.CLOCK_BOOTTIME))} {phase}".encode()[: NOTE_BYTES - 1]
            with contextlib.suppress(OSError):
                os.pwrite(self._file, note.ljust(NOTE_BYTES - 1) + b"\n", 0)


class Supervisor:
    """`run` returns once the worker has exited after a SIGTERM."""

    def __init__(self, environment: Environment, worker: WorkerProcess, cgroup: Cgroup, runs: SharedRunTable) -> None:
        self._worker = worker
        self._status = Status(worker.pid)
        self._cgroup = cgroup
        self._status.record_oom_kills(self._cgroup.oom_kills())
        self._status.limits = self._cgroup.limits()
        self._runs = runs
        self._started_at = time.monotonic()
        self._ready_at: float | None = None
        self._published_at = 0.0
        self._runs_at_last_check = 0
        self._report_buffer = bytearray()
        self._terminating = False
        self._selector = selectors.DefaultSelector()
        self._dump = StackDump(worker.pid, worker.stacks)
        self._hang_detector = HangDetector(worker.pid, environment.tools_socket)
        self._scratch = DiskUsage(environment.scratch_dir)
        self._max_scratch = environment.max_scratch
        self._status.record_scratch(None, self._max_scratch, over=False)
        self._note = HealthNote(environment.health_file)
        self._control = ControlSocket(environment.control_socket, self._selector, self._answer)
        self._signals, signals = socket.socketpair()
        for end in (self._signals, signals):
            end.setblocking(False)  # noqa: FBT003 - its own signature
        self._signal_writer = signals  # referenced, since the wakeup has its number only: collected, it would be closed
        signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        worker.reports.setblocking(False)  # noqa: FBT003 - its own signature
        self._on_readable(self._signals, self._handle_signals)
        self._on_readable(worker.reports, self._read_reports)
        self._on_readable(worker.stacks, self._read_stacks)
        self._output = [OutputRelay(worker.stdout, 1, self._selector), OutputRelay(worker.stderr, 2, self._selector)]

    def run(self) -> int:
        """Serve until the worker has exited after a SIGTERM. Returns the exit status."""
        self._reap()  # the worker may have exited before SIGCHLD was caught
        self._note.write(self._status.phase)
        next_check = time.monotonic() + CHECK_SECONDS
        while not (self._terminating and self._status.worker_exited):
            now = time.monotonic()
            if now >= next_check:
                self._check(now)
                next_check = now + (IDLE_CHECK_SECONDS if self._is_idle() else CHECK_SECONDS)
            self._finish_dump(now)
            self._control.resume_accepting(now)
            for relay in self._output:
                relay.end_line(now)
            for key, events in self._selector.select(self._timeout(now, next_check)):
                key.data(events)
        for relay in self._output:
            relay.drain(DRAIN_SECONDS)
        return 0

    def _on_readable(self, source: Any, callback: Callable[[int], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, callback)

    def _pass_on_output(self) -> None:
        for relay in self._output:
            relay.pass_on()

    def _timeout(self, now: float, next_check: float) -> float:
        due_at = min(next_check, self._control.accept_again_at, *(relay.due_at() for relay in self._output))
        seconds = max(0.0, due_at - now)
        return min(seconds, DUMP_CHECK_SECONDS) if self._control.awaiting_dump else seconds

    # Signals and children

    def _handle_signals(self, _events: int) -> None:
        try:
            numbers = self._signals.recv(4096)  # one byte per signal, its number
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._terminating = True
            if not self._status.worker_exited:
                os.kill(self._worker.pid, signal.SIGTERM)
        self._reap()

    def _reap(self) -> None:
        """Collect every child that has ended."""
        # As PID 1 this process inherits every orphan of the container.
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._worker.pid:
                self._read_reports(0)  # its last report comes before its exit
                self._status.record_exit(wait_status)
                self._status.record_stuck(stuck=False)
                self._hang_detector.close()
                self._status.record_oom_kills(self._cgroup.oom_kills())
                self._record_limits()
                kill_all_others()
                self._publish()

    # What no event reports

    def _record_limits(self) -> None:
        self._status.record_limits(self._cgroup.limit_hits(), self._cgroup.pids(), shared_memory())

    def _check(self, now: float) -> None:
        self._record_limits()
        self._check_oom_kills()
        self._check_for_hang()
        self._check_scratch()
        if not self._control.is_reachable():
            return  # whom nobody can reach must not note that all is well
        self._note.write(self._status.phase)
        if now - self._published_at >= IDLE_CHECK_SECONDS - CHECK_SECONDS / 2:
            # A watcher that has not even read what it was sent before is not helped by more.
            self._publish_to([watcher for watcher in self._control.watchers if not watcher.has_unsent])

    def _is_idle(self) -> bool:
        """The worker has exited; or no run executes, none did since the last check, and no hang is suspected."""
        before, self._runs_at_last_check = self._runs_at_last_check, self._runs.started
        no_run = before == self._runs_at_last_check and not self._runs.executing()
        ready = self._status.phase == READY
        return self._status.worker_exited or (ready and no_run and not self._hang_detector.in_doubt)

    def _check_oom_kills(self) -> None:
        if self._status.record_oom_kills(self._cgroup.oom_kills()):
            self._record_limits()
            self._publish()

    def _check_scratch(self) -> None:
        self._scratch.step(MEASURE_SECONDS)
        over = (self._scratch.bytes or 0) > self._max_scratch
        if self._status.record_scratch(self._scratch.bytes, self._max_scratch, over=over):
            self._publish()

    def _check_for_hang(self) -> None:
        if self._status.phase == READY:
            stuck = self._hang_detector.check(executing=bool(self._runs.executing()))
            if self._status.record_stuck(stuck=stuck):
                self._publish()

    # The worker's pipes

    def _read_reports(self, _events: int) -> None:
        while True:
            try:
                data = self._worker.reports.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data or len(self._report_buffer) > MAX_UNPARSED_REPORT:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(self._worker.reports)
                break
            self._report_buffer += data
        # Before the report: who reads that the plugin failed finds in the log what was printed before.
        self._pass_on_output()
        *lines, rest = bytes(self._report_buffer).split(b"\n")
        self._report_buffer = bytearray(rest)
        changed = [self._status.apply_report(parse_report(line)) for line in lines]
        if self._ready_at is None and self._status.phase == READY:
            self._ready_at = time.monotonic()
        if any(changed):
            self._publish()
        if lines:
            self._check_oom_kills()

    def _read_stacks(self, _events: int) -> None:
        if not self._dump.read(time.monotonic()):
            self._selector.unregister(self._worker.stacks)

    # The control socket's callers

    def _answer(self, connection: ControlConnection, method: str, path: str) -> None:
        match method, path:
            case "GET", "/status":
                self._status.record_oom_kills(self._cgroup.oom_kills())
                self._record_limits()
                connection.reply(200, self._document())
            case "GET", "/watch":
                self._control.watch(connection, self._document())
            case "POST", "/diagnose":
                self._control.awaiting_dump.append(connection)  # one dump answers all who wait
                self._dump.request(time.monotonic(), worker_exited=self._status.worker_exited)
            case _:
                connection.reply(404, {"error": "unknown path; there are GET /status, GET /watch and POST /diagnose"})

    def _document(self) -> dict[str, Any]:
        now = time.monotonic()
        return self._status.document(
            self._cgroup.memory(),
            self._cgroup.cpu_seconds(),
            uptime_seconds=now - self._started_at,
            ready_seconds=None if self._ready_at is None else now - self._ready_at,
            runs=self._runs,
        )

    def _publish(self) -> None:
        """Note the phase, and send the status to all watchers."""
        watchers = list(self._control.watchers)
        self._note.write(self._status.phase)
        self._publish_to(watchers)

    def _publish_to(self, watchers: list[ControlConnection]) -> None:
        self._published_at = time.monotonic()
        if watchers:
            self._control.publish(self._document(), watchers)

    def _finish_dump(self, now: float) -> None:
        stacks = self._dump.take(now, worker_exited=self._status.worker_exited)
        if stacks is not None:
            self._control.answer_dumps(stacks)


def parse_report(line: bytes) -> dict[str, Any]:
    """One line of the worker; empty where it is no JSON object."""
    # Plugin code shares the worker's process, and may write anything to the pipe.
    try:
        report = json.loads(line)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}
