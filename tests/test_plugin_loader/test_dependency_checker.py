"""DependencyChecker, host side: the first bytes of model files are checked against their format."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.dependency_checker import DependencyCheck, DependencyChecker
from orchestrator.loader.manifest import Manifest
from orchestrator.models.store import ModelStore

GGUF = b"GGUF" + bytes(range(1, 60))


def manifest(**models: Any) -> Manifest:
    return Manifest(name="reader", version="1", description="Reads.", entrypoint="r.p:R", models=models)


def check(folder: Path, path: str, models_dir: Path | None = None) -> DependencyCheck:
    """The check of a model at `path`."""
    (found,) = DependencyChecker(models_dir).check(manifest(weights=path), folder)
    return found


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        ("w.gguf", GGUF, None),
        ("w.unheard-of", b"any sixteen bytes and more", None),
        ("w.gguf", None, ReasonCode.MODEL_MISSING),
        ("folder/w.gguf", None, ReasonCode.MODEL_MISSING),
        ("w.gguf", b"", ReasonCode.MODEL_CORRUPT),
        ("w.gguf", GGUF[:15], ReasonCode.MODEL_CORRUPT),
        ("w.gguf", bytes(64), ReasonCode.MODEL_CORRUPT),
        ("w.gguf", b"PK\x03\x04" + bytes(60), ReasonCode.MODEL_CORRUPT),
        ("w.pt", b"<!DOCTYPE html><html>404</html>", ReasonCode.MODEL_CORRUPT),
        ("w.bin", b"version https://git-lfs.github.com/spec/v1\noid", ReasonCode.MODEL_CORRUPT),
    ],
)
def test_a_model_is_present_missing_or_corrupt(
    tmp_path: Path, path: str, content: bytes | None, code: ReasonCode | None
) -> None:
    """The sentence names the model and its file, and no path of the host."""
    if content is not None:
        (tmp_path / path).write_bytes(content)
    found = check(tmp_path, path)
    assert found.code == code
    assert found.ok is (code is None)
    if code is not None:
        assert path in (found.reason or "")
        assert "'weights'" in (found.reason or "")
        assert str(tmp_path) not in f"{found.reason} {found.detail}"


def test_the_operators_models_folder_replaces_the_plugins_own(tmp_path: Path) -> None:
    """Where MODELS_DIR is set, the plugin's own folder is not searched."""
    own, models = tmp_path / "plugin", tmp_path / "models"
    for folder in (own, models / "reader"):
        folder.mkdir(parents=True)
    (own / "w.gguf").write_bytes(GGUF)
    missing = check(own, "w.gguf", models)
    (models / "reader" / "w.gguf").write_bytes(GGUF)
    assert missing.code is ReasonCode.MODEL_MISSING
    assert "<MODELS_DIR>/reader" in (missing.reason or "")
    assert check(own, "w.gguf", models).ok


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Or a plugin could have any file of the host mounted."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    (tmp_path / "secret.gguf").write_bytes(GGUF)
    (folder / "w.gguf").symlink_to(tmp_path / "secret.gguf")
    found = check(folder, "w.gguf")
    assert found.code is ReasonCode.MODEL_MISSING
    assert "link" in (found.reason or "")


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    """Model stores link a name to a version."""
    (tmp_path / "w-2.gguf").write_bytes(GGUF)
    (tmp_path / "w.gguf").symlink_to("w-2.gguf")
    assert check(tmp_path, "w.gguf").ok


def test_a_pipe_or_folder_does_not_block_the_check(tmp_path: Path) -> None:
    """Opening a named pipe would block until a writer comes; a folder cannot be read."""
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    assert check(tmp_path, "pipe.gguf").code is ReasonCode.MODEL_MISSING
    assert check(tmp_path, "folder.gguf").code is ReasonCode.MODEL_MISSING


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    """In the plugin's folder, or in the operator's; its files are judged, and named by their paths in it."""
    own, models = tmp_path / "plugin", tmp_path / "models"
    for base in (own, models / "reader"):
        (base / "minilm" / "1_Pooling").mkdir(parents=True)
        (base / "minilm" / "1_Pooling" / "config.json").write_text("{}")
    assert check(own, "minilm").detail == "1 file that fits what its name says"
    assert check(own, "minilm/", models).ok
    (models / "reader" / "minilm" / "1_Pooling" / "w.gguf").write_bytes(GGUF[:15])
    broken = check(own, "minilm", models)
    assert broken.code is ReasonCode.MODEL_CORRUPT
    assert "model 'weights' (minilm/1_Pooling/w.gguf) is cut off" in (broken.reason or "")
    assert (broken.reason or "").endswith(" (minilm in <MODELS_DIR>/reader)")
    assert str(tmp_path) not in f"{broken.reason} {broken.detail}"


