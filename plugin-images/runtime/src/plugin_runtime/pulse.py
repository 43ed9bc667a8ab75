"""Whether the worker can do anything at all: a deadlocked one answers nothing and computes nothing.

A busy worker is never taken for a deadlocked one: it may answer nothing for an hour, but it uses its processor, wants
one, or waits for a disk. While a tool executes nothing is asked: its time limit is the judge.

A hundred workers at rest are asked thirty times a second together: all but the question itself is left for doubt.
"""

from __future__ import annotations

import contextlib
import os
import socket

STUCK_AFTER = 4  # looks in a row in which a question stays open and the worker does nothing
BUSY_TICKS = 2  # of processor time between two looks: 20 ms
PULSE_PATH = "/pulse"
QUESTION = f"GET {PULSE_PATH} HTTP/1.1\r\n\r\n".encode()  # any answer will do
AT_WORK = frozenset("RD")  # running or ready to run, waiting for a disk


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
        self._ticks = 0
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
        self._ticks = self._processor_ticks()

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
        """Since the last time that this was asked, or the question was; or now."""
        before, self._ticks = self._ticks, self._processor_ticks()
        if self._ticks - before >= BUSY_TICKS:
            return True
        states = set()
        with contextlib.suppress(OSError):  # a thread may end meanwhile, and so may all of them
            for thread in os.listdir(f"/proc/{self._pid}/task"):  # noqa: PTH208 - pathlib costs the supervisor a megabyte
                states.add(_stat(f"{self._pid}/task/{thread}")[:1].decode())
        return not states.isdisjoint(AT_WORK)

    def _processor_ticks(self) -> int:
        fields = _stat(str(self._pid)).split()
        return int(fields[11]) + int(fields[12]) if fields else 0


def _stat(process: str) -> bytes:
    """What stands behind the name in its `stat`, the state first; empty of one that is gone."""
    with contextlib.suppress(OSError):
        file = os.open(f"/proc/{process}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 4096).rpartition(b") ")[2]
        finally:
            os.close(file)
    return b""
