"""Whether the worker hangs, and where: the hang detector, and the stacks of the worker's threads.

A deadlocked worker answers nothing and computes nothing. A busy one may answer nothing for an hour, but a thread of it
uses its processor, or wants one all the time, or waits for a disk.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import NamedTuple

from plugin_runtime.shared.processes import DUMP_SIGNAL, LIVENESS_PATH

STUCK_AFTER_CHECKS = 4  # in a row in which a request stays unanswered and the worker does nothing
BUSY_TICKS = 25  # of processor time of one thread between two checks: 250 ms; what a host steals counts as used
MAX_BUSY_SLEEPS = 20  # of one thread between two checks; one that waits for the GIL sleeps two hundred times a second
LIVENESS_REQUEST = f"GET {LIVENESS_PATH} HTTP/1.1\r\n\r\n".encode()  # any answer will do

DUMP_DEADLINE_SECONDS = 0.8  # the protocol promises an answer within a second
DUMP_QUIET_SECONDS = 0.1  # a container at its processor limit may pause for one scheduler period, 100 ms


class ThreadSample(NamedTuple):
    """One thread at the moment of a check: its state as the kernel writes it, the processor time that it has used, in
    clock ticks, and how often it went to sleep.
    """

    state: str
    ticks: int
    sleeps: int

    def busy_since(self, earlier: ThreadSample | None) -> bool:
        """Whether the thread worked between the two checks, as far as they show it."""
        if self.state == "D":  # waits for a disk
            return True
        if earlier is None:
            return False
        # Threads that wait for the GIL of a deadlocked worker wake every 5 ms: each uses some hundredths of a processor
        # and is often seen running. The number of its sleeps gives it away.
        wants_a_processor = self.state == earlier.state == "R" and self.sleeps - earlier.sleeps < MAX_BUSY_SLEEPS
        return wants_a_processor or self.ticks - earlier.ticks >= BUSY_TICKS


class HangDetector:
    """Sends the worker a liveness request now and then, and samples its threads while one is unanswered.

    Call `check` every few seconds, and each second while `in_doubt`.
    """

    # A hundred idle workers are checked thirty times a second together: all but the request is left for those in doubt.
    # Checks are counted, not seconds: a container that was frozen meanwhile had no chance to answer.

    def __init__(self, pid: int, tools_socket: str) -> None:
        self._pid = pid
        self._path = tools_socket
        self._connection: socket.socket | None = None
        self._awaiting_answer = False
        self._silent_checks = 0
        self._threads: dict[str, ThreadSample] = {}
        self.in_doubt = False
        """A request was unanswered at the last check."""

    def check(self, *, executing: bool) -> bool:
        """Whether the worker is stuck."""
        # While a tool executes nothing is sent: its time limit decides.
        self.in_doubt = not self._read_answer() and self._awaiting_answer
        if executing or not self.in_doubt or self._is_busy():
            self._silent_checks = 0
        else:
            self._silent_checks += 1
        if not self._awaiting_answer and not executing:
            self._send_request()
        return self._silent_checks >= STUCK_AFTER_CHECKS

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send_request(self) -> None:
        try:
            if self._connection is None:
                self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._connection.setblocking(False)  # noqa: FBT003 - its own signature
                self._connection.connect(self._path)
            self._connection.send(LIVENESS_REQUEST)
        except OSError:  # nobody listens there, or too many wait already: it proves nothing
            self.close()
            return
        self._awaiting_answer = True
        self._threads = {}

    def _read_answer(self) -> bool:
        if self._connection is None or not self._awaiting_answer:
            return False
        try:
            answer = self._connection.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            answer = b""
        if not answer:
            self.close()
        self._awaiting_answer = False
        return True

    def _is_busy(self) -> bool:
        # The first check after a request has nothing to compare with.
        before, self._threads = self._threads, self._sample_threads()
        return any(thread.busy_since(before.get(name)) for name, thread in self._threads.items())

    def _sample_threads(self) -> dict[str, ThreadSample]:
        threads = {}
        tasks = f"/proc/{self._pid}/task"
        with contextlib.suppress(OSError):  # the worker may end meanwhile, and so may any thread
            for name in os.listdir(tasks):  # noqa: PTH208 - pathlib costs the supervisor a megabyte
                with contextlib.suppress(OSError):
                    if fields := _read(f"{tasks}/{name}/stat").rpartition(") ")[2].split():
                        slept = _read(f"{tasks}/{name}/status").partition("\nvoluntary_ctxt_switches:")[2].split()
                        ticks = int(fields[11]) + int(fields[12])
                        threads[name] = ThreadSample(fields[0], ticks, int(slept[0]) if slept else 0)
        return threads


class StackDump:
    """The stacks of the worker's threads, which its faulthandler writes into the pipe `stacks` on DUMP_SIGNAL.

    One dump at a time. Times are the caller's, of one monotonic clock.
    """

    # faulthandler needs no GIL and allocates nothing, so this works on a worker that hangs in C code. It writes no end
    # mark: a dump counts as complete when nothing has come for a while.

    def __init__(self, worker_pid: int, stacks: int) -> None:
        os.set_blocking(stacks, False)
        self._pid = worker_pid
        self._stacks = stacks
        self._text = bytearray()
        self._requested_at: float | None = None
        self._read_at = 0.0

    def request(self, now: float, *, worker_exited: bool) -> None:
        """Make the worker dump its stacks, unless it is doing so already."""
        if self._requested_at is not None:
            return
        self.read(now)
        self._text.clear()
        self._requested_at = now
        if not worker_exited:
            os.kill(self._pid, DUMP_SIGNAL)

    def read(self, now: float) -> bool:
        """Read what the pipe holds, and drop it if nobody requested it. False at the pipe's end."""
        try:
            while data := os.read(self._stacks, 65536):
                self._read_at = now
                if self._requested_at is not None:
                    self._text += data
        except BlockingIOError:
            return True
        return False

    def take(self, now: float, *, worker_exited: bool) -> str | None:
        """The dump, once it is complete or no more is to be expected. None before, and where nobody requested one."""
        if self._requested_at is None:
            return None
        quiet = bool(self._text) and now - self._read_at > DUMP_QUIET_SECONDS
        if not (quiet or worker_exited or now - self._requested_at > DUMP_DEADLINE_SECONDS):
            return None
        self._requested_at = None
        return self._text.decode("utf-8", "replace")


def _read(path: str) -> str:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 8192).decode(errors="replace")
    finally:
        os.close(file)
