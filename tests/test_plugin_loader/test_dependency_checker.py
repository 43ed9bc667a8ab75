"""DependencyChecker, host side: the first bytes of model files are checked against their format."""

import os
from pathlib import Path

import pytest

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.dependency_checker import DependencyCheck, DependencyChecker
from orchestrator.loader.manifest import Manifest

GGUF = b"GGUF" + bytes(range(1, 60))


def manifest(**models: str) -> Manifest:
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


def test_every_model_has_its_check_in_the_manifests_order(tmp_path: Path) -> None:
    """Good ones are reported as well as bad ones."""
    (tmp_path / "b.gguf").write_bytes(GGUF)
    checks = DependencyChecker().check(manifest(a="a.gguf", b="b.gguf", c="c.gguf"), tmp_path)
    assert [(c.name, c.ok) for c in checks] == [("model:a", False), ("model:b", True), ("model:c", False)]
