"""A folder is a model: every file in it is judged by its name, and what belongs together is there."""

import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from plugin_runtime.startup import model_files
from plugin_runtime.startup.model_files import ModelCheck, check_model, walk
from unit.plugin_runtime.model_samples import external_onnx, gguf, onnx_model, safetensors, zipped

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"
INDEX = "model.safetensors.index.json"


def lay_out(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Bytes are a file, a text the target of a link."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    folder.mkdir(exist_ok=True)
    return folder


def weight_map(*shards: str) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": {f"layer{n}": shard for n, shard in enumerate(shards)}}).encode()


def hub_cache(repository: str = "models--org--name") -> dict[str, bytes | str]:
    """As huggingface_hub lays it out: names are links to content."""
    return {
        f"{repository}/blobs/aa11": b'{"model_type": "bert"}',
        f"{repository}/blobs/bb22": safetensors(),
        f"{repository}/refs/main": b"c0ffee",
        f"{repository}/snapshots/c0ffee/config.json": "../../blobs/aa11",
        f"{repository}/snapshots/c0ffee/model.safetensors": "../../blobs/bb22",
    }


SENTENCE_TRANSFORMER = {
    "config.json": b"{}",
    "model.safetensors": safetensors(),
    "tokenizer.json": b"{}",
    "vocab.txt": b"[PAD]\n",
    "1_Pooling/config.json": b"{}",
    "README.md": b"<!DOCTYPE html>\n# A model",
    ".gitattributes": b"*.bin filter=lfs\n",
    ".cache/huggingface/download/model.safetensors.lock": b"",
    ".git/lfs/objects/aa/bb": b"",
}
GOOD: dict[str, dict[str, bytes | str]] = {
    "Hugging Face": SENTENCE_TRANSFORMER,
    "its own code": {**SENTENCE_TRANSFORMER, "__init__.py": b"", "model/__init__.py": b""},
    "shards": {
        INDEX: weight_map("a-00001.safetensors", "a-00002.safetensors", "a-00001.safetensors"),
        "a-00001.safetensors": safetensors(),
        "a-00002.safetensors": safetensors(),
    },
    "shards in a folder of theirs": {
        f"unet/{INDEX}": weight_map("parts/a.safetensors"),
        "unet/parts/a.safetensors": safetensors(),
    },
    "an index of weights in another format, which were not fetched": {
        "pytorch_model.bin.index.json": weight_map("pytorch_model-1.bin", "pytorch_model-2.bin"),
        "model.safetensors": safetensors(),
        "training_args.bin": zipped(),
    },
    "an index that is none": {
        "a.index.json": b"[1, 2",
        "b.index.json": b'{"weight_map": 3}',
        "faiss.index.json": b"[]",
    },
    "an index that leads elsewhere": {INDEX: weight_map("../../etc/shadow", "/etc/none", ""), "a.bin": b"x"},
    "pointers to other formats": {"model.safetensors": safetensors(), "tf_model.h5": LFS, "rust_model.ot": LFS},
    "pointers to pictures": {"model.safetensors": safetensors(), "assets/demo.png": LFS, "demo.wav": LFS},
    "an empty table": {"vocab/lexemes.bin": b"", "model": b"x"},
    "CTranslate2": {"model.bin": b"\x06\0\0\0\x0c\0Whisper", "config.json": b"{}", "vocabulary.json": b"[]"},
    "OpenVINO": {"model.xml": b'<?xml version="1.0"?>\n<net name="m"/>', "model.bin": bytes(64)},
    "OpenVINO without constants": {"model.xml": b'<?xml version="1.0"?>\n<net name="m"/>', "model.bin": b""},
    "TensorFlow SavedModel": {
        "saved_model.pb": b"\x08\x01\x12\x02",
        "variables/variables.index": b"\0\0\1",
        "variables/variables.data-00000-of-00001": bytes(100),
        "fingerprint.pb": b"\x08",
        "assets/vocab.txt": b"",
    },
    "a tensor in each file, some of them zero": {"layer.0.bias.bin": bytes(4096), "layer.0.weight.bin": b"\1" * 4096},
    "links in it": {
        "v2/model.gguf": gguf(),
        "model.gguf": "v2/model.gguf",
        "current": "v2",
        "v2/up.gguf": "../model.gguf",
    },
    "a link to a folder that is hidden": {".versions/2/model.gguf": gguf(), "current": ".versions/2"},
    "the hub's cache of one model": hub_cache("."),
}
GGUF_CUT = gguf()[:-1]
BAD: dict[str, tuple[dict[str, bytes | str], str, str]] = {
    "empty": ({}, "MODEL_MISSING", "model 'm' (minilm) is an empty folder; put it where"),
    "only folders": ({"a/b/.gitkeep": b""}, "MODEL_MISSING", "(minilm) is an empty folder"),
    "a shard is missing": (
        {INDEX: weight_map("a-00001.safetensors", "a-00002.safetensors"), "a-00001.safetensors": safetensors()},
        "MODEL_MISSING",
        f"model 'm' (minilm/{INDEX}) needs a-00002.safetensors, which is not there; fetch it too",
    ),
    "all shards are missing": (
        {INDEX: weight_map(*(f"a-{n}.safetensors" for n in range(1, 6))), "training_args.bin": zipped()},
        "MODEL_MISSING",
        "needs a-1.safetensors, a-2.safetensors, a-3.safetensors and 2 more, which are not there; fetch them too",
    ),
    "a shard of a variant is missing": (
        {"unet/model.safetensors.index.fp16.json": weight_map("b.safetensors"), "unet/config.json": b"{}"},
        "MODEL_MISSING",
        "(minilm/unet/model.safetensors.index.fp16.json) needs b.safetensors",
    ),
    "a shard is missing of the format that is there in part": (
        {
            "pytorch_model.bin.index.json": weight_map("1.bin", "2.bin"),
            "1.bin": zipped(),
            "model.safetensors": safetensors(),
        },
        "MODEL_MISSING",
        "needs 2.bin",
    ),
    "a pointer": (
        {**SENTENCE_TRANSFORMER, "model.safetensors": LFS},
        "MODEL_CORRUPT",
        "(minilm/model.safetensors) is a Git LFS",
    ),
    "a pointer in place of a tokenizer": (
        {**SENTENCE_TRANSFORMER, "tokenizer.json": LFS},
        "MODEL_CORRUPT",
        "(minilm/tokenizer.json)",
    ),
    "pointers only": (
        {"demo.png": LFS, "config.json": b"{}"},
        "MODEL_CORRUPT",
        "(minilm/demo.png) is a Git LFS pointer",
    ),
    "a pointer in place of a shard": (
        {"1.safetensors": safetensors(), "2.safetensors": LFS},
        "MODEL_CORRUPT",
        "(minilm/2.safetensors) is a Git LFS pointer",
    ),
    "a page": (
        {"config.json": b"<!doctype html>", "a.bin": b"x"},
        "MODEL_CORRUPT",
        "(minilm/config.json) is a web page",
    ),
    "a cut file, far below": ({"a/b/c.gguf": GGUF_CUT}, "MODEL_CORRUPT", "(minilm/a/b/c.gguf) is cut off"),
    "empty weights": ({"config.json": b"{}", "model.bin": b""}, "MODEL_CORRUPT", "(minilm/model.bin) is empty"),
    "small zeros in a format that is known": ({"a.pt": bytes(64)}, "MODEL_CORRUPT", "(minilm/a.pt) has only zeros"),
    "zeros": ({"model.data": bytes(16 * 1024**2)}, "MODEL_CORRUPT", "(minilm/model.data) has only zeros"),
    "the hub's snapshot without its blobs": (
        {"config.json": b"{}", "model.safetensors": "../../blobs/bb22"},
        "MODEL_MISSING",
        "(minilm/model.safetensors) is a link out of the model's folder",
    ),
    "an absolute link": ({"a.bin": "/etc/hostname"}, "MODEL_MISSING", "(minilm/a.bin) is a link to an absolute path"),
    "a broken link": ({"a.bin": "b.bin"}, "MODEL_MISSING", "(minilm/a.bin) is a link to a file that is not there"),
    "links in a circle": (
        {"a.bin": "b.bin", "b.bin": "a.bin"},
        "MODEL_MISSING",
        "is a link to a file that is not there",
    ),
    "a link to a folder outside": ({"data": "../..", "a.bin": b"x"}, "MODEL_MISSING", "(minilm/data) is a link out of"),
}


@pytest.mark.parametrize("files", GOOD.values(), ids=GOOD)
def test_a_folder_that_could_be_right_passes(tmp_path, files):
    folder = lay_out(tmp_path / "minilm", files)
    assert check_model("m", folder).failure is None


@pytest.mark.parametrize(("files", "code", "says"), BAD.values(), ids=BAD)
def test_a_folder_that_cannot_be_right_names_the_file(tmp_path, files, code, says):
    folder = lay_out(tmp_path / "minilm", files)
    problem = check_model("m", folder).failure
    assert problem is not None
    assert problem.code == code
    assert says in problem.reason
    assert str(tmp_path) not in problem.reason


def test_an_absolute_link_is_refused_wherever_it_leads(tmp_path):
    """In the container the folder is at another place."""
    folder = lay_out(tmp_path / "minilm", {"a.gguf": gguf(), "b.gguf": str(tmp_path / "minilm" / "a.gguf")})
    problem = check_model("m", folder).failure
    assert problem is not None
    assert "(minilm/b.gguf) is a link to an absolute path" in problem.reason


def test_the_hubs_cache_works_whole_and_its_snapshot_alone_says_what_to_do(tmp_path):
    lay_out(tmp_path, hub_cache())
    whole = tmp_path / "models--org--name"
    assert check_model("m", whole).failure is None
    assert check_model("m", whole / "snapshots" / "c0ffee" / "model.safetensors").failure is None
    problem = check_model("m", whole / "snapshots" / "c0ffee").failure
    assert problem is not None
    assert "`cp -RL`" in problem.reason
    # What the sentence advises works.
    subprocess.run(["cp", "-RL", whole / "snapshots" / "c0ffee", tmp_path / "copy"], check=True)
    assert check_model("m", tmp_path / "copy").failure is None


def test_a_folder_that_is_a_link_itself_is_that_folder(tmp_path):
    lay_out(tmp_path / "v2", {"model.gguf": gguf(), "again.gguf": "model.gguf"})
    (tmp_path / "current").symlink_to("v2")
    assert check_model("m", tmp_path / "current").failure is None


def test_an_onnx_model_needs_its_external_data(tmp_path):
    external_onnx(tmp_path)
    assert check_model("m", tmp_path).failure is None
    (tmp_path / "model.onnx_data").unlink()
    problem = check_model("m", tmp_path).failure
    assert problem is not None
    assert problem.code == "MODEL_MISSING"
    assert problem.reason.endswith("/model.onnx) needs model.onnx_data, which is not there; fetch it too")


def test_an_onnx_model_without_its_data_beside_a_whole_one_may_not_be_meant(tmp_path):
    """Repositories have several variants of a model; one fetches the graphs of all, and the data of one."""
    external_onnx(tmp_path)
    (tmp_path / "model.onnx").rename(tmp_path / "model_fp16.onnx")
    (tmp_path / "model.onnx_data").unlink()
    onnx_model(tmp_path)
    assert check_model("m", tmp_path).failure is None


def test_the_detail_says_how_many_files_were_judged(tmp_path, monkeypatch):
    lay_out(tmp_path / "a", SENTENCE_TRANSFORMER)
    assert check_model("m", tmp_path / "a").detail == "6 files that fit what their names say"
    monkeypatch.setattr(model_files, "MAX_FILES", 3)
    assert check_model("m", tmp_path / "a").detail == "its first 3 files fit what their names say"


def test_a_folder_of_more_files_than_are_judged_costs_no_more(tmp_path, monkeypatch):
    """What comes later is let through."""
    monkeypatch.setattr(model_files, "MAX_FILES", 5)
    lay_out(tmp_path / "a", {f"{n:02}.gguf": gguf() if n < 5 else b"broken" for n in range(20)})
    assert check_model("m", tmp_path / "a") == ModelCheck("its first 5 files fit what their names say")
    assert len(list(walk(str(tmp_path / "a")))) == 5


def test_files_come_in_a_fixed_order_without_hidden_ones(tmp_path):
    lay_out(tmp_path / "a", {"b/2": b"", "b/1": b"", "a": b"", "c/d/e": b"", ".x": b"", ".y/z": b"", "l": "b"})
    assert [(file.relative, file.link) for file in walk(str(tmp_path / "a"))] == [
        ("a", False),
        ("l", True),
        ("b/1", False),
        ("b/2", False),
        ("c/d/e", False),
    ]


@pytest.mark.timeout(5)
def test_what_is_no_file_is_not_opened(tmp_path):
    lay_out(tmp_path / "a", {"model.gguf": gguf()})
    os.mkfifo(tmp_path / "a" / "pipe.gguf")
    assert check_model("m", tmp_path / "a").failure is None


def test_a_file_that_is_removed_meanwhile_is_no_fault(tmp_path, monkeypatch):
    lay_out(tmp_path / "a", {"a.gguf": gguf(), "b.gguf": gguf()})
    real = io.open

    def removes(path, *args):
        (tmp_path / "a" / "b.gguf").unlink(missing_ok=True)
        return real(path, *args)

    monkeypatch.setattr("builtins.open", removes)
    assert check_model("m", tmp_path / "a").failure is None
