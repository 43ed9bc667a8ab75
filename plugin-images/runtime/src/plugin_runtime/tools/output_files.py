"""The files of one run's result: taken from what a tool returns, and held until the orchestrator has fetched them."""

from __future__ import annotations

import os
import stat
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from plugin_runtime.tools.media_types import (
    OCTETS,
    SNIFFED,
    file_name,
    media_type_of_name,
    numbered,
    sniffed_media_type,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Content = bytes | bytearray | memoryview | str

MAX_IN_MEMORY = 256 * 1024
"""Bytes of one spool; beyond them it is in the scratch folder."""
MAX_FILES = 10_000
"""Of one run; the orchestrator takes no more."""
MAX_OPEN = 64
"""Files that are held open; those beyond are copied."""
READ_BYTES = 256 * 1024
TEMPORARY = ("/tmp", "/dev/shm")  # noqa: S108 - beside the scratch folder and TMPDIR
MARK = "plugin-file:"
"""Begins the text that stands for a file in the JSON of a result."""


class UnusableFile(ValueError):  # noqa: N818 - what is wrong, for the operator
    """A file that cannot be part of a result."""


class OpenFile:
    """A descriptor that is closed with the last reference to it: a reader may still be at it."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """What is there from `start` on, up to `end`. Raises OSError."""
        while end is None or start < end:
            data = os.pread(self.descriptor, READ_BYTES if end is None else min(READ_BYTES, end - start), start)
            if not data:
                return
            start += len(data)
            yield data

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]


class Spool:
    """Bytes that are appended by one thread, and read by any, any number of times."""

    def __init__(self, folder: str) -> None:
        self.size = 0
        self._folder = folder
        self._start = bytearray()
        self._file: OpenFile | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raises OSError where the scratch folder has no room."""
        size = self.size + len(data)
        if self._file is None and size <= MAX_IN_MEMORY:
            self._start += data
        else:
            self._spill(data)
        self.size = size

    def chunks(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """`size` bytes from `start` on, or all."""
        end = self.size if size is None else start + size
        memory = self._start  # before the file: it is replaced after that has all of it
        file = self._file
        if file is None:
            if start < end:
                yield bytes(memory[start:end])
        else:
            yield from file.chunks(start, end)

    def _spill(self, data: bytes | bytearray | memoryview) -> None:
        if self._file is None:
            from tempfile import mkstemp  # noqa: PLC0415 - many imports, which only large results need

            os.makedirs(self._folder, exist_ok=True)  # noqa: PTH103 - a string
            descriptor, path = mkstemp(dir=self._folder)
            os.unlink(path)  # noqa: PTH108 - it has no name, so that it disappears with its last reader
            file = OpenFile(descriptor)
            file.append(self._start)
            self._file = file
            self._start = bytearray()
        self._file.append(data)


class OutputFile(NamedTuple):
    """One file. `mark` stands for it in the JSON of the result."""

    name: str
    media_type: str
    size: int
    mark: str
    source: Spool | OpenFile
    offset: int

    def document(self) -> dict[str, Any]:
        """As the answer announces it."""
        return {"name": self.name, "media_type": self.media_type, "size": self.size, "mark": self.mark}

    def chunks(self) -> Iterator[bytes]:
        """Its content, of a file that grew or shrank since as it is now. Raises OSError."""
        if isinstance(self.source, Spool):
            return self.source.chunks(self.offset, self.size)
        return self.source.chunks()


class OutputFiles:
    """Those of one run, together at most `max_bytes`. `scratch`: the folder for what is not held in memory."""

    def __init__(self, scratch: str, max_bytes: int) -> None:
        self.copies = False
        """Whether files given by path are copied, because the tool goes on and may overwrite them."""
        self._scratch = scratch
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._files: dict[str, OutputFile] = {}
        self._numbers: dict[str, int] = {}  # by name, in lower case: the last number that was appended to it
        self._open = 0
        self._announced = 0
        self._spool: Spool | None = None

    def __len__(self) -> int:
        return len(self._files)

    def find(self, name: str) -> OutputFile | None:
        return self._files.get(name)

    def documents(self) -> list[dict[str, Any]]:
        """All of them, as an answer announces them."""
        return [file.document() for file in self._files.values()]

    def new_documents(self) -> list[dict[str, Any]]:
        """Those added since the last call, as an item announces them."""
        if len(self._files) == self._announced:
            return []
        new = list(self._files.values())[self._announced :]
        self._announced = len(self._files)
        return [file.document() for file in new]

    def add(self, content: Content, media_type: str | None, name: str | None, *, stem: str) -> str:
        """Take a file, and return its mark. `stem`: what it is called without a name. Raises UnusableFile."""
        if len(self._files) >= MAX_FILES:
            raise UnusableFile(f"is one file too many: a run may give {MAX_FILES}; pack them into an archive")
        if isinstance(content, str):
            name = name or os.path.basename(content)  # noqa: PTH119 - a string
            file = self._open_path(content)
            size = os.fstat(file.descriptor).st_size
            start = os.pread(file.descriptor, SNIFFED, 0)
            source, offset = self._held(file, size)
        else:
            view = memoryview(content).cast("B") if not isinstance(content, bytes) else content
            size, start = len(view), bytes(view[:SNIFFED])
            source, offset = self._spooled([view], size)
        named_type = media_type or (media_type_of_name(name) if name else None)
        media_type = named_type or sniffed_media_type(start) or OCTETS
        unique = self._unique(file_name(name) if name else file_name(stem, media_type))
        mark = MARK + os.urandom(16).hex()
        self._files[unique] = OutputFile(unique, media_type, size, mark, source, offset)
        return mark

    def _held(self, file: OpenFile, size: int) -> tuple[Spool | OpenFile, int]:
        if self.copies or self._open >= MAX_OPEN:
            return self._spooled(file.chunks(), size)
        self._charge(size)
        self._open += 1
        return file, 0

    def _spooled(self, chunks: Iterable[Any], size: int) -> tuple[Spool, int]:
        self._charge(size)
        spool = self._spool = self._spool or Spool(self._scratch)
        offset = spool.size
        try:
            for chunk in chunks:
                if spool.size - offset > size:
                    break
                spool.write(chunk)
        except OSError as error:
            raise UnusableFile(f"is a file that cannot be stored in the scratch folder: {error.strerror}") from error
        if spool.size - offset != size:
            raise UnusableFile("is a File of a path whose file is still being written; yield it once it is complete")
        return spool, offset

    def _charge(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise UnusableFile(
                f"makes the files of this run more than {self._max_bytes} bytes; give less, or raise `limits.output` "
                "in plugin.yaml"
            )

    def _open_path(self, path: str) -> OpenFile:
        try:
            # Not blocking: a named pipe would wait for its writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UnusableFile(
                f"is a File of {path!r}, which cannot be opened: {reason}; a file must still be there when the tool "
                "has ended, and a str is a path: give content as bytes"
            ) from error
        file = OpenFile(descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnusableFile(f"is a File of {path!r}, which is no regular file")
        # Where it really is, whatever links led there: a name that came from a caller must not bring a secret out.
        real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - a string
        roots = [self._scratch, os.environ.get("TMPDIR") or TEMPORARY[0], *TEMPORARY]
        if not any(real.startswith(os.path.realpath(root) + "/") for root in roots):
            raise UnusableFile(
                f"is a File of {path!r}, which is not in the scratch folder ({self._scratch}) nor a temporary one; "
                "write it there, or return its bytes"
            )
        return file

    def _unique(self, name: str) -> str:
        # Without regard to case, as the file systems of callers may have it.
        unique = name
        while unique.lower() in self._numbers:
            number = self._numbers[name.lower()] = self._numbers[name.lower()] + 1
            unique = numbered(name, number)
        self._numbers[unique.lower()] = 1
        return unique


def encoded_image(image: Any) -> tuple[bytes, str]:
    """A PIL image as a file without loss, and its media type: PNG, or TIFF where PNG has no such pixels."""
    converted = image.convert(CONVERTED[image.mode]) if image.mode in CONVERTED else image
    kind = "PNG" if converted.mode in PNG_MODES else "TIFF"
    animated = converted is image and getattr(image, "n_frames", 1) > 1
    buffer = BytesIO()
    converted.save(buffer, kind, **({"save_all": True} if animated else {}))
    return buffer.getvalue(), f"image/{kind.lower()}"


PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B"})
CONVERTED = {"CMYK": "RGB", "HSV": "RGB", "PA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA", "YCbCr": "RGB"}
"""Modes of PIL that no viewer shows: to what."""
