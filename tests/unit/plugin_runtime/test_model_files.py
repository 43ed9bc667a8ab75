"""A model file that cannot be what its name says is found before anything loads it."""

import os
import struct

import pytest
from plugin_runtime.startup.model_files import check_model_file

PAD = bytes(range(1, 65))
SAFETENSORS = struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"}}'.ljust(40) + PAD

GOOD = [
    ("a.pt", b"PK\x03\x04" + PAD),
    ("a.pth", b"PK\x03\x04" + PAD),
    ("old.pth", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + PAD),
    ("a.zip", b"PK\x05\x06" + PAD),
    ("a.npz", b"PK\x03\x04" + PAD),
    ("a.npy", b"\x93NUMPY\x01\x00" + PAD),
    ("a.gguf", b"GGUF\x03\x00\x00\x00" + PAD),
    ("a.safetensors", SAFETENSORS),
    ("a.onnx", b"\x08\x08\x12\x07pytorch" + PAD),
    ("b.onnx", b"\x08\x04:\x90\x01" + PAD),
    ("a.tflite", b"\x1c\x00\x00\x00TFL3" + PAD),
    ("a.h5", b"\x89HDF\r\n\x1a\n" + PAD),
    ("a.hdf5", b"\x89HDF\r\n\x1a\n" + PAD),
    ("a.png", b"\x89PNG\r\n\x1a\n" + PAD),
    ("A.JPG", b"\xff\xd8\xff\xe0" + PAD),
    ("a.gz", b"\x1f\x8b\x08" + PAD),
    ("a.pkl", b"\x80\x04\x95" + PAD),
    ("old.pkl", b"(dp0\nS'a'\np1\n" + PAD),
    ("eng.traineddata", PAD),
    ("weights.bin", PAD),
    ("no_suffix", PAD),
]
CORRUPT = [
    ("short.bin", b"x" * 15, "only 15 bytes"),
    ("empty.pt", b"", "only 0 bytes"),
    ("zeros.traineddata", bytes(100), "zeros"),
    ("lfs.bin", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("page.onnx", b"<!DOCTYPE html><html>" + PAD, "web page"),
    ("page.bin", b"\n  <HTML><head>" + PAD, "web page"),
    ("a.pt", PAD, "no PyTorch file"),
    ("pickle3.pth", b"\x80\x03}" + PAD, "no PyTorch file"),
    ("a.zip", PAD, "no zip file"),
    ("a.npz", b"\x93NUMPY\x01\x00" + PAD, "no NumPy .npz"),
    ("a.npy", b"PK\x03\x04" + PAD, "no NumPy .npy"),
    ("a.gguf", b"GGML" + PAD, "no GGUF file"),
    ("brace.safetensors", struct.pack("<Q", 40) + b"[" + PAD, "no safetensors file"),
    ("cut.safetensors", struct.pack("<Q", 4000) + b"{" + PAD, "no safetensors file"),
    ("huge.safetensors", b"\xff" * 8 + b"{" + PAD, "no safetensors file"),
    ("a.onnx", b"\x0a\x08\x12" + PAD, "no ONNX file"),
    ("tag.onnx", b"\x08\x08\xff" + PAD, "no ONNX file"),
    ("a.tflite", b"TFL3\x00\x00\x00\x00" + PAD, "no TensorFlow Lite file"),
    ("a.h5", PAD, "no HDF5 file"),
    ("a.png", b"\xff\xd8\xff\xe0" + PAD, "no PNG file"),
    ("a.jpeg", b"\x89PNG\r\n\x1a\n" + PAD, "no JPEG file"),
    ("a.tgz", PAD, "no gzip file"),
    ("a.pkl", b"\x80\x09" + PAD, "no pickle file"),
]


@pytest.mark.parametrize(("name", "content"), GOOD, ids=[name for name, _ in GOOD])
def test_a_file_of_its_format_passes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert check_model_file("m", tmp_path / name) is None


@pytest.mark.parametrize(("name", "content", "says"), CORRUPT, ids=[case[0] for case in CORRUPT])
def test_a_file_that_is_not_what_its_name_says_is_corrupt(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    problem = check_model_file("m", tmp_path / name)
    assert problem is not None
    assert problem.code == "MODEL_CORRUPT"
    assert says in problem.reason


def test_the_sentence_names_model_and_file_and_no_folder(tmp_path):
    problem = check_model_file("detector", tmp_path / "yolo.pt")
    assert problem is not None
    assert problem.code == "MODEL_MISSING"
    assert "'detector'" in problem.reason
    assert "yolo.pt" in problem.reason
    assert str(tmp_path) not in problem.reason


def test_a_folder_is_no_model_file(tmp_path):
    problem = check_model_file("m", tmp_path)
    assert problem is not None
    assert problem.code == "MODEL_MISSING"


def test_a_path_through_a_file_is_missing(tmp_path):
    (tmp_path / "file").write_bytes(PAD)
    problem = check_model_file("m", tmp_path / "file" / "model.pt")
    assert problem is not None
    assert problem.code == "MODEL_MISSING"


@pytest.mark.timeout(5)
def test_a_named_pipe_does_not_hang_the_check(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    problem = check_model_file("m", tmp_path / "m.pt")
    assert problem is not None
    assert problem.code == "MODEL_MISSING"
