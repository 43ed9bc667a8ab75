"""A model file that cannot be what its name says is found before anything loads it; what could be right passes."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from plugin_runtime.startup import model_formats
from plugin_runtime.startup.model_files import check_model
from plugin_runtime.startup.model_formats import judge
from unit.plugin_runtime.model_samples import gguf, onnx_model, safetensors, zipped

PAD = bytes(range(1, 65))
PICKLED = pickle.dumps({"weights": list(range(100))})
OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # the number that torch.save began with before 1.6
S3_ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>'
AZURE_ERROR = b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><Error><Code>BlobNotFound</Code></Error>'
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"


def tarred() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return data.getvalue()


GOOD = [
    ("a.pt", zipped()),
    ("a.pth", zipped()),
    ("commented.pt", zipped(comment=b"x" * 65_535)),
    ("old.pth", OLD_TORCH + PICKLED),
    ("old.pt", tarred()),
    ("pickle.pth", PICKLED),
    ("pickle3.pth", b"\x80\x03}" + PAD),
    ("encrypted.pt", PAD),
    ("a.ckpt", zipped()),
    ("tensorflow1.ckpt", b"\x00\x00\x04\x01" + PAD),
    ("a.zip", zipped()),
    ("empty.zip", b"PK\x05\x06" + bytes(18)),
    ("extracts-itself.zip", b"#!/bin/sh\n" + zipped()),
    ("a.npz", zipped()),
    ("a.keras", zipped()),
    ("a.npy", b"\x93NUMPY\x01\x00" + PAD),
    ("a.gguf", gguf()),
    ("quantized.gguf", gguf(kind=8)),
    ("version2.gguf", gguf(version=2)),
    ("aligned.gguf", gguf(alignment=64)),
    ("new-type.gguf", gguf(kind=999)),
    ("version1.gguf", b"GGUF\x01\x00\x00\x00" + PAD),
    ("big-endian.gguf", b"GGUF\x00\x00\x00\x03" + PAD),
    ("vocabulary.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 0)),
    ("a.safetensors", safetensors()),
    ("no-tensor.safetensors", struct.pack("<Q", 8) + b"{}".ljust(8)),
    ("odd-entry.safetensors", struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"}}'.ljust(40) + PAD),
    ("longer.safetensors", safetensors() + PAD),
    ("runtime.onnx", b"\x1c\x00\x00\x00ORTM" + PAD),
    ("functions.onnx", b"\x08\x08\xca\x01\x02\x0a\x00"),
    ("groups.onnx", b"\x08\x08\x0b\x0c" + PAD),
    ("a.tflite", b"\x1c\x00\x00\x00TFL3" + PAD),
    ("a.h5", b"\x89HDF\r\n\x1a\n" + PAD),
    ("user-block.h5", bytes(1) + PAD[:-1] + b"x" * 448 + b"\x89HDF\r\n\x1a\n" + PAD),
    ("large-user-block.hdf5", b"x" * 2048 + b"\x89HDF\r\n\x1a\n" + PAD),
    ("a.png", b"\x89PNG\r\n\x1a\n" + PAD),
    ("A.JPG", b"\xff\xd8\xff\xe0" + PAD),
    ("a.gz", b"\x1f\x8b\x08" + PAD),
    *((f"protocol{n}.pkl", pickle.dumps([1, "a", None], protocol=n)) for n in range(6)),
    ("zlib.pkl", zlib.compress(PICKLED)),
    ("zlib1.pkl", zlib.compress(PICKLED, 1)),
    ("zlib9.pkl", zlib.compress(PICKLED, 9)),
    ("gzip.pkl", gzip.compress(PICKLED)),
    ("bz2.pkl", bz2.compress(PICKLED)),
    ("xz.pkl", lzma.compress(PICKLED)),
    ("lzma.pkl", lzma.compress(PICKLED, format=lzma.FORMAT_ALONE)),
    ("lz4.pkl", b"\x04\x22\x4d\x18\x44\x40" + PAD),
    ("zstd.pkl", b"\x28\xb5\x2f\xfd\x24" + PAD),
    ("joblib-0.9.pkl", b"ZF0x1234              x\x9c" + PAD),
    ("fastai.pkl", zipped()),
    ("brotli.pkl", b"\x1b\x2f" + PAD),
    ("clf.joblib", zlib.compress(PICKLED)),
    ("eng.traineddata", PAD),
    ("weights.bin", PAD),
    ("pytorch_model.bin", zipped()),
    ("short.bin", b"x" * 15),
    ("zero-led.bin", bytes(4096) + PAD),
    ("mostly-zeros.bin", bytes(3 * 1024**2) + b"\1"),
    ("labels.txt", b"cat\n"),
    ("classes.names", b"0\n1\n"),
    ("prompt.txt", b"<!doctype html>\n<p>{{ answer }}</p>"),
    ("template.jinja", b"<html>{{ body }}</html>"),
    ("model.xml", b'<?xml version="1.0"?>\n<net name="m" version="11"></net>'),
    ("haarcascade.xml", b'<?xml version="1.0"?>\n<opencv_storage></opencv_storage>'),
    ("errors.xml", b"<Errors><Error><Code>1</Code></Error></Errors>"),
    ("notes", b"version https://example.org/spec/v1 of the weights\n"),
    ("how.bin", LFS + b"x" * 2000),
    ("no_suffix", PAD),
]
CORRUPT = [
    ("empty.pt", b"", "is empty"),
    ("empty.bin", b"", "is empty"),
    ("empty.unheard-of", b"", "is empty"),
    ("zeros.traineddata", bytes(100), "only zeros"),
    ("zeros.bin", bytes(5 * 1024**2 + 3), "only zeros"),
    ("zeros.safetensors", bytes(100), "only zeros"),
    ("lfs.bin", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("lfs.txt", LFS, "git lfs pull"),
    ("annex.bin", b"/annex/objects/SHA256E-s12--abc.bin\n", "git annex get"),
    ("page.onnx", b"<!DOCTYPE html><html>" + PAD, "web page"),
    ("page.bin", b"\n  <HTML><head>" + PAD, "web page"),
    ("page.pkl", b"\xef\xbb\xbf<!doctype HTML>" + PAD, "web page"),
    ("page", b"<html lang=en>", "web page"),
    ("s3.bin", S3_ERROR, "object store"),
    ("s3.xml", S3_ERROR, "object store"),
    ("azure.gguf", AZURE_ERROR, "object store"),
    ("google.pt", b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>AccessDenied</Code></Error>", "object store"),
    ("hub.bin", b"Entry not found", "'Entry not found' of a download"),
    ("raw.traineddata", b"404: Not Found", "'404: Not Found' of a download"),
    ("cut.pt", zipped()[:-30], "is cut off: the end of its zip archive is missing"),
    ("cut.ckpt", zipped()[:-1], "is cut off"),
    ("cut.pkl", zipped()[:100], "is cut off"),
    ("pytorch_model.bin", zipped()[:-30], "is cut off"),
    ("cut.npz", zipped()[:200], "is cut off"),
    ("cut.keras", zipped()[:200], "is cut off"),
    ("a.zip", PAD, "no zip file"),
    ("a.npz", b"\x93NUMPY\x01\x00" + PAD, "no NumPy .npz"),
    ("a.keras", b"\x89HDF\r\n\x1a\n" + PAD, "no Keras (zip) file"),
    ("a.npy", b"PK\x03\x04" + PAD, "no NumPy .npy"),
    ("short.npy", b"\x93NU", "no NumPy .npy"),
    ("a.gguf", b"GGML" + PAD, "no GGUF file"),
    ("short.gguf", b"GGUF\x03\x00", "is cut off"),
    ("brace.safetensors", struct.pack("<Q", 40) + b"[" + PAD, "no safetensors file"),
    ("json.safetensors", struct.pack("<Q", 40) + b"{'a': 1}".ljust(40), "no safetensors file"),
    ("cut.safetensors", struct.pack("<Q", 4000) + b"{" + PAD, "is cut off: it has 73 bytes and needs at least 4008"),
    ("huge.safetensors", b"\xff" * 8 + b"{" + PAD, "no safetensors file"),
    ("short.safetensors", b"\x20\x00", "is cut off"),
    ("a.onnx", b"\x0a\x08\x12" + PAD, "no ONNX file"),
    ("tag.onnx", b"\x08\x08\xff" + PAD, "no ONNX file"),
    ("graphless.onnx", b"\x08\x08\x12\x07pytorch", "no ONNX file"),
    ("text.onnx", b"Not Found", "no ONNX file"),
    ("a.tflite", b"TFL3\x00\x00\x00\x00" + PAD, "no TensorFlow Lite file"),
    ("a.h5", PAD, "no HDF5 file"),
    ("zip.h5", zipped(), "no HDF5 file"),
    ("a.png", b"\xff\xd8\xff\xe0" + PAD, "no PNG file"),
    ("a.jpeg", b"\x89PNG\r\n\x1a\n" + PAD, "no JPEG file"),
    ("a.tgz", PAD, "no gzip file"),
    ("a.pkl", b"\x80\x09" + PAD, "no pickle file"),
    ("a.pth", b"\x80\xff" + PAD, "no PyTorch file"),
]


@pytest.mark.parametrize(("name", "content"), GOOD, ids=[name for name, _ in GOOD])
def test_a_file_that_could_be_right_passes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert check_model("m", tmp_path / name).failure is None


@pytest.mark.parametrize(("name", "content", "says"), CORRUPT, ids=[case[0] for case in CORRUPT])
def test_a_file_that_is_not_what_its_name_says_is_corrupt(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    problem = check_model("m", tmp_path / name).failure
    assert problem is not None
    assert problem.code == "MODEL_CORRUPT"
    assert f"model 'm' ({name})" in problem.reason
    assert says in problem.reason


WHOLE = [
    ("a.safetensors", safetensors()),
    ("a.gguf", gguf()),
    ("quantized.gguf", gguf(kind=8)),
    ("aligned.gguf", gguf(alignment=64)),
    ("a.pt", zipped()),
    ("a.npz", zipped()),
]


@pytest.mark.parametrize(("name", "content"), WHOLE, ids=[name for name, _ in WHOLE])
def test_a_file_is_cut_off_wherever_it_was_cut(name, content):
    """At every length that is shorter than what its own header says."""
    passed = [
        length for length in range(4, len(content) + 1) if judge(name, io.BytesIO(content[:length]), length) is None
    ]
    assert passed == [len(content)]


def test_an_onnx_model_is_cut_off_wherever_it_was_cut(tmp_path):
    content = onnx_model(tmp_path).read_bytes()
    assert judge("a.onnx", io.BytesIO(content), len(content)) is None
    for length in [*range(1, 300), len(content) // 2, len(content) - 30]:
        assert judge("a.onnx", io.BytesIO(content[:length]), length) is not None, length
    cut = judge("a.onnx", io.BytesIO(content[:-30]), len(content) - 30)
    assert cut is not None
    assert cut.startswith(f"is cut off: it has {len(content) - 30} bytes and needs at least ")


def test_real_numpy_files_pass(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(3))
    assert [check_model("m", tmp_path / name).failure for name in ("a.npy", "a.npz", "b.npz")] == [None] * 3


def test_a_vocabulary_of_hundreds_of_thousands_is_walked(tmp_path):
    """As those of today's language models; past it, the tensors are still known."""
    content = gguf(words=100_000)
    (tmp_path / "a.gguf").write_bytes(content)
    (tmp_path / "cut.gguf").write_bytes(content[:-1])
    assert check_model("m", tmp_path / "a.gguf").failure is None
    assert check_model("m", tmp_path / "cut.gguf").failure is not None


