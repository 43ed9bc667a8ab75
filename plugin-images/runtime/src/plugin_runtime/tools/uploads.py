"""The uploads of one call: into memory for `bytes` parameters, into files for `Path` and `Upload` parameters."""

from __future__ import annotations

import os
from io import BytesIO
from typing import TYPE_CHECKING, Protocol, Self

from plugin_runtime.authoring import Upload
from plugin_runtime.tools.media_types import base_name, safe_suffixes, suffix_of_media_type
from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from plugin_runtime.tools.parameters import Parameter
    from plugin_runtime.tools.scratch import Scratch

    File = bytes | Path | Upload

MAX_IN_MEMORY = 128 * 1024 * 1024
"""Bytes of all uploads of one parameter."""
MAX_FILE_NAME = 255
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
SAFE_IN_RUN_ID = SAFE | {"-", "_"}


class Sink(Protocol):
    """Receives one upload, piece by piece."""

    def write(self, data: bytes) -> None:
        """Raises Refused if it becomes too large."""

    def finish(self) -> File:
        """The tool's argument, or one of several."""


class UploadFolder:
    """The folder for one call's files: made with the first, removed with all of them at the end of the `with`."""

    def __init__(self, scratch: Scratch, run_id: str) -> None:
        self._scratch = scratch
        self._run_id = run_id
        self.max_bytes = scratch.max_bytes
        self._charged = 0  # bytes
        self._folder: Path | None = None
        self._open: list[FileSink] = []
        self._counts: dict[str, int] = {}
        self._memory_left: dict[str, int] = {}

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
            self._scratch.release(self._charged)

    def sink(self, parameter: Parameter, file_name: str = "", content_type: str = "") -> Sink:
        """Where to write an upload of a parameter. Its file has the suffixes of `file_name`, or of its media type."""
        number = self._counts[parameter.name] = self._counts.get(parameter.name, 0) + 1
        if parameter.upload == "bytes":
            return MemorySink(self, parameter.name)
        # Libraries choose the format by the suffix.
        media_type = content_type.partition(";")[0].strip().lower()
        suffix = safe_suffixes(file_name) if file_name else suffix_of_media_type(media_type)
        name = f"{parameter.name}-{number}" if parameter.takes_many else parameter.name
        try:
            sink = FileSink(self, self._make_folder() / f"{name}{suffix}")
        except OSError as error:
            raise self.not_writable(error) from error
        if parameter.wants_upload:
            sink.about = (base_name(file_name)[-MAX_FILE_NAME:], content_type)
        self._open.append(sink)
        return sink

    def charge_memory(self, parameter: str, size: int) -> None:
        """Count bytes that are held in memory for a parameter. Raises Refused over the limit."""
        left = self._memory_left[parameter] = self._memory_left.get(parameter, MAX_IN_MEMORY) - size
        if left < 0:
            advice = "a pathlib.Path parameter takes larger ones"
            raise Refused("too_large", f"the upload {parameter!r} is over {MAX_IN_MEMORY} bytes; {advice}")

    def charge(self, size: int) -> None:
        """Count bytes against the plugin's disk. Raises Refused where they do not fit."""
        self._scratch.charge(size)
        self._charged += size

    def not_writable(self, error: OSError) -> Refused:
        advice = self._scratch.advice(error)
        return Refused("too_large", f"the upload cannot be written to the scratch folder: {error.strerror}{advice}")

    def _make_folder(self) -> Path:
        if self._folder is None:
            self._scratch.look()
            parent = self._scratch.folder / "uploads"
            parent.mkdir(parents=True, exist_ok=True)
            folder = parent / self._run_id
            try:
                folder.mkdir()
            except FileExistsError:  # two calls with one run id: each gets its own
                folder = parent / f"{self._run_id}.{os.urandom(6).hex()}"
                folder.mkdir()
            self._folder = folder
        return self._folder


class FileSink:
    """Into a file, never held in memory."""

    def __init__(self, folder: UploadFolder, path: Path) -> None:
        self.about: tuple[str, str] | None = None  # file name and media type, where an `Upload` is wanted
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
            raise self._folder.not_writable(error) from error

    def finish(self) -> Path | Upload:
        self.close()
        return self._path if self.about is None else Upload(self._path, *self.about)

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class MemorySink:
    """Into one bytes object."""

    def __init__(self, folder: UploadFolder, parameter: str) -> None:
        self._folder = folder
        self._parameter = parameter
        self._buffer = BytesIO()

    def write(self, data: bytes) -> None:
        """Raises Refused over the limit."""
        self._folder.charge_memory(self._parameter, len(data))
        self._buffer.write(data)

    def finish(self) -> bytes:
        return self._buffer.getvalue()  # the buffer itself, without a copy


def safe_run_id(text: str) -> str:
    """The caller's run id if it can name a folder, else a new one."""
    return text if 0 < len(text) <= 64 and SAFE_IN_RUN_ID.issuperset(text) else os.urandom(8).hex()
