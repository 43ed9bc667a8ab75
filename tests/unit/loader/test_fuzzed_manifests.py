"""Manifests of every shape: read, or refused with a `ManifestError`; none hides another."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.mutations import mutated_content

from orchestrator.errors import ManifestError
from orchestrator.loader.manifest import Manifest, read_manifest
from orchestrator.loader.plugin_loader import PluginLoader

pytestmark = pytest.mark.slow

VALID: dict[str, Any] = {
    "name": "reader",
    "version": "1.0.0",
    "description": "Reads.",
    "entrypoint": "reader.plugin:Reader",
    "image": "base",
    "system_packages": ["tesseract-ocr"],
    "packages": ["cv2"],
    "models": {"weights": "models/weights.onnx"},
    "env": {"LANGUAGE": "eng"},
    "secrets": ["token"],
    "requires_gpu": True,
    "gpu": {"count": 1, "memory": "2GiB", "sharing": "shared"},
    "limits": {"timeout": "5s", "memory": "256MiB", "cpus": 1.5, "pids": 64, "shm": "64MiB", "scratch": "1GiB"},
    "startup_timeout": "20s",
    "concurrency": 2,
    "queue": 4,
    "replicas": 3,
    "spread": "pack",
    "update": {"strategy": "overlap", "drain": "30s"},
    "idle": {"after": "10m", "keep": False},
    "placement": {"hosts": ["gpu-1"], "requires": {"gpu.memory": "8GiB", "label.rack": "a"}},
    "network": "none",
    "failure_policy": "tolerant",
}
FUZZED = settings(max_examples=100, suppress_health_check=list(HealthCheck))

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def _read(folder: Path, content: bytes) -> Manifest | None:
    (folder / "plugin.yaml").write_bytes(content)
    try:
        return read_manifest(folder)
    except ManifestError:
        return None


def test_the_fuzzed_manifest_is_valid_itself(tmp_path: Path) -> None:
    assert _read(tmp_path, yaml.safe_dump(VALID).encode()) is not None


@FUZZED
@given(field=st.sampled_from(sorted(VALID)), value=anything)
def test_any_value_in_any_field(field: str, value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read or refused; a refusal names the field or the file."""
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "plugin.yaml").write_text(yaml.safe_dump(VALID | {field: value}))
    refusal = ""
    try:
        read_manifest(folder)
    except ManifestError as error:
        refusal = str(error)
    assert refusal == "" or field in refusal or "plugin.yaml" in refusal


@FUZZED
@given(value=anything | st.integers(-2, 66))
@example(value=0)
@example(value=64)
@example(value=65)
@example(value=True)
def test_replicas_are_a_whole_number_from_1_to_64(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All else is refused with file, field and what was expected."""
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "plugin.yaml").write_text(yaml.safe_dump(VALID | {"replicas": value}))
    if type(value) is int and 1 <= value <= 64:
        assert read_manifest(folder).replicas == value
    else:
        with pytest.raises(ManifestError, match=r"/plugin.yaml: (replicas: expected .*1 to 64|is not valid YAML)"):
            read_manifest(folder)


@FUZZED
@given(seed=st.integers(0, 2**32))
def test_mutations_at_any_depth(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fields missing, renamed, nested, of another type; JSON is YAML."""
    random.seed(seed)
    _read(tmp_path_factory.mktemp("fuzzed"), json.dumps(mutated_content(VALID)).encode())


@FUZZED
@given(
    content=st.binary(max_size=300) | st.text(alphabet="{}[]:,-&*!|>'\"%@` \n\tab01~?#<=", max_size=200).map(str.encode)
)
def test_any_bytes(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Broken, binary, recursive, tagged."""
    _read(tmp_path_factory.mktemp("fuzzed"), content)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200))
def test_a_bad_manifest_hides_no_other(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is found beside the good one."""
    folder = tmp_path_factory.mktemp("fuzzed")
    for name in ("bad", "good"):
        (folder / name).mkdir()
    (folder / "bad" / "plugin.yaml").write_bytes(content)
    good = {name: VALID[name] for name in ("version", "description", "entrypoint")}
    (folder / "good" / "plugin.yaml").write_text(yaml.safe_dump(good))
    found = {plugin.name: plugin for plugin in PluginLoader((folder,)).discover()}
    assert found["good"].manifest is not None
    assert len(found) == 2