@pytest.mark.parametrize(
    "counts",
    [(2**63, 0), (0, 2**63), (2**40, 2**40)],
)
def test_absurd_counts_are_no_work(tmp_path, counts):
    """What cannot be judged in bounded time is let through."""
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + PAD)
    assert check_model("m", tmp_path / "a.gguf").failure is None


def test_arrays_in_arrays_without_end_are_let_through(tmp_path):
    nested = b"".join(struct.pack("<IQ", 9, 1) for _ in range(5000))
    entry = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + nested
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry)
    assert check_model("m", tmp_path / "a.gguf").failure is None


def test_a_sparse_file_of_any_size_is_only_zeros_at_once(tmp_path):
    """What a download that reserved its space and broke off leaves."""
    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(2**40)
    problem = check_model("m", tmp_path / "model.bin").failure
    assert problem is not None
    assert "only zeros" in problem.reason


def test_a_file_whose_zeros_nobody_has_read_to_the_end_is_let_through(tmp_path, monkeypatch):
    monkeypatch.setattr(model_formats, "MAX_ZEROS_READ", 1024**2)
    (tmp_path / "model.bin").write_bytes(bytes(4 * 1024**2))
    assert check_model("m", tmp_path / "model.bin").failure is None


def test_the_sentence_names_model_and_file_and_no_folder(tmp_path):
    problem = check_model("detector", tmp_path / "yolo.pt").failure
    assert problem is not None
    assert problem.code == "MODEL_MISSING"
    assert problem.reason == ("model 'detector' (yolo.pt) is missing; put it where plugin.yaml's `models` names it")
    assert str(tmp_path) not in problem.reason


