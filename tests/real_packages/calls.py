"""Five real packages from the package index, each wrapped as a new author would, do their real work on real inputs.

`make test-packages` runs them: they download some hundred megabytes, so neither `make test` nor `make test-quick` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support.live import LiveOrchestrator, live_orchestrator

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGINS = Path(__file__).parent / "plugins"
CASES = [
    pytest.param(folder, call, id=f"{folder.name}-{number}-{call['tool']}")
    for folder in sorted(PLUGINS.iterdir())
    if (folder / "plugin.yaml").exists()
    for number, call in enumerate(yaml.safe_load((folder / "samples" / "calls.yaml").read_text()), 1)
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


@pytest.mark.parametrize(("folder", "call"), CASES)
def test_a_call_returns_what_its_author_expects(live: LiveOrchestrator, folder: Path, call: dict[str, Any]) -> None:
    """Files, several for one parameter too, and other values as a form has them. No refused call ends the plugin."""
    files = [
        (parameter, (name, (folder / "samples" / name).read_bytes()))
        for parameter, names in call.get("files", {}).items()
        for name in ([names] if isinstance(names, str) else names)
    ]
    arguments = call.get("arguments", {})
    response = live.run(folder.name, call["tool"], arguments, files=files or {}, timeout=300)
    envelope, expect = response.json(), call["expect"]
    assert response.status_code == expect.get("status", 200), envelope
    assert expect.get("contains", "") in str(envelope["result"] or envelope["error"])
    assert len(envelope["result"] or ()) >= expect.get("min_items", 0)
    assert live.health(folder.name)["state"] in ("INITIALIZED", "RUNNING")
