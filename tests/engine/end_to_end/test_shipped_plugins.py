"""Every folder under plugins/ does its real work in its real container; discovered, not listed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import PROJECT
from support.live import LiveOrchestrator, live_orchestrator
from support.sample_calls import answer_to, unexpected

from orchestrator.loader.manifest import read_manifest
from orchestrator.loader.samples import Sample, read_samples

PLUGINS = PROJECT / "plugins"
CASES = [
    pytest.param(folder, sample, id=f"{folder.name}-{sample.number}-{sample.call.tool}")
    for folder in sorted(PLUGINS.iterdir())
    if (folder / "plugin.yaml").exists()
    for sample in read_samples(folder)
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


@pytest.mark.parametrize(("folder", "sample"), CASES)
def test_a_sample_call_returns_what_its_author_expects(live: LiveOrchestrator, folder: Path, sample: Sample) -> None:
    """As a client calls it: multipart in, envelope out."""
    manifest = read_manifest(folder)
    response = answer_to(live, manifest.name, sample)
    if manifest.requires_gpu and live.health(manifest.name)["state"] == "UNAVAILABLE":
        # Without a GPU the call must be refused with the reason, before gigabytes are built.
        assert (response.status_code, response.json()["reason_code"]) == (503, "GPU_NOT_FOUND")
        return
    assert unexpected(sample, response) is None
    assert live.health(manifest.name)["state"] == "RUNNING" or response.status_code != 200


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
