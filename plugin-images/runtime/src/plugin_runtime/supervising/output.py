"""The worker's output on its way to the container's log, where no line stays unfinished for long.

The engine stores whole lines alone: without this, a prompt or a progress bar would appear with the next line feed only.
"""

from __future__ import annotations

import math
import os
import select
import selectors
import time

QUIET_SECONDS = 0.2
"""After which an unfinished line is ended, if nothing was printed meanwhile."""
MAX_LINE_SECONDS = 1.0
"""After which it is ended in any case: a progress bar is redrawn without a pause."""
READ_BYTES = 64 * 1024
PIPE_READS = 3  # that take all that a pipe holds
WRITE_BYTES = select.PIPE_BUF  # a pipe that takes anything takes so much at once: the write does not wait


class LineEnds:
    """Which line ends have to be added to a stream, and when. Pure."""

    def __init__(self) -> None:
        self._begun_at: float | None = None  # of an unfinished line
        self._printed_at = 0.0
        self._added = False

    def feed(self, data: bytes, now: float) -> bytes:
        """What to pass on of the next bytes: the line end of a line that was ended already is left out."""
        if self._added and data[:1] == b"\n":
            data = data[1:]
        self._added = False
        if data:
            begun_at = self._begun_at if b"\n" not in data and self._begun_at is not None else now
            self._begun_at = None if data[-1:] == b"\n" else begun_at
            self._printed_at = now
        return data

    def due_at(self) -> float:
        """When a line end is to be added."""
        if self._begun_at is None:
            return math.inf
        return min(self._printed_at + QUIET_SECONDS, self._begun_at + MAX_LINE_SECONDS)

    def take(self, now: float) -> bytes:
        """The line end to add now, if any."""
        if now < self.due_at():
            return b""
        self._begun_at, self._added = None, True
        return b"\n"


class OutputRelay:
    """One stream: reads the pipe `source`, writes to the descriptor `target`, and waits for neither. Where the target
    takes nothing, nothing is read: the worker waits in its write, as it would without a relay.
    """

    # No O_NONBLOCK for the target: outside a container it may be a terminal, shared with others.

    def __init__(self, source: int, target: int, selector: selectors.BaseSelector) -> None:
        os.set_blocking(source, False)
        self._source = source
        self._target = target
        self._selector = selector
        self._lines = LineEnds()
        self._unsent = bytearray()
        self._registered: int | None = None
        self._ended = False
        self._select()

    def due_at(self) -> float:
        """When `end_line` has something to do."""
        return math.inf if self._unsent else self._lines.due_at()

    def end_line(self, now: float) -> None:
        """End the line that has been unfinished for too long."""
        if not self._unsent and (end := self._lines.take(now)):
            self._send(end)

    def pass_on(self) -> None:
        """Pass on what the source has now, as far as the target takes it."""
        for _ in range(PIPE_READS):
            if self._unsent or not self._receive():
                return

    def drain(self, seconds: float) -> None:
        """Pass on what the source has by now. For the end of the process: it waits, at most so long, for the target."""
        deadline = time.monotonic() + seconds
        while not self._ended or self._unsent:
            self._send(b"")
            if self._unsent:
                if not _writable(self._target, deadline - time.monotonic()):
                    return
            elif not self._receive():
                return

    def _on_event(self, _events: int) -> None:
        if self._unsent:
            self._send(b"")
        else:
            self._receive()

    def _receive(self) -> bool:
        """Read once; whether anything was there."""
        try:
            data = os.read(self._source, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._ended = not data
        self._send(self._lines.feed(data, time.monotonic()))
        return bool(data)

    def _send(self, data: bytes) -> None:
        self._unsent += data
        while self._unsent and _writable(self._target, 0):
            try:
                del self._unsent[: os.write(self._target, self._unsent[:WRITE_BYTES])]
            except OSError:
                self._unsent.clear()  # nobody reads the log any more
        self._select()

    def _select(self) -> None:
        """Select for what it waits for: the target's room, or the source's bytes."""
        wanted = self._target if self._unsent else None if self._ended else self._source
        if wanted == self._registered:
            return
        if self._registered is not None:
            self._selector.unregister(self._registered)
        if wanted is not None:
            event = selectors.EVENT_WRITE if wanted == self._target else selectors.EVENT_READ
            self._selector.register(wanted, event, self._on_event)
        self._registered = wanted


def _writable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(max(0.0, seconds) * 1000))
