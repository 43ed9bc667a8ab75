"""The uploads of one call: into memory for `bytes` parameters, into files for `Path` parameters."""

from __future__ import annotations

import os
from io import BytesIO
from typing import TYPE_CHECKING, Protocol, Self

from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from plugin_runtime.tools.parameters import Upload

MAX_IN_MEMORY = 128 * 1024 * 1024
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
SAFE_IN_RUN_ID = SAFE | {"-", "_"}


class Sink(Protocol):
    """Receives one upload, piece by piece."""

    def write(self, data: bytes) -> None:
        """Raises Refused if it becomes too large."""

    def finish(self) -> bytes | Path:
        """The tool's argument."""


class UploadFolder:
    """The folder for one call's files: made with the first, removed with all of them at the end of the `with`."""

    def __init__(self, scratch: Path, run_id: str, max_bytes: int) -> None:
        self._parent = scratch / "uploads"
        self._run_id = run_id
        self._left = self._max_bytes = max_bytes
        self._folder: Path | None = None
        self._open: list[FileSink] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sink in self._open:
            sink.close()
        if self._folder is not None:
            import shutil  # noqa: PLC0415 - imports every compression, and only a call with files needs it

            shutil.rmtree(self._folder, ignore_errors=True)

    def sink(self, kind: Upload, parameter: str, file_name: str) -> Sink:
        """Where to write the upload of a parameter. Its file has the suffix of `file_name`."""
        # Libraries choose the format by the suffix.
        if kind == "bytes":
            return MemorySink(parameter, MAX_IN_MEMORY)
        try:
            folder = self._make_folder()
            sink = FileSink(self, folder / f"{parameter}{safe_suffix(file_name)}")
        except OSError as error:
            raise _not_writable(error) from error
        self._open.append(sink)
        return sink

    def charge(self, size: int) -> None:
        """Count bytes against the limit of the call. Raises Refused over it."""
        self._left -= size
        if self._left < 0:
            raise Refused("too_large", f"the uploads of this call are over {self._max_bytes} bytes (`scratch` limit)")

    def _make_folder(self) -> Path:
        if self._folder is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            folder = self._parent / self._run_id
            try:
                folder.mkdir()
            except FileExistsError:  # two calls with one run id: each gets its own
                folder = self._parent / f"{self._run_id}.{os.urandom(6).hex()}"
                folder.mkdir()
            self._folder = folder
        return self._folder


class FileSink:
    """Into a file, never held in memory."""

    def __init__(self, folder: UploadFolder, path: Path) -> None:
        self._folder = folder
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Raises Refused over the call's limit, and where the disk is full."""
        self._folder.charge(len(data))
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise _not_writable(error) from error

    def finish(self) -> Path:
        self.close()
        return self._path

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class MemorySink:
    """Into one bytes object."""

    def __init__(self, parameter: str, max_bytes: int) -> None:
        self._parameter = parameter
        self._left = self._max_bytes = max_bytes
        self._buffer = BytesIO()

    def write(self, data: bytes) -> None:
        """Raises Refused over the limit."""
        self._left -= len(data)
        if self._left < 0:
            advice = "a pathlib.Path parameter takes larger ones"
            raise Refused("too_large", f"the upload {self._parameter!r} is over {self._max_bytes} bytes; {advice}")
        self._buffer.write(data)

    def finish(self) -> bytes:
        return self._buffer.getvalue()  # the buffer itself, without a copy


def safe_run_id(text: str) -> str:
    """The caller's run id if it can name a folder, else a new one."""
    return text if 0 < len(text) <= 64 and SAFE_IN_RUN_ID.issuperset(text) else os.urandom(8).hex()


def safe_suffix(file_name: str) -> str:
    """`.png` of `a/b.PNG`; "" where the suffix is unusual."""
    suffix = os.path.splitext(file_name)[1].lower()  # noqa: PTH122 - a caller's name, not a path of this system
    return suffix if 1 < len(suffix) <= 11 and SAFE.issuperset(suffix[1:]) else ""


def suffix_of_media_type(media_type: str) -> str:
    """`.png` of `image/png`, for a raw upload, which has no file name."""
    subtype = media_type.partition("/")[2]
    return "" if subtype in {"octet-stream", "x-www-form-urlencoded"} else safe_suffix(f"upload.{subtype}")


def _not_writable(error: OSError) -> Refused:
    return Refused("too_large", f"the upload cannot be written to the scratch folder: {error.strerror}")
