"""Five real packages from the package index, each wrapped as a new author would, do their real work on real inputs.

`make test-packages` runs them: they download some hundred megabytes, so neither `make test` nor `make test-quick` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.live import LiveOrchestrator, live_orchestrator
from support.sample_calls import answer_to, unexpected

from orchestrator.loader.samples import Sample, read_samples

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGINS = Path(__file__).parent / "plugins"
CASES = [
    pytest.param(folder, sample, id=f"{folder.name}-{sample.number}-{sample.call.tool}")
    for folder in sorted(PLUGINS.iterdir())
    if (folder / "plugin.yaml").exists()
    for sample in read_samples(folder)
]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveOrchestrator]:
    with live_orchestrator([PLUGINS]) as orchestrator:
        orchestrator.wait_ready(2000)
        yield orchestrator


def test_every_plugin_starts(live: LiveOrchestrator) -> None:
    """At the first start, with nothing but what its manifest and its requirements say."""
    found = live.client.get("/v1/plugins").json()
    assert {plugin["name"]: plugin["reason"] for plugin in found if plugin["state"] != "INITIALIZED"} == {}
    assert len(found) == len({folder for folder in PLUGINS.iterdir() if (folder / "plugin.yaml").exists()})


@pytest.mark.parametrize(("folder", "sample"), CASES)
def test_a_call_returns_what_its_author_expects(live: LiveOrchestrator, folder: Path, sample: Sample) -> None:
    """Files, several for one parameter too, and other values as a form has them. No refused call ends the plugin."""
    assert unexpected(sample, answer_to(live, folder.name, sample, timeout=300)) is None
    assert live.health(folder.name)["state"] in ("INITIALIZED", "RUNNING")
