"""The API's page lists every `error_type` that an answer may have, other than exceptions of tools."""

import re
from pathlib import Path

from plugin_runtime.tools.refusals import _TYPE_NAMES

ORCHESTRATOR = Path(__file__).parents[3] / "orchestrator"
# Rooms without answers of the API: `simulation` has a route of its own, in an image of its own.
ELSEWHERE = {"client", "cli", "simulation"}
# What the orchestrator asks the runtime for, and passes on to nobody; and what stands for an exception's own class.
WITHIN = {"NotKept", "Exception"}


def test_every_error_type_is_listed() -> None:
    sources = [path.read_text() for path in ORCHESTRATOR.rglob("*.py") if path.parent.name not in ELSEWHERE]
    names = {name for source in sources for name in re.findall(r'error_type="(\w+)"', source)}
    names |= set(_TYPE_NAMES.values()) - WITHIN
    assert "QueueFull" in names
    page = (ORCHESTRATOR / "api" / "README.md").read_text()
    assert sorted(name for name in names if f"`{name}`" not in page) == []
