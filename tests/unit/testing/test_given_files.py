"""The archive of plugins and key that a test's orchestrator container receives."""

import tarfile
from pathlib import Path

import pytest

from orchestrator.testing.archive import build_archive


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A plugin that only its owner can read, reached by a link."""
    (tmp_path / "elsewhere" / "models").mkdir(parents=True, mode=0o700)
    (tmp_path / "elsewhere" / "plugin.yaml").write_text("version: 1")
    (tmp_path / "elsewhere" / "models" / "weights.bin").write_bytes(b"weights")
    (tmp_path / "elsewhere" / "models" / "weights.bin").chmod(0o600)
    (tmp_path / "elsewhere" / "run.sh").write_text("#!/bin/sh")
    (tmp_path / "elsewhere" / "run.sh").chmod(0o700)
    (tmp_path / "elsewhere" / "__pycache__").mkdir()
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "reader").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "plugins"


def entries(*plugins: Path, key: str = "po_secret") -> dict[str, tarfile.TarInfo]:
    with build_archive(plugins, key) as file, tarfile.open(fileobj=file) as archive:
        return {entry.name: entry for entry in archive.getmembers()}


def test_plugins_that_are_links_are_copied_and_readable_for_all(plugins: Path) -> None:
    """The orchestrator in its container is another user, and so is a plugin that reads its model."""
    found = entries(plugins)
    assert found["plugins/0/reader"].isdir() and found["plugins/0/reader"].mode & 0o555 == 0o555
    assert found["plugins/0/reader/models/weights.bin"].mode & 0o444 == 0o444
    assert found["plugins/0/reader/run.sh"].mode & 0o100
    assert "plugins/0/reader/__pycache__" not in found


def test_the_key_is_for_the_orchestrator_alone(plugins: Path) -> None:
    key = entries(plugins)["operator-key"]
    assert (key.mode, key.uid, key.size) == (0o400, 65531, len("po_secret"))


def test_each_folder_of_plugins_has_its_own_path(plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = entries(tmp_path / "empty", plugins)
    assert found["plugins/0"].isdir()
    assert "plugins/1/reader/plugin.yaml" in found


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"), build_archive([tmp_path / "nowhere"], "k"):
        pass


def test_a_link_within_a_plugin_stays_one(plugins: Path) -> None:
    (plugins / "reader" / "same.yaml").symlink_to("plugin.yaml")
    assert entries(plugins)["plugins/0/reader/same.yaml"].issym()
