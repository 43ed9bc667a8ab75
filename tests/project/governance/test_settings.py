"""Each setting has an effect, and the operator's page describes it."""

import ast
import re
from collections.abc import Iterator
from datetime import timedelta

import yaml
from support.checkout import PROJECT

from orchestrator.settings import Settings
from orchestrator.tools.shutdown import longest_stop


def attributes_read() -> Iterator[str]:
    """Names of all attributes that the orchestrator's own code reads, the settings' module apart."""
    for path in (PROJECT / "orchestrator").rglob("*.py"):
        if path.name != "settings.py" and "node_modules" not in path.parts:
            yield from (node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))


def variables_described() -> set[str]:
    """In the table of orchestrator/cli/README.md; within a row, `_NAME` stands for `ORCHESTRATOR_NAME`."""
    page = (PROJECT / "orchestrator" / "cli" / "README.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `ORCHESTRATOR_")]
    return {name for row in rows for name in re.findall(r"`(?:ORCHESTRATOR)?_([A-Z_]+)`", row.split("|")[1])}


def test_the_page_describes_each_setting_and_no_other() -> None:
    """By the name of its variable."""
    assert variables_described() == {name.upper() for name in Settings.model_fields}


def test_each_setting_has_an_effect() -> None:
    """Nobody should have to set what nothing reads."""
    assert set(Settings.model_fields) - set(attributes_read()) == set()


def test_compose_passes_on_what_reasons_advise() -> None:
    """Else an operator of the shipped container would set it, and nothing would happen."""
    advised = {"ALLOW_UNLIMITED", "DEFAULT_CPUS", "ENGINE_TIMEOUT", "GPU_DRIVER", "GPU_FIRST_LOOK", "GPU_GROUPS"}
    environment = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]["orchestrator"]["environment"]
    assert {f"ORCHESTRATOR_{name}" for name in advised} - environment.keys() == set()


def seconds(text: str) -> float:
    """`90s` as numbers."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


def test_a_longer_end_of_a_container_lengthens_the_longest_stop() -> None:
    """Else the orchestrator would exit before the patience with its engine is over."""
    slow = Settings(stop_grace=timedelta(seconds=10), engine_timeout=timedelta(seconds=60))
    assert longest_stop(slow) == longest_stop(Settings()) + 58


def test_what_is_shipped_gives_it_the_time_to_stop() -> None:
    """By default it has exited before compose, or systemd with the page's unit, ends it by SIGKILL."""
    services = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
    page = (PROJECT / "orchestrator" / "cli" / "README.md").read_text()
    graces = [services[name]["stop_grace_period"] for name in ("orchestrator", "orchestrator-gpu")]
    graces += re.findall(r"^TimeoutStopSec=(.*)$", page, re.MULTILINE)
    assert len(graces) == 3
    assert min(map(seconds, graces)) >= longest_stop(Settings())