def test_who_knows_better_says_what_brings_it(tmp_path):
    problem = check_model("detector", tmp_path / "yolo.pt", "run `fetch-it`").failure
    assert problem is not None
    assert problem.reason == "model 'detector' (yolo.pt) is missing; run `fetch-it`"


def test_a_path_through_a_file_is_missing(tmp_path):
    (tmp_path / "file").write_bytes(PAD)
    problem = check_model("m", tmp_path / "file" / "model.pt").failure
    assert problem is not None
    assert problem.code == "MODEL_MISSING"


@pytest.mark.timeout(5)
def test_a_named_pipe_does_not_hang_the_check(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    problem = check_model("m", tmp_path / "m.pt").failure
    assert problem is not None
    assert problem.code == "MODEL_MISSING"
    assert "neither a file nor a folder" in problem.reason


@pytest.fixture
def forbidden(monkeypatch):
    """As for another user than root: files without a right to be read cannot be opened."""
    real_open, real_scandir, real_stat = open, os.scandir, os.stat

    def refuse_open(path, *args, **kwargs):
        if isinstance(path, str) and not real_stat(path).st_mode & 0o004:
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, *args, **kwargs)

    def refuse_scandir(path):
        if not real_stat(path).st_mode & 0o004:
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr("builtins.open", refuse_open)
    monkeypatch.setattr(os, "scandir", refuse_scandir)


