"""A fetched model in a real container: pulled by the command, mounted from the store, no garbage while it is used."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = pytest.mark.engine

CONTENT = b"weights of some format" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PLUGIN = """
from plugin_runtime import model_path, tool


class Reader:
    def validate(self) -> None:
        self.text = model_path("weights").read_bytes()

    @tool
    def look(self) -> list:
        "Name and size of the model."
        return [model_path("weights").name, len(self.text)]
"""


def models(live: LiveOrchestrator, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", "models", *arguments]
    return subprocess.run(command, env=live.environment, capture_output=True, text=True, check=False)


def test_a_model_is_pulled_mounted_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "reader"
    (folder / "reader").mkdir(parents=True)
    (folder / "reader" / "__init__.py").touch()
    (folder / "reader" / "plugin.py").write_text(PLUGIN)
    (tmp_path / "source").write_bytes(CONTENT)
    manifest = {"version": "1", "description": "Reads.", "entrypoint": "reader.plugin:Reader"}
    model = {"path": "deep/weights.bin", "from": [f"file://{tmp_path}/source"], "sha256": SHA256}
    (folder / "plugin.yaml").write_text(json.dumps({**manifest, "models": {"weights": model}}))
    with live_orchestrator([tmp_path / "plugins"]) as live:
        missing = live.wait_for("reader", "UNAVAILABLE", seconds=120)
        assert missing["reason_code"] == "MODEL_MISSING" and "`orchestrator models pull reader`" in missing["reason"]
        pulled = models(live, "pull")
        assert pulled.returncode == 0 and "`orchestrator start reader`" in pulled.stderr, pulled.stderr
        live.restart("reader", wait=300)
        live.wait_for("reader", "INITIALIZED", seconds=300)
        assert live.run("reader", "look").json()["result"] == ["weights.bin", len(CONTENT)]

        (folder / "plugin.yaml").write_text(json.dumps(manifest))
        kept = models(live, "gc")
        assert kept.returncode == 0 and "an instance has it mounted" in kept.stdout, kept.stderr
        live.client.post("/v1/plugins/reader/stop", timeout=60).raise_for_status()
        removed = models(live, "gc")
        assert removed.returncode == 0 and f"{SHA256} (2.1 KiB): removed" in removed.stdout, removed.stderr
