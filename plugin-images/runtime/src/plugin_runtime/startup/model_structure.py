"""Whether files of weights are whole, by what their own headers say, and only where that is certain. Pure: reads from a
stream.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_SAFETENSORS_HEADER = 100_000_000  # the limit of the safetensors library itself
MAX_PARSED_HEADER = 16 * 1024**2  # bytes of JSON that are read for one file
CHUNK = 1024**2
MAX_ITEMS = 2_000_000  # of a header that are walked; a vocabulary has some hundred thousand
ZIP_END = b"PK\x05\x06"
ZIP_END_SIZE = 22
MAX_ZIP_COMMENT = 65_535

# Type → elements and bytes of a block. The format changes none, since files rely on them; new ones get new numbers.
GGML_TYPES = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    30: (1, 2),  # BF16
}
GGUF_VERSIONS = (2, 3)  # 1 has other counts; what comes later is not known
GGUF_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
GGUF_STRING = 8
GGUF_ARRAY = 9

ONNX_GRAPH = 7  # of ModelProto
ONNX_FUNCTIONS = 25
ONNX_INITIALIZER = 5  # of GraphProto
ONNX_EXTERNAL_DATA = 13  # of TensorProto


class CutOff(Exception):  # noqa: N818 - a finding about a file
    """The file ends before its own header says that it does. The message completes "is cut off: "."""


class Unknown(Exception):  # noqa: N818 - as above
    """The file has what this module does not know, so nothing is said against it."""


class Reader:
    """Reads a file of `size` bytes from its start on. Raises `CutOff` where it ends too early."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self.position = 0
        stream.seek(0)

    def take(self, count: int) -> bytes:
        self.require(self.position + count)
        data = self._stream.read(count)
        self.position += len(data)
        if len(data) < count:
            raise CutOff(f"it ends after {self.position} bytes")
        return data

    def skip(self, count: int) -> None:
        self.require(self.position + count)
        self._stream.seek(count, 1)
        self.position += count

    def skip_texts(self, count: int) -> None:
        """Each follows its length. A vocabulary has hundreds of thousands, too many for a call each."""
        length_at = struct.Struct("<Q").unpack_from
        chunk, chunk_start = b"", self.position
        for _ in range(count):
            if self.position - chunk_start + 8 > len(chunk):
                self.require(self.position + 8)
                chunk_start = self._stream.seek(self.position)
                chunk = self._stream.read(CHUNK)
            self.position += 8 + length_at(chunk, self.position - chunk_start)[0]
        self.require(self.position)
        self._stream.seek(self.position)

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def require(self, end: int) -> None:
        """Raises `CutOff` where the file has fewer than `end` bytes."""
        if end > self._size:
            raise CutOff(f"it has {self._size} bytes and needs at least {end}")


def is_safetensors(stream: BinaryIO, size: int) -> bool:
    """Raises `CutOff` where the header or the tensors that it lists go beyond the file's end."""
    reader = Reader(stream, size)
    length = reader.number("<Q")
    if not 2 <= length <= MAX_SAFETENSORS_HEADER:
        return False
    if reader.take(1) != b"{":
        return False
    reader.require(8 + length)
    if length > MAX_PARSED_HEADER:
        return True
    try:
        header = json.loads(b"{" + reader.take(length - 1))
    except RecursionError:
        return True
    except ValueError:
        return False
    ends = [_tensor_end(tensor) for tensor in header.values()]
    reader.require(8 + length + max(ends, default=0))
    return True


def _tensor_end(tensor: Any) -> int:
    offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
    end = offsets[-1] if isinstance(offsets, list) and offsets else 0
    return end if isinstance(end, int) else 0


def is_gguf(stream: BinaryIO, size: int) -> bool:
    """Raises `CutOff` where the header or the tensors that it lists go beyond the file's end."""
    reader = Reader(stream, size)
    if reader.take(4) != b"GGUF":
        return False
    reader.require(16)
    try:
        if reader.number("<I") in GGUF_VERSIONS:
            reader.require(_gguf_end(reader))
    except (Unknown, RecursionError):
        pass
    return True