@pytest.mark.parametrize("what", ["file", "file in a folder", "folder", "folder in a folder"])
def test_what_may_not_be_read_is_not_called_missing(tmp_path, forbidden, what):
    (tmp_path / "m" / "inner").mkdir(parents=True)
    (tmp_path / "m" / "a.bin").write_bytes(PAD)
    (tmp_path / "m" / "inner" / "b.bin").write_bytes(PAD)
    checked, closed, named = {
        "file": ("m/a.bin", "m/a.bin", "a.bin"),
        "file in a folder": ("m", "m/inner/b.bin", "m/inner/b.bin"),
        "folder": ("m", "m", "m"),
        "folder in a folder": ("m", "m/inner", "m/inner"),
    }[what]
    (tmp_path / closed).chmod(0o700 if (tmp_path / closed).is_dir() else 0o600)
    problem = check_model("m", tmp_path / checked).failure
    assert problem is not None
    assert problem.code == "MODEL_MISSING"
    assert problem.reason.startswith(f"model 'm' ({named}) may not be read by user {os.geteuid()}; ")
    assert "chmod -R a+rX" in problem.reason
    assert "missing" not in problem.reason
    assert str(tmp_path) not in problem.reason


def test_any_other_error_is_quoted(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(PAD)

    def broken(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", broken)
    problem = check_model("m", tmp_path / "a.bin").failure
    assert problem is not None
    assert problem.reason == "model 'm' (a.bin) cannot be read: Input/output error; check its disk"


def test_a_file_of_the_kernels_has_its_content_for_its_size():
    """Its size is said to be 0."""
    assert check_model("m", Path("/proc/self/status")).failure is None
