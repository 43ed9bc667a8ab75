"""Docker's multiplexed log stream (eight bytes of header before each piece of output) as lines."""

from typing import Final

_HEADER: Final = 8
LONGEST_LINE: Final = 64 * 1024
"""Bytes of a line that is not over after which it is given as it is: a program may never print a line feed."""


class LogLines:
    """Feed it bytes as they come; it gives the complete lines. Stdout and stderr keep apart until a line ends."""

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
        """What was printed last without a line feed."""
        lines = [_decoded(part) for part in self._unfinished.values() if part]
        self._unfinished.clear()
        return lines

    def _output(self, stream: int, text: bytes) -> list[str]:
        part = self._unfinished.setdefault(stream, bytearray())
        lines: list[str] = []
        *ends, rest = text.split(b"\n")  # only what is new is looked through: a line may come in a great many pieces
        for end in ends:
            part += end
            lines.append(_decoded(part))
            part.clear()
        part += rest
        if len(part) > LONGEST_LINE:
            lines.append(_decoded(part))
            part.clear()
        return lines


def _decoded(line: bytes | bytearray) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
