"""Small files of weights, as their own libraries write them."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx


def safetensors(size: int = 64) -> bytes:
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}, "__metadata__": {"b": "c"}})
    padded = header.encode().ljust(-(-len(header) // 8) * 8)
    return struct.pack("<Q", len(padded)) + padded + b"\1" * size


def zipped(comment: bytes = b"") -> bytes:
    """As torch.save, np.savez and Keras have it."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00." + bytes(200))
        archive.comment = comment
    return data.getvalue()


def gguf(version: int = 3, kind: int = 0, alignment: int | None = None, words: int = 4) -> bytes:
    """Two tensors of 32 elements of the type `kind` after a vocabulary of `words`."""
    entries = [
        _text("general.architecture") + struct.pack("<I", 8) + _text("llama"),
        _text("llama.rope") + struct.pack("<If", 6, 1.5),
        _text("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, words)
        + b"".join(_text(f"word{n}") for n in range(words)),
        _text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 3) + bytes(12),
        _text("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 0, 5) + bytes(5),
    ]
    if alignment is not None:
        entries.append(_text("general.alignment") + struct.pack("<II", 4, alignment))
    start = alignment or 32
    size = {0: 128, 8: 34, 999: 40}[kind]
    padded = -(-size // start) * start
    tensors = [_text(f"t{n}") + struct.pack("<IQIQ", 1, 32, kind, n * padded) for n in range(2)]
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join(entries + tensors)
    return head.ljust(-(-len(head) // start) * start, b"\0") + (b"\1" * padded) + b"\1" * size


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def onnx_model(folder: Path, **options: Any) -> Path:
    """model.onnx, with a weight of 4 KiB; `options` are those of `onnx.save_model`."""
    weight = onnx.numpy_helper.from_array(np.ones(1024, np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1024])],
        [value("y", onnx.TensorProto.FLOAT, [1024])],
        [weight],
    )
    model = onnx.helper.make_model(graph, producer_name="test")
    model.metadata_props.append(onnx.StringStringEntryProto(key="k", value="v"))
    onnx.save_model(model, folder / "model.onnx", **options)
    return folder / "model.onnx"


def external_onnx(folder: Path) -> Path:
    """model.onnx, whose weights are in model.onnx_data."""
    return onnx_model(folder, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
