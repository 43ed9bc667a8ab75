"""The engine's streams (logs, events, build output), decoded from pieces of bytes as they arrive."""

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from orchestrator.containers.docker_engine import answers
from orchestrator.containers.spec import BUILD_TAIL, EngineEvent

_HEADER: Final = 8  # bytes before each piece of output in Docker's multiplexed log stream: stream number and length
# Bytes after which an unfinished line is passed on as it is: a program may never print a line feed.
_MAX_LINE: Final = 64 * 1024
# Bytes of one JSON message. Docker's have some KiB; a longer one is cut, so that it is no JSON and is skipped.
_MAX_MESSAGE: Final = 1024 * 1024
# Docker puts the time before every 16 KiB of a line.
_TIME: Final = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d) ")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")  # Docker colours what a build step writes to stderr


async def log_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Lines of a container's log."""
    lines = LogLines()
    async for piece in pieces:
        for line in lines.feed(piece):
            yield line
    for line in lines.rest():
        yield line


async def events(pieces: AsyncIterator[bytes], labels: Mapping[str, str]) -> AsyncIterator[EngineEvent]:
    """Events of containers with these labels; what cannot be read is skipped."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if (event := answers.event(line)) is not None and answers.carries(event.labels, labels):
                yield event


class LogLines:
    """Bytes of a log in, complete lines out. Stdout and stderr stay separate until a line ends."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._unfinished: dict[int, bytearray] = {}

    def feed(self, data: bytes) -> list[str]:
        """Lines that end within `data`, without their line feeds."""
        self._buffer += data
        lines: list[str] = []
        start = 0
        while len(self._buffer) - start >= _HEADER:
            end = start + _HEADER + int.from_bytes(self._buffer[start + 4 : start + _HEADER], "big")
            if end > len(self._buffer):
                break
            lines += self._output(self._buffer[start], bytes(self._buffer[start + _HEADER : end]))
            start = end
        del self._buffer[:start]
        return lines

    def rest(self) -> list[str]:
        """Last lines without a line feed."""
        lines = [_decoded(line) for line in self._unfinished.values() if line]
        self._unfinished.clear()
        return lines

    def _output(self, stream: int, text: bytes) -> list[str]:
        line = self._unfinished.setdefault(stream, bytearray())
        if line and (time := _TIME.match(text)):
            text = text[time.end() :]
        lines: list[str] = []
        *ends, rest = text.split(b"\n")  # only new bytes are searched: a line may come in a great many pieces
        for end in ends:
            line += end
            lines.append(_decoded(line))
            line.clear()
        line += rest
        if len(line) > _MAX_LINE:
            lines.append(_decoded(line))
            line.clear()
        return lines


def _decoded(line: bytes | bytearray) -> str:
    """The line as a terminal would show it in the end: of a progress bar its last state."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    if "\r" in text:
        time, space, printed = text.partition(" ")
        text = time + space + printed.rpartition("\r")[2]
    return text


@dataclass(slots=True)
class BuildOutput:
    """Docker's answer to a build: JSON objects, one per line. After `end`, `error` or `image` holds the outcome."""

    on_line: Callable[[str], None]
    error: str = ""
    image: str = ""
    _buffer: bytearray = field(default_factory=bytearray)
    _line: str = ""
    _tail: list[str] = field(default_factory=list)

    @property
    def tail(self) -> str:
        """The last lines so far."""
        return "\n".join(self._tail)

    def feed(self, data: bytes) -> None:
        """The next bytes of the answer."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._append(end)
            self._message(self._buffer)
            self._buffer.clear()
        self._append(rest)

    def end(self) -> None:
        """The answer is complete."""
        self._message(self._buffer)
        if self._line:
            self._report(self._line)
        self._buffer.clear()
        self._line = ""

    def _append(self, piece: bytes) -> None:
        self._buffer += piece[: max(0, _MAX_MESSAGE - len(self._buffer))]

    def _message(self, message: bytes | bytearray) -> None:
        try:
            body = json.loads(message)
        except ValueError:
            return
        if not isinstance(body, dict):
            return
        if isinstance(error := body.get("error"), str):
            self.error = error
            self._report(error)
        if isinstance(aux := body.get("aux"), dict) and isinstance(aux.get("ID"), str):
            self.image = aux["ID"]
        if isinstance(status := body.get("status"), str) and not body.get("progress"):  # a base image being pulled
            self._report(f"{body['id']}: {status}" if body.get("id") else status)
        if isinstance(text := body.get("stream"), str):
            self._printed(text)

    def _printed(self, text: str) -> None:
        first, *others = text.split("\n")
        self._line += first
        for other in others:
            self._report(self._line)
            self._line = other
        if len(self._line) > _MAX_LINE:
            self._report(self._line)
            self._line = ""

    def _report(self, line: str) -> None:
        line = _COLOUR.sub("", line).rstrip("\r")
        self._tail = [*self._tail[1 - BUILD_TAIL :], line]
        self.on_line(line)
