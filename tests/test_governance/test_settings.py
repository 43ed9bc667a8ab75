"""Each setting is used by something, and the README tells of it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.settings import Settings

PROJECT = Path(__file__).parents[2]


def attributes_read() -> Iterator[str]:
    """Names of all attributes that the orchestrator's own code reads, the settings' module apart."""
    for path in (PROJECT / "orchestrator").rglob("*.py"):
        if path.name != "settings.py" and "node_modules" not in path.parts:
            yield from (node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))


def variables_told() -> set[str]:
    """Of the README's tables; within a row, `_NAME` stands for `ORCHESTRATOR_NAME`."""
    rows = [line for line in (PROJECT / "README.md").read_text().splitlines() if line.startswith("| `ORCHESTRATOR_")]
    return {name for row in rows for name in re.findall(r"`(?:ORCHESTRATOR)?_([A-Z_]+)`", row.split("|")[1])}


def test_the_readme_tells_of_each_setting_and_of_no_other() -> None:
    """By the name of its variable."""
    assert variables_told() == {name.upper() for name in Settings.model_fields}


def test_each_setting_has_an_effect() -> None:
    """What nothing reads, nobody should have to set."""
    assert set(Settings.model_fields) - set(attributes_read()) == set()
