"""The scratch folder and its limit: what is free for uploads, and whether an error came from a full disk."""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING

from plugin_runtime.shared.disk_usage import REST, measured
from plugin_runtime.tools.plugin_errors import links, message_of
from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
SIGNS = ("no space left on device", "disk quota exceeded")
OTHERS = {"/tmp": "/tmp is in memory and has 16 MiB", "/dev/shm": "/dev/shm is held to `limits.shm`"}  # noqa: S108
FAR_BELOW = 0.9
"""Of the limit: if less is in use, it is not this limit that was met."""
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Scratch:
    """`max_bytes`: of all files in it, uploads and the plugin's own. Used by every connection's thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._uploads = 0  # bytes
        self._own = 0  # bytes, as last measured
        self._rest_until = 0.0

    def look(self) -> None:
        """Measure the plugin's own files, unless that was done a moment ago. Call it before the first charge."""
        start = time.monotonic()
        if start < self._rest_until:
            return
        uploads, used = self._uploads, measured(str(self.folder))
        self._own = max(0, used - uploads)
        end = time.monotonic()
        self._rest_until = end + (end - start) * REST

    def charge(self, size: int) -> None:
        """Count bytes of an upload. Raises Refused where they do not fit beside all others and the plugin's files."""
        with self._lock:
            if self._own + self._uploads + size > self.max_bytes:
                raise Refused("too_large", self._too_large())
            self._uploads += size

    def release(self, size: int) -> None:
        """The files of so many charged bytes are removed."""
        with self._lock:
            self._uploads -= size

    def _too_large(self) -> str:
        own = f", of which the plugin's own files take {size_text(self._own)}" if self._own else ""
        return f"the uploads are over the plugin's {size_text(self.max_bytes)} of disk (`limits.scratch`){own}"

    def advice(self, error: BaseException) -> str:
        """To be added to the error's message; empty where it has nothing to do with the disk."""
        if any(_is_read_only(link) for link in links(error)):
            return f"; only {self.folder} can be written (PLUGIN_SCRATCH_DIR): `tempfile` makes its files there, too"
        full = next((link for link in links(error) if _looks_full(link)), None)
        if full is None:
            return ""
        path = str(getattr(full, "filename", None) or "")
        for folder, sentence in OTHERS.items():
            if path.startswith(f"{folder}/"):
                return f"; {sentence}: larger files belong into {self.folder} (PLUGIN_SCRATCH_DIR)"
        used = measured(str(self.folder))
        sentence = f"; {size_text(used)} of the {size_text(self.max_bytes)} of `limits.scratch` are in use"
        if used < self.max_bytes * FAR_BELOW:
            return f"{sentence}: the engine's disk itself is full"
        return f"{sentence}: remove what is no longer needed, or raise it in plugin.yaml"


def size_text(size: int) -> str:
    """4294967296 → "4 GiB"."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {UNITS[unit]}" if value < 1000 else f"{value:.0f} {UNITS[unit]}"


def _is_read_only(error: BaseException) -> bool:
    return isinstance(error, OSError) and (error.errno == errno.EROFS or "read-only file system" in str(error).lower())


def _looks_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    text = message_of(error).lower()
    return any(sign in text for sign in SIGNS)
