"""A fault in a plugin's folder leaves nothing behind."""

from pathlib import Path

import pytest
import yaml

from orchestrator.loader.manifest import Manifest
from orchestrator.simulation.faults import Fault, FaultRefusedError
from orchestrator.simulation.folders import PluginFolders, changed_manifest, write_holder

MANIFEST = """\
# A comment that YAML forgets.
version: 1.0.0
description: Detects.
entrypoint: detector.plugin:Detector
limits: {memory: 128MiB}
secrets: [TOKEN]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "detector"
    (folder / "detector").mkdir(parents=True)
    (folder / "plugin.yaml").write_text(MANIFEST)
    (folder / "detector" / "plugin.py").write_text("class Detector: ...\n")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> PluginFolders:
    return PluginFolders(tmp_path / "originals")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "code", ["MANIFEST_INVALID", "MODEL_MISSING", "MODEL_CORRUPT", "SECRET_MISSING", "IMAGE_MISSING", "BUILD_FAILED"]
)
def test_it_is_what_it_was_afterwards(folders: PluginFolders, folder: Path, code: str) -> None:
    """To the byte, comments included, also when it was there twice."""
    before = contents(folder)
    for _ in range(2):
        folders.apply("detector", folder, [Fault("detector", code)])
        assert contents(folder) != before
        folders.apply("detector", folder, [])
        assert contents(folder) == before


def test_two_at_once_are_both_there(folders: PluginFolders, folder: Path) -> None:
    faults = [Fault("detector", "SECRET_MISSING"), Fault("detector", "TIMEOUT", limit=1.5)]
    folders.apply("detector", folder, faults)
    manifest = yaml.safe_load((folder / "plugin.yaml").read_text())
    assert manifest["secrets"] == ["TOKEN", "SECRET_OF_A_TEST"]
    assert manifest["limits"] == {"memory": "128MiB", "timeout": "1.5s"}


@pytest.mark.parametrize("code", ["MODEL_MISSING", "MODEL_CORRUPT", "SECRET_MISSING", "IMAGE_MISSING"])
def test_the_manifest_stays_a_valid_one(code: str) -> None:
    """What is wrong is what was asked for, not the manifest."""
    manifest = {"name": "detector", **yaml.safe_load(MANIFEST)}
    Manifest.model_validate(changed_manifest(manifest, [Fault("detector", code)]))


def test_a_limit_of_the_start_is_set() -> None:
    changed = changed_manifest({}, [Fault("detector", "STARTUP_TIMEOUT", limit=2.0)])
    assert changed == {"startup_timeout": "2s"}


def test_a_module_that_is_not_there_cannot_be_broken(folders: PluginFolders, folder: Path) -> None:
    (folder / "detector" / "plugin.py").unlink()
    with pytest.raises(FaultRefusedError, match="not in its folder"):
        folders.apply("detector", folder, [Fault("detector", "BUILD_FAILED")])


def test_the_holder_of_all_gpus_is_a_valid_plugin(tmp_path: Path) -> None:
    write_holder(tmp_path / "gpu-holder", 3)
    fields = {"name": "gpu-holder", **yaml.safe_load((tmp_path / "gpu-holder" / "plugin.yaml").read_text())}
    manifest = Manifest.model_validate(fields)
    assert (manifest.replicas, manifest.gpu.count, manifest.idle.keep) == (3, 1, True)
