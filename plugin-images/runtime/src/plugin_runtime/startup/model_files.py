"""Whether a model file can be what its suffix says, by its first 16 bytes."""

# The orchestrator imports this too, to check on the host before anything is built. So it loads no third-party module,
# and its sentences name the model and the file but never the folder, which would be a path of the host.

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from plugin_runtime.startup.failures import MODEL_CORRUPT, MODEL_MISSING, Failure

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER_SIZE = 16
MAX_SAFETENSORS_HEADER = 100_000_000  # the limit of the safetensors library itself
ONNX_TAGS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72")  # the fields of ModelProto that may follow ir_version
FETCH_AGAIN = "fetch the file again"


class Format(NamedTuple):
    """`matches` judges the header (16 bytes) and the file's size."""

    name: str
    matches: Callable[[bytes, int], bool]


def check_model_file(name: str, path: str | os.PathLike[str]) -> Failure | None:
    """Open the file of the model `name` and judge its header. None if nothing speaks against it, else MODEL_MISSING or
    MODEL_CORRUPT.
    """
    path = os.fspath(path)
    file = os.path.basename(path)  # noqa: PTH119 - this module works on strings
    where = f"model {name!r} ({file})"
    try:
        info = os.stat(path)  # noqa: PTH116 - before opening, which waits for ever on a named pipe
        if not stat.S_ISREG(info.st_mode):
            return Failure(MODEL_MISSING, f"{where} is not a regular file; name the file itself in plugin.yaml")
        with open(path, "rb") as stream:  # noqa: PTH123 - as above
            header = stream.read(HEADER_SIZE)
    except (FileNotFoundError, NotADirectoryError):
        reason = f"{where} is missing; put the file where plugin.yaml's `models` names it"
        return Failure(MODEL_MISSING, reason)
    except OSError as error:
        return Failure(MODEL_MISSING, f"{where} cannot be read: {error.strerror}; check its permissions")
    fault = judge(file, header, info.st_size)
    return Failure(MODEL_CORRUPT, f"{where} {fault}") if fault else None


def judge(file: str, header: bytes, size: int) -> str | None:
    """What is wrong with the file, as the rest of a sentence, or None."""
    if len(header) < HEADER_SIZE:
        return f"is only {size} bytes long; {FETCH_AGAIN}"
    if not any(header):
        return f"starts with zeros: its download or copy broke off; {FETCH_AGAIN}"
    if header.startswith(b"version https://"):
        return "is a Git LFS pointer and not the model; run `git lfs pull`"
    suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122 - a bare name
    if suffix not in {".html", ".htm", ".xml"} and header.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return f"is a web page and not the model: the download address led elsewhere; {FETCH_AGAIN}"
    expected = FORMATS.get(suffix)
    if expected is not None and not expected.matches(header, size):
        return f"is no {expected.name} file: it starts with {header.hex(' ')}; {FETCH_AGAIN} or correct its suffix"
    return None


def _magic(*magics: bytes, offset: int = 0) -> Callable[[bytes, int], bool]:
    return lambda header, _size: header.startswith(magics, offset)


def _safetensors(header: bytes, size: int) -> bool:
    length = struct.unpack_from("<Q", header)[0]
    return 2 <= length <= min(size - 8, MAX_SAFETENSORS_HEADER) and header[8:9] == b"{"


def _onnx(header: bytes, _size: int) -> bool:
    """Field 1 (ir_version, a small varint), then another field of ModelProto."""
    return header[0] == 0x08 and 0 < header[1] < 0x80 and header[2] in ONNX_TAGS


def _pickle(header: bytes, _size: int) -> bool:
    """Protocol 2 and up name themselves; 0 and 1 start with the opcode of the pickled object."""
    return (header[0] == 0x80 and 1 <= header[1] <= 5) or header[:1] in b"(]})cIFLSVN"


ZIP = (b"PK\x03\x04", b"PK\x05\x06")
TORCH = Format("PyTorch", _magic(*ZIP, b"\x80\x02\x8a\x0a"))  # the latter: saved before PyTorch 1.6
HDF5 = Format("HDF5", _magic(b"\x89HDF\r\n\x1a\n"))
JPEG = Format("JPEG", _magic(b"\xff\xd8\xff"))
GZIP = Format("gzip", _magic(b"\x1f\x8b"))
PICKLE = Format("pickle", _pickle)
FORMATS = {
    ".pt": TORCH,
    ".pth": TORCH,
    ".zip": Format("zip", _magic(*ZIP)),
    ".npz": Format("NumPy .npz (zip)", _magic(*ZIP)),
    ".npy": Format("NumPy .npy", _magic(b"\x93NUMPY")),
    ".gguf": Format("GGUF", _magic(b"GGUF")),
    ".safetensors": Format("safetensors", _safetensors),
    ".onnx": Format("ONNX", _onnx),
    ".tflite": Format("TensorFlow Lite", _magic(b"TFL3", offset=4)),
    ".h5": HDF5,
    ".hdf5": HDF5,
    ".png": Format("PNG", _magic(b"\x89PNG\r\n\x1a\n")),
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".gz": GZIP,
    ".tgz": GZIP,
    ".pkl": PICKLE,
    ".pickle": PICKLE,
}
