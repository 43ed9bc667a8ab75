"""What speaks against a model file being what its name says: said only of what cannot be right. Pure."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from plugin_runtime.startup.model_structure import CutOff, is_gguf, is_onnx, is_safetensors, is_zip, starts_like_zip

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

SHOWN = 16  # bytes of a wrong beginning in a sentence
HEAD_SIZE = 512
FETCH_AGAIN = "fetch the file again"
LFS_POINTER = "is a Git LFS pointer and not the model; run `git lfs pull`"
MAX_POINTER = 1024  # bytes, by the specification of Git LFS
MIN_ZEROS_IN_FOLDER = 16 * 1024**2  # smaller ones may be a tensor each, such as a bias that is zero
MAX_ZEROS_READ = 256 * 1024**2
MAX_PICKLE_PROTOCOL = 8  # 5 is the latest
HDF5 = b"\x89HDF\r\n\x1a\n"

# Files of these may begin like a web page, or be empty.
TEXTS = frozenset(
    {
        ".css",
        ".csv",
        ".htm",
        ".html",
        ".j2",
        ".jinja",
        ".jinja2",
        ".js",
        ".md",
        ".py",
        ".rst",
        ".svg",
        ".tmpl",
        ".tpl",
        ".tsv",
        ".txt",
        ".xhtml",
        ".xml",
        ".yaml",
        ".yml",
    }
)
STORE_ERROR = rb"\s*(<\?xml[^>]*\?>)?\s*<Error>\s*<Code>"  # of S3, Azure and Google storage
ERROR_TEXTS = (b"404: Not Found", b"Entry not found", b"Repository not found")  # whole answers of code and model hosts


class Format(NamedTuple):
    """`fits` judges the content and its size; it raises `CutOff`."""

    name: str
    fits: Callable[[BinaryIO, int], bool]


def suffix_of(file: str) -> str:
    """In small letters, with its dot."""
    return os.path.splitext(file)[1].lower()  # noqa: PTH122 - this module works on strings


def judge(file: str, stream: BinaryIO, size: int, *, alone: bool = True) -> str | None:
    """What is wrong with the file of this name, as the rest of a sentence, or None. `alone`: it is the whole model, and
    not one of a folder's files, among which some may be empty.
    """
    head = stream.read(HEAD_SIZE)
    size = max(size, len(head))
    suffix = suffix_of(file)
    expected = FORMATS.get(suffix)
    if not head:
        return f"is empty; {FETCH_AGAIN}" if alone or expected is not None else None
    if fault := _instead_of_a_file(head, suffix, size):
        return fault
    may_be_zeros = not alone and size < MIN_ZEROS_IN_FOLDER and (expected is None or expected is ZIP_OR_ANYTHING)
    if not may_be_zeros and not head.strip(b"\0") and _only_zeros(stream, size):
        return f"has only zeros: its download or copy broke off; {FETCH_AGAIN}"
    return None if expected is None else _misfit(expected, head, stream, size)


def _misfit(expected: Format, head: bytes, stream: BinaryIO, size: int) -> str | None:
    try:
        stream.seek(0)
        fits = expected.fits(stream, size)
    except CutOff as cut:
        return f"is cut off: {cut}; {FETCH_AGAIN}"
    if fits:
        return None
    return f"is no {expected.name} file: it starts with {head[:SHOWN].hex(' ')}; {FETCH_AGAIN} or correct its suffix"


def _instead_of_a_file(head: bytes, suffix: str, size: int) -> str | None:
    """What a download or a checkout left in its stead."""
    if size <= MAX_POINTER:
        if re.match(rb"version https://(git-lfs|hawser)\.github\.com/spec/", head):
            return LFS_POINTER
        if head.startswith(b"/annex/objects/"):
            return "is a git-annex pointer and not the model; run `git annex get`"
        if head.strip() in ERROR_TEXTS:
            return f"is the answer {head.strip().decode()!r} of a download and not the model; {FETCH_AGAIN}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(STORE_ERROR, text):
        return f"is the error message of an object store and not the model; {FETCH_AGAIN}"
    if suffix not in TEXTS and text.lower().startswith((b"<!doctype html", b"<html")):
        return f"is a web page and not the model: the download address led elsewhere; {FETCH_AGAIN}"
    return None


def _only_zeros(stream: BinaryIO, size: int) -> bool:
    """Whether that is certain, without reading the holes of a sparse file."""
    position = read = 0
    while position < size:
        try:
            position = stream.seek(position, os.SEEK_DATA)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENXIO:
                return True  # nothing but a hole follows
            stream.seek(position)
        chunk = stream.read(1024**2)
        if chunk.strip(b"\0") or read > MAX_ZEROS_READ:
            return False
        if not chunk:
            break
        position += len(chunk)
        read += len(chunk)
    return True


def _magic(*magics: bytes, offset: int = 0) -> Callable[[BinaryIO, int], bool]:
    return lambda stream, _size: stream.read(SHOWN).startswith(magics, offset)


def _whole(stream: BinaryIO, size: int) -> bool:
    """Of a format that may be anything, and a zip archive too: that one has its end."""
    return not starts_like_zip(stream.read(4)) or is_zip(stream, size)


def _pickled(stream: BinaryIO, size: int) -> bool:
    """A pickle, an archive of them, or compressed by whatever the plugin has: only what names itself can be wrong."""
    head = stream.read(2)
    if head[:1] == b"\x80" and not 0 <= head[-1] <= MAX_PICKLE_PROTOCOL:
        return False
    stream.seek(0)
    return _whole(stream, size)


def _hdf5(stream: BinaryIO, size: int) -> bool:
    """Its signature follows a block of the user's, of 0, 512, 1024, 2048 … bytes."""
    position = 0
    while position < size:
        stream.seek(position)
        if stream.read(len(HDF5)) == HDF5:
            return True
        position = max(512, 2 * position)
    return False


ZIP_OR_ANYTHING = Format("zip", _whole)  # PyTorch's archive, or one of many others
PYTORCH = Format("PyTorch", _pickled)
PICKLE = Format("pickle", _pickled)
HDF5_FILE = Format("HDF5", _hdf5)
JPEG = Format("JPEG", _magic(b"\xff\xd8\xff"))
GZIP = Format("gzip", _magic(b"\x1f\x8b"))
FORMATS = {
    ".bin": ZIP_OR_ANYTHING,
    ".pt": PYTORCH,
    ".pth": PYTORCH,
    ".ckpt": PYTORCH,
    ".pkl": PICKLE,
    ".pickle": PICKLE,
    ".joblib": PICKLE,
    ".zip": Format("zip", is_zip),
    ".npz": Format("NumPy .npz (zip)", is_zip),
    ".keras": Format("Keras (zip)", is_zip),
    ".npy": Format("NumPy .npy", _magic(b"\x93NUMPY")),
    ".gguf": Format("GGUF", is_gguf),
    ".safetensors": Format("safetensors", is_safetensors),
    ".onnx": Format("ONNX", is_onnx),
    ".tflite": Format("TensorFlow Lite", _magic(b"TFL3", offset=4)),
    ".h5": HDF5_FILE,
    ".hdf5": HDF5_FILE,
    ".png": Format("PNG", _magic(b"\x89PNG\r\n\x1a\n")),
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".gz": GZIP,
    ".tgz": GZIP,
}