def test_the_whole_of_the_operators_folder_is_a_model(tmp_path: Path) -> None:
    """`.` is where a plugin has one only."""
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "w.gguf").write_bytes(GGUF)
    assert check(tmp_path / "plugin", ".", tmp_path).ok


def test_a_missing_model_says_what_brings_it_and_where_for_the_operator_alone(tmp_path: Path) -> None:
    """The reason is for callers too; the path on this host is for the terminal and the log."""
    found = check(tmp_path, "models/w.gguf")
    assert found.reason == "model 'weights' (w.gguf) is missing; put it at models/w.gguf in the plugin's folder"
    assert found.path == tmp_path / "models" / "w.gguf"
    empty = check(tmp_path, "models/w.gguf", tmp_path / "models")
    assert empty.reason == "model 'weights' (w.gguf) is missing; put it at models/w.gguf in <MODELS_DIR>/reader"
    assert empty.path == tmp_path / "models" / "reader" / "models" / "w.gguf"


def test_a_link_of_a_folder_that_leads_out_of_it_is_named(tmp_path: Path) -> None:
    """Also where it stays in the plugin's folder: the container has the model's alone."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "aa").write_bytes(GGUF)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "w.gguf").symlink_to("../blobs/aa")
    found = check(tmp_path, "snapshot")
    assert found.code is ReasonCode.MODEL_MISSING
    assert "(snapshot/w.gguf) is a link out of the model's folder" in (found.reason or "")


def test_links_in_a_circle_are_no_crash(tmp_path: Path) -> None:
    (tmp_path / "w.gguf").symlink_to("w.gguf")
    assert check(tmp_path, "w.gguf").code is ReasonCode.MODEL_MISSING


def test_every_model_has_its_check_in_the_manifests_order(tmp_path: Path) -> None:
    """Good ones are reported as well as bad ones."""
    (tmp_path / "b.gguf").write_bytes(GGUF)
    checks = DependencyChecker().check(manifest(a="a.gguf", b="b.gguf", c="c.gguf"), tmp_path)
    assert [(c.name, c.ok) for c in checks] == [("model:a", False), ("model:b", True), ("model:c", False)]


FETCHED = {"path": "deep/w.gguf", "from": ["https://user:hunter2@host/w"], "sha256": hashlib.sha256(GGUF).hexdigest()}


def test_a_model_that_has_not_been_fetched_names_the_command(tmp_path: Path) -> None:
    """And none of its addresses: callers read the sentence."""
    checker = DependencyChecker(store=ModelStore(tmp_path / "store"))
    (found,) = checker.check(manifest(weights=FETCHED), tmp_path)
    assert found.code is ReasonCode.MODEL_MISSING
    assert "run `orchestrator models pull reader`, then restart the plugin" in (found.reason or "")
    assert "hunter2" not in f"{found}" and not (tmp_path / "store").exists()


def test_the_stores_file_comes_before_the_one_at_its_path(tmp_path: Path) -> None:
    """That one may be what an earlier manifest named; without the store's it is used."""
    store = ModelStore(tmp_path / "store")
    checker = DependencyChecker(store=store)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w.gguf").write_bytes(GGUF)
    (at_path,) = checker.models(manifest(weights=FETCHED), tmp_path)
    assert at_path.path == tmp_path / "deep" / "w.gguf"
    (tmp_path / "deep" / "w.gguf").write_bytes(b"<html>")
    (found,) = checker.check(manifest(weights=FETCHED), tmp_path)
    assert found.code is ReasonCode.MODEL_CORRUPT

    partial = store.open_partial(FETCHED["sha256"])
    assert partial is not None
    with partial:
        partial.append(GGUF)
        partial.publish()
    (stored,) = checker.models(manifest(weights=FETCHED), tmp_path)
    (found,) = checker.check(manifest(weights=FETCHED), tmp_path)
    assert found.ok and "store" in found.detail
    assert stored.path == store.find(FETCHED["sha256"])
