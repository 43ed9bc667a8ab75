"""Models in real containers: folders as they are, by the libraries that read them, and a file that is cut off."""

import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live import LiveOrchestrator, live_orchestrator
from unit.plugin_runtime.model_samples import external_onnx, safetensors

pytestmark = pytest.mark.engine

REQUIREMENTS = "joblib==1.6.0\nnumpy==2.4.6\nonnxruntime==1.32.0\nsafetensors==0.8.0\n"
MANIFEST = """
version: 1.0.0
description: Loads models.
entrypoint: {package}.plugin:Nets
models: {models}
limits: {{memory: 512MiB}}
"""
NETS = """
import json
from pathlib import Path

import joblib
import numpy
import onnxruntime
from plugin_runtime import model_path, tool
from safetensors.numpy import load_file


class Nets:
    def validate(self) -> None:
        hub = model_path("hub") / "snapshots" / "c0ffee"
        self.config = json.loads((hub / "config.json").read_text())
        self.weights = load_file(hub / "model.safetensors")
        self.session = onnxruntime.InferenceSession(str(model_path("net") / "model.onnx"))
        self.classifier = joblib.load(model_path("classifier"))

    @tool
    def look(self) -> dict:
        "What the models gave, and whether they can be written."
        try:
            (model_path("hub") / "new").write_text("x")
            written = "written"
        except OSError as error:
            written = error.strerror
        return {
            "config": self.config,
            "sum": int(self.weights["a"].sum()),
            "net": self.session.run(None, {"x": numpy.ones(1024, numpy.float32)})[0][:2].tolist(),
            "classifier": self.classifier,
            "written": written,
            "in the image": sorted(str(path) for path in Path(__file__).parents[1].rglob("*") if "nets" in path.parts),
        }
"""
PLAIN = """
from plugin_runtime import model_path, tool


class Nets:
    def validate(self) -> None:
        self.files = sorted(str(path.relative_to(model_path("hub"))) for path in model_path("hub").rglob("*"))

    @tool
    def look(self) -> list[str]:
        "The files of the model."
        return self.files
"""


def put(plugins: Path, package: str, source: str, models: str, requirements: str = "") -> Path:
    folder = plugins / package
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").touch()
    (folder / package / "plugin.py").write_text(source)
    (folder / "plugin.yaml").write_text(MANIFEST.format(package=package, models=models))
    if requirements:
        (folder / "requirements.txt").write_text(requirements)
    return folder


def hub_cache(folder: Path) -> None:
    """As huggingface_hub lays it out: names are relative links to content."""
    snapshot = folder / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "blobs" / "aa11").write_text('{"size": 3}')
    (folder / "blobs" / "bb22").write_bytes(safetensors(64))
    (snapshot / "config.json").symlink_to("../../blobs/aa11")
    (snapshot / "model.safetensors").symlink_to("../../blobs/bb22")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    """With a plugin whose models are right, and one with one that is cut off."""
    plugins = tmp_path_factory.mktemp("plugins")
    models = "{{hub: nets/hub, net: nets/net, classifier: nets/{}.pkl.z}}"
    for package, name in (("whole", "classifier"), ("broken", "cut")):
        folder = put(plugins, package, NETS, models.format(name), REQUIREMENTS)
        hub_cache(folder / "nets" / "hub")
        (folder / "nets" / "net").mkdir()
        external_onnx(folder / "nets" / "net")
        for file in (folder / "nets" / "net").iterdir():
            file.chmod(0o644)  # onnx lets the owner alone read the weights
        content = zlib.compress(pickle.dumps({"classes": ["cat", "dog"], "more": list(range(5000))}), 3)
        (folder / "nets" / f"{name}.pkl.z").write_bytes(content if name == "classifier" else content[:-100])
    with live_orchestrator([plugins]) as orchestrator:
        orchestrator.wait_ready(900)
        yield orchestrator


@pytest.mark.timeout(1200)
def test_folders_and_compressed_files_are_models(live: LiveOrchestrator) -> None:
    """Hugging Face's cache with its links, ONNX with external data, joblib's compressed pickle; in no image."""
    health = live.wait_for("whole", "INITIALIZED", "RUNNING")
    assert [check["ok"] for check in health["checks"] if check["name"].startswith("model:")] == [True] * 6
    result = live.run("whole", "look").json()["result"]
    assert result.pop("classifier")["classes"] == ["cat", "dog"]
    assert result == {
        "config": {"size": 3},
        "sum": 64,
        "net": [2.0, 2.0],
        "written": "Read-only file system",
        "in the image": [],
    }


@pytest.mark.timeout(1200)
def test_a_model_that_is_cut_off_is_named_with_the_plugins_line(live: LiveOrchestrator) -> None:
    """By joblib's own exception."""
    health = live.wait_for("broken", "UNAVAILABLE", "FAILED")
    assert health["reason_code"] == "MODEL_CORRUPT", health["reason"]
    line = NETS.splitlines().index('        self.classifier = joblib.load(model_path("classifier"))') + 1
    assert health["reason"].startswith("model 'classifier' (cut.pkl.z) is broken: ")
    assert f", at broken/plugin.py:{line} (read by joblib" in health["reason"]


def test_a_folder_of_the_operators_is_a_model_and_says_what_its_container_may_not_read(tmp_path: Path) -> None:
    """In MODELS_DIR; root on the host may read what the container's user may not."""
    put(tmp_path / "plugins", "plain", PLAIN, "{hub: .}")
    hub = tmp_path / "models" / "plain"
    hub_cache(hub)
    (tmp_path / "models").chmod(0o755)
    with live_orchestrator([tmp_path / "plugins"], models_dir=str(tmp_path / "models")) as live:
        live.wait_ready(300)
        assert "snapshots/c0ffee/model.safetensors" in live.run("plain", "look").json()["result"]
        (hub / "blobs" / "bb22").chmod(0o600)
        health = live.restart("plain")
        assert health["reason_code"] == "MODEL_MISSING", health
        assert "/blobs/bb22) may not be read by user " in health["reason"]
        assert str(tmp_path) not in health["reason"]
        # The index names a shard that was not fetched: known before anything is built.
        (hub / "blobs" / "bb22").chmod(0o644)
        (hub / "model.safetensors.index.json").write_text('{"weight_map": {"a": "a-2.safetensors"}}')
        (hub / "a.gguf").write_bytes(b"GGUF\3\0\0\0")
        health = live.restart("plain")
        assert health["reason_code"] == "MODEL_CORRUPT", health
        (hub / "a.gguf").unlink()
        (hub / "snapshots" / "c0ffee" / "model.safetensors").unlink()
        health = live.restart("plain")
        assert health["reason"].startswith("model 'hub' (plain/model.safetensors.index.json) needs a-2.safetensors")
        assert str(hub) in live.log.read_text()
