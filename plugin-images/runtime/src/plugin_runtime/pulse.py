"""Whether the worker can do anything at all: a deadlocked one answers nothing and computes nothing.

A busy worker is never taken for a deadlocked one: it may answer nothing for an hour, but a thread of it uses its
processor, or wants one all the time, or waits for a disk. While a tool executes nothing is asked: its time limit is the
judge. Nor is a deadlocked one taken for busy: its threads that wait for the GIL wake every five milliseconds, so that
each uses some hundredths of a processor and is often seen running, but sleeps two hundred times a second.

A hundred workers at rest are asked thirty times a second together: all but the question itself is left for doubt.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import NamedTuple

STUCK_AFTER = 4  # looks in a row in which a question stays open and the worker does nothing
BUSY_TICKS = 25  # of processor time of one thread between two looks: 250 ms; what a host steals counts as used
FEW_SLEEPS = 20  # of one thread between two looks
PULSE_PATH = "/pulse"
QUESTION = f"GET {PULSE_PATH} HTTP/1.1\r\n\r\n".encode()  # any answer will do


class Thread(NamedTuple):
    """How one stood when it was looked at: its state as the kernel writes it, the processor time that it has used, in
    clock ticks, and how often it went to sleep.
    """

    state: str
    ticks: int
    sleeps: int

    def at_work(self, earlier: Thread | None) -> bool:
        """Between the two looks, as far as they tell."""
        if self.state == "D":  # waits for a disk
            return True
        if earlier is None:
            return False
        wants_a_processor = self.state == earlier.state == "R" and self.sleeps - earlier.sleeps < FEW_SLEEPS
        return wants_a_processor or self.ticks - earlier.ticks >= BUSY_TICKS


class Pulse:
    """`look` every few seconds, and each second while it is in `doubt`. Looks are counted, not seconds: a container
    that was frozen meanwhile had no chance.
    """

    def __init__(self, pid: int, tools_socket: str) -> None:
        self._pid = pid
        self._path = tools_socket
        self._connection: socket.socket | None = None
        self._open = False
        self._silent = 0
        self._threads: dict[str, Thread] = {}
        self.doubt = False
        """A question was open when it looked last."""

    def look(self, *, executing: bool) -> bool:
        """Whether the worker is stuck. `executing`: a tool is."""
        self.doubt = not self._answered() and self._open
        if executing or not self.doubt or self._at_work():
            self._silent = 0
        else:
            self._silent += 1
        if not self._open and not executing:
            self._ask()
        return self._silent >= STUCK_AFTER

    def close(self) -> None:
        """Ask no more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self) -> None:
        try:
            if self._connection is None:
                self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._connection.setblocking(False)  # noqa: FBT003 - its own signature
                self._connection.connect(self._path)
            self._connection.send(QUESTION)
        except OSError:  # nobody listens there, or too many wait already: it tells nothing
            self.close()
            return
        self._open = True
        self._threads = {}

    def _answered(self) -> bool:
        if self._connection is None or not self._open:
            return False
        try:
            told = self._connection.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            told = b""
        if not told:
            self.close()
        self._open = False
        return True

    def _at_work(self) -> bool:
        """Whether one of its threads is. Little is known at the first look after a question."""
        before, self._threads = self._threads, self._look_at_threads()
        return any(thread.at_work(before.get(name)) for name, thread in self._threads.items())

    def _look_at_threads(self) -> dict[str, Thread]:
        threads = {}
        tasks = f"/proc/{self._pid}/task"
        with contextlib.suppress(OSError):  # the worker may end meanwhile, and so may any thread
            for name in os.listdir(tasks):  # noqa: PTH208 - pathlib costs the supervisor a megabyte
                with contextlib.suppress(OSError):
                    if fields := _read(f"{tasks}/{name}/stat").rpartition(") ")[2].split():
                        slept = _read(f"{tasks}/{name}/status").partition("\nvoluntary_ctxt_switches:")[2].split()
                        ticks = int(fields[11]) + int(fields[12])
                        threads[name] = Thread(fields[0], ticks, int(slept[0]) if slept else 0)
        return threads


def _read(path: str) -> str:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 8192).decode(errors="replace")
    finally:
        os.close(file)
