"""Answers that outlive the connection they were made for: few bytes stay in memory, more go to the scratch folder."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, NamedTuple

from plugin_runtime.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_MEMORY = 256 * 1024
READ = 256 * 1024


class KeptBytes:
    """Written once, then read by anyone, as often as they like. The file has no name: it goes with the last reader."""

    def __init__(self, folder: str) -> None:
        self.size = 0
        self._folder = folder
        self._start = bytearray()
        self._file: IO[bytes] | None = None

    def write(self, *parts: bytes) -> None:
        """Raises Refused where the scratch folder has no room."""
        for part in parts:
            self.size += len(part)
            try:
                if self._file is None and self.size <= IN_MEMORY:
                    self._start += part
                else:
                    self._spill(part)
            except OSError as error:
                text = f"the result cannot be kept in the scratch folder: {error.strerror}"
                raise Refused("too_large", text) from error

    def parts(self) -> Iterator[bytes]:
        """From the beginning."""
        if self._file is None:
            yield bytes(self._start)
            return
        place = 0
        while data := os.pread(self._file.fileno(), READ, place):
            place += len(data)
            yield data

    def _spill(self, data: bytes) -> None:
        if self._file is None:
            from tempfile import TemporaryFile  # noqa: PLC0415 - brings much along; only large kept results need it

            self._file = TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115 - see the class
            data, self._start = bytes(self._start) + data, bytearray()
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


class KeptAnswer(NamedTuple):
    """What the call was answered, or would have been."""

    status: int
    body: KeptBytes
    oom_kills: int
