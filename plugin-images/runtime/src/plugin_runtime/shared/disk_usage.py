"""What a folder's files take of the disk: measured whole, or a piece at a time by a process that must not be kept."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512  # bytes; the unit of st_blocks, whatever the file system
REST = 20
"""A measurement of a second is good for so many seconds."""


def measured(folder: str) -> int:
    """Bytes of all files in the folder and below. Folders, and what cannot be looked at, count as nothing."""
    return sum(_sizes(folder))


class DiskUsage:
    """Of one folder, measured in steps: the plugin may have a million files."""

    def __init__(self, folder: str) -> None:
        self.bytes: int | None = None
        """As last measured; None before that."""
        self._folder = folder
        self._walk: Iterator[int] | None = None
        self._sum = 0
        self._spent = 0.0
        self._rest_until = 0.0

    def step(self, seconds: float) -> None:
        """Measure for about so long, from where the last step ended."""
        start = now = time.monotonic()
        if self._walk is None:
            if now < self._rest_until:
                return
            self._walk, self._sum, self._spent = _sizes(self._folder), 0, 0.0
        for size in self._walk:
            self._sum += size
            now = time.monotonic()
            if now - start > seconds:
                self._spent += now - start
                return
        self._walk, self.bytes = None, self._sum
        self._rest_until = now + (self._spent + now - start) * REST


def _sizes(folder: str) -> Iterator[int]:
    """Of each entry below `folder`. Symbolic links are not followed, and a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    yield _size(entry, folders, seen)
        except OSError:
            continue


def _size(entry: os.DirEntry[str], folders: list[str], seen: set[tuple[int, int]]) -> int:
    try:
        found = entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
            return 0
        if found.st_nlink > 1:
            if (found.st_dev, found.st_ino) in seen:
                return 0
            seen.add((found.st_dev, found.st_ino))
    except OSError:  # removed meanwhile
        return 0
    return found.st_blocks * BLOCK
