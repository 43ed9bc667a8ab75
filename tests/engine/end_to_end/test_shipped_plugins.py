"""Every folder under plugins/ does its real work in its real container; discovered, not listed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.checkout import PROJECT
from support.live import LiveOrchestrator, live_orchestrator

PLUGINS = PROJECT / "plugins"
CASES = [
    pytest.param(folder, call, id=f"{folder.name}-{number}-{call['tool']}")
    for folder in sorted(PLUGINS.iterdir())
    if (folder / "plugin.yaml").exists()
    for number, call in enumerate(yaml.safe_load((folder / "samples" / "calls.yaml").read_text()), 1)
]

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def live() -> Iterator[LiveOrchestrator]:
    with live_orchestrator([PLUGINS]) as orchestrator:
        orchestrator.wait_ready(1200)
        yield orchestrator


def test_every_shipped_plugin_has_samples() -> None:
    """A plugin without a sample call would go untested."""
    folders = {folder for folder in PLUGINS.iterdir() if (folder / "plugin.yaml").exists()}
    assert {case.values[0] for case in CASES} == folders != set()


@pytest.mark.parametrize(("folder", "call"), CASES)
def test_a_sample_call_returns_what_its_author_expects(
    live: LiveOrchestrator, folder: Path, call: dict[str, Any]
) -> None:
    """As a client calls it: multipart in, envelope out."""
    manifest = yaml.safe_load((folder / "plugin.yaml").read_text())
    name = manifest.get("name", folder.name.replace("_", "-"))
    files = {field: (file, (folder / "samples" / file).read_bytes()) for field, file in call.get("files", {}).items()}
    arguments = {key: str(value) for key, value in call.get("arguments", {}).items()}
    response = live.run(name, call["tool"], arguments, files=files)
    envelope, expect = response.json(), call["expect"]
    if manifest.get("requires_gpu") and live.health(name)["state"] == "UNAVAILABLE":
        # Without a GPU the call must be refused with the reason, before gigabytes are built.
        assert (response.status_code, envelope["reason_code"]) == (503, "GPU_NOT_FOUND")
        return
    assert response.status_code == expect.get("status", 200), envelope
    if "contains" in expect:
        assert expect["contains"] in str(envelope["result"] or envelope["error"])
    if "min_items" in expect:
        assert len(envelope["result"]) >= expect["min_items"]
    assert live.health(name)["state"] == "RUNNING" or response.status_code != 200


def test_the_audit_finds_no_error_in_the_shipped_plugins(live: LiveOrchestrator) -> None:
    """Folders, licences in the images, and the running containers, as `orchestrator audit` checks them."""
    done = subprocess.run(
        [live.python, "-m", "orchestrator", "audit", "--live", "--licences", "--json"],
        env=live.environment | {"ORCHESTRATOR_URL": str(live.client.base_url)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    report = json.loads(done.stdout)
    assert (done.returncode, [each for each in report["findings"] if each["level"] == "error"]) == (0, [])
    names = {health["name"] for health in live.client.get("/v1/plugins").json()}
    seen = {(each["subject"], each["check"]) for each in report["findings"]}
    assert {(name, check) for name in names for check in ("validate", "agreement", "isolation", "licences")} <= seen
