"""Whether the worker can do anything at all: a deadlocked one answers nothing and computes nothing.

A busy worker is never taken for a deadlocked one: it may answer nothing for an hour, but it uses its processor, wants
one, or waits for a disk. While a tool executes nothing is asked: its time limit is the judge.
"""

from __future__ import annotations

import contextlib
import os
import socket

ASK_EVERY = 3  # looks
STUCK_AFTER = 4  # looks in a row in which a question stays open and the worker does nothing
BUSY_TICKS = 2  # of processor time between two looks: 20 ms
QUESTION = b"GET /pulse HTTP/1.1\r\nHost: plugin\r\n\r\n"  # any answer will do
AT_WORK = frozenset("RD")  # running or ready to run, waiting for a disk


class Pulse:
    """`look` once a second. Looks are counted, not seconds: a container that was frozen meanwhile had no chance."""

    def __init__(self, pid: int, tools_socket: str) -> None:
        self._pid = pid
        self._path = tools_socket
        self._connection: socket.socket | None = None
        self._open = False
        self._rest = 0
        self._silent = 0
        self._ticks = 0

    def look(self, *, executing: bool) -> bool:
        """Whether the worker is stuck. `executing`: a tool is."""
        if executing or self._answered():
            self._silent = 0
        elif self._open:
            self._silent = 0 if self._at_work() else self._silent + 1
        if not self._open:
            self._rest -= 1
            if self._rest < 0 and not executing:
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
        self._at_work()

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
        self._rest = ASK_EVERY - 1
        return True

    def _at_work(self) -> bool:
        """Since the last time that this was asked, or now."""
        before, self._ticks = self._ticks, 0
        states = set()
        with contextlib.suppress(OSError):  # a thread may end meanwhile, and so may all of them
            with open(f"/proc/{self._pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib costs the supervisor a megabyte
                fields = file.read().rpartition(b") ")[2].split()
            self._ticks = int(fields[11]) + int(fields[12])
            for thread in os.listdir(f"/proc/{self._pid}/task"):  # noqa: PTH208 - as above
                with contextlib.suppress(OSError), open(f"/proc/{self._pid}/task/{thread}/stat", "rb") as file:  # noqa: PTH123
                    states.add(file.read().rpartition(b") ")[2][:1].decode())
        return self._ticks - before >= BUSY_TICKS or not states.isdisjoint(AT_WORK)