def _gguf_end(reader: Reader) -> int:
    """Where the last tensor ends. Raises `CutOff`, `Unknown`."""
    tensors, entries = reader.number("<Q"), reader.number("<Q")
    alignment = 32
    for _ in _bounded(entries):
        key = reader.take(_bounded_length(reader.number("<Q")))
        value = _gguf_value(reader, reader.number("<I"))
        if key == b"general.alignment" and isinstance(value, int) and value > 0:
            alignment = value
    ends = [0]
    for _ in _bounded(tensors):
        reader.skip(reader.number("<Q"))
        elements = 1
        for _ in _bounded(reader.number("<I")):
            elements *= reader.number("<Q")
        block, block_size = GGML_TYPES.get(reader.number("<I"), (1, 0))
        ends.append(reader.number("<Q") + elements // block * block_size)
    start = -(-reader.position // alignment) * alignment
    return start + max(ends) if tensors else reader.position


def _gguf_value(reader: Reader, kind: int) -> object:
    """The value where it is a number, else None."""
    if kind in GGUF_NUMBERS:
        return reader.number(GGUF_NUMBERS[kind])
    if kind == GGUF_STRING:
        reader.skip(reader.number("<Q"))
    elif kind == GGUF_ARRAY:
        inner, count = reader.number("<I"), reader.number("<Q")
        if inner in GGUF_NUMBERS:
            reader.skip(struct.calcsize(GGUF_NUMBERS[inner]) * count)
        elif inner == GGUF_STRING:
            reader.skip_texts(len(_bounded(count)))
        else:
            for _ in _bounded(count):
                _gguf_value(reader, inner)
    else:
        raise Unknown
    return None


def is_onnx(stream: BinaryIO, size: int) -> bool:
    """A protobuf message with ModelProto's graph, or an ONNX Runtime flatbuffer. Raises `CutOff`."""
    if Reader(stream, size).take(min(8, size))[4:] == b"ORTM":
        return True
    reader = Reader(stream, size)
    fields: set[tuple[int, int]] = set()
    try:
        for number, wire, length in _fields(reader, size):
            fields.add((number, wire))
            reader.skip(length)
    except Unknown:
        return True
    except CutOff:
        # Only where it looked like one until then: any text is the beginning of some message.
        if (1, 0) in fields or (ONNX_GRAPH, 2) in fields:
            raise
        return False
    except ValueError:
        return False
    return bool(fields & {(ONNX_GRAPH, 2), (ONNX_FUNCTIONS, 2)})


def onnx_external_data(stream: BinaryIO, size: int) -> set[str]:
    """The files, beside the model, that an ONNX model's initializers are in. Empty where that cannot be found."""
    reader = Reader(stream, size)
    found: set[str] = set()
    try:
        for number, wire, length in _fields(reader, size):
            if (number, wire) != (ONNX_GRAPH, 2):
                reader.skip(length)
                continue
            for initializer in _messages(reader, length, ONNX_INITIALIZER):
                for entry in _messages(reader, initializer, ONNX_EXTERNAL_DATA):
                    key, value = _entry(reader.take(_bounded_length(entry)))
                    if key == b"location":
                        found.add(value.decode("utf-8", "replace"))
    except (CutOff, Unknown, ValueError):
        return set()
    return found


def _messages(reader: Reader, length: int, wanted: int) -> Iterator[int]:
    """The lengths of the messages in field `wanted` of the message that follows; the caller reads each to its end."""
    end = reader.position + length
    for number, wire, size in _fields(reader, end):
        if (number, wire) == (wanted, 2):
            yield size
        else:
            reader.skip(size)


def _entry(data: bytes) -> tuple[bytes, bytes]:
    """A StringStringEntryProto."""
    from io import BytesIO  # noqa: PLC0415 - hardly any model has one

    reader = Reader(BytesIO(data), len(data))
    values = {number: reader.take(size) for number, wire, size in _fields(reader, len(data)) if wire == 2}
    return values.get(1, b""), values.get(2, b"")


def _fields(reader: Reader, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, wire type and bytes left of each field of a protobuf message; the caller reads or skips these. Raises
    ValueError for what is no message, `Unknown` for groups, which nothing has used for long.
    """
    for _ in range(MAX_ITEMS):
        if reader.position >= end:
            return
        tag = _varint(reader)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("no field has the number 0")
        if wire == 0:
            _varint(reader)
            yield number, wire, 0
        elif wire in (1, 5):
            yield number, wire, 8 if wire == 1 else 4
        elif wire == 2:
            yield number, wire, _varint(reader)
        elif wire in (3, 4):
            raise Unknown
        else:
            raise ValueError("there is no such wire type")
    raise Unknown


def _varint(reader: Reader) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = reader.take(1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("a varint has at most ten bytes")


def starts_like_zip(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", ZIP_END))


def is_zip(stream: BinaryIO, size: int) -> bool:
    """Raises `CutOff` for one that has a beginning and no end."""
    tail = min(size, ZIP_END_SIZE + MAX_ZIP_COMMENT)
    stream.seek(size - tail)
    found = stream.read(tail).rfind(ZIP_END, 0, max(0, tail - ZIP_END_SIZE + len(ZIP_END)))
    if found >= 0:
        return True
    stream.seek(0)
    if starts_like_zip(stream.read(4)):
        raise CutOff("the end of its zip archive is missing")
    return False


def _bounded(count: int) -> range:
    if count > MAX_ITEMS:
        raise Unknown
    return range(count)


def _bounded_length(length: int) -> int:
    """Of something in a header."""
    if length > MAX_PARSED_HEADER:
        raise Unknown
    return length
