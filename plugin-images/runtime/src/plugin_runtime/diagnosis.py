"""The stacks of the worker's threads, as faulthandler writes them into a pipe when the worker gets DUMP_SIGNAL.

faulthandler needs no GIL and allocates nothing, so this works on a worker that hangs in C code. It writes no end mark:
a dump counts as complete when nothing has come for a while.
"""

from __future__ import annotations

import os

from plugin_runtime.process import DUMP_SIGNAL

DEADLINE_SECONDS = 0.8  # the protocol promises an answer within a second
QUIET_SECONDS = 0.1  # a container at its processor limit may pause for one scheduler period, 100 ms


class StackDump:
    """One dump at a time. Times are the caller's, of one monotonic clock."""

    def __init__(self, worker_pid: int, stacks: int) -> None:
        os.set_blocking(stacks, False)
        self._pid = worker_pid
        self._stacks = stacks
        self._text = bytearray()
        self._asked: float | None = None
        self._heard = 0.0

    def ask(self, now: float, *, worker_left: bool) -> None:
        """Make the worker dump its stacks, unless it is doing so already."""
        if self._asked is not None:
            return
        self.read(now)
        self._text.clear()
        self._asked = now
        if not worker_left:
            os.kill(self._pid, DUMP_SIGNAL)

    def read(self, now: float) -> bool:
        """Take what has come; False where nothing ever will again. What nobody asked for is dropped."""
        try:
            while data := os.read(self._stacks, 65536):
                self._heard = now
                if self._asked is not None:
                    self._text += data
        except BlockingIOError:
            return True
        return False

    def finish(self, now: float, *, worker_left: bool) -> str | None:
        """The dump, once it is complete or no more is to be expected. None while it goes on, and where nobody asked."""
        if self._asked is None:
            return None
        quiet = bool(self._text) and now - self._heard > QUIET_SECONDS
        if not (quiet or worker_left or now - self._asked > DEADLINE_SECONDS):
            return None
        self._asked = None
        return self._text.decode("utf-8", "replace")
