"""One version from one file: the package, the API, the metrics, the runtime in the images and the changelog."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
from plugin_runtime import __version__
from support.checkout import PROJECT
from support.harness import Harness


def test_what_is_installed_is_of_this_version() -> None:
    """As pip and the orchestrator's own image report it."""
    assert version("plugin-orchestrator") == __version__


@pytest.mark.parametrize("project", [".", "plugin-images/runtime"])
def test_no_project_file_states_it_again(project: str) -> None:
    """Both read it from one file, which a release changes."""
    project_file = tomllib.loads((PROJECT / project / "pyproject.toml").read_text())
    assert project_file["project"]["dynamic"] == ["version"]
    version_file = PROJECT / project / project_file["tool"]["hatch"]["version"]["path"]
    assert version_file.resolve() == PROJECT / "plugin-images" / "runtime" / "src" / "plugin_runtime" / "__init__.py"


def test_the_command_line_prints_it() -> None:
    """For defect reports."""
    command = [sys.executable, "-m", "orchestrator", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"orchestrator {__version__}\n"


def test_no_module_of_the_orchestrator_states_it_again() -> None:
    """It would stay behind at the next release."""
    assert not [path for path in (PROJECT / "orchestrator").rglob("*.py") if f'"{__version__}"' in path.read_text()]


async def test_the_api_and_the_metrics_report_it(harness: Harness) -> None:
    """For programs that check which version they use."""
    await harness.open()
    assert (await harness.client.get("/openapi.json")).json()["info"]["version"] == __version__
    assert "plugin_orchestrator_build_info{python=" in (metrics := (await harness.client.get("/metrics")).text)
    assert f'version="{__version__}"}} 1.0' in metrics


def test_the_list_of_changes_begins_with_it() -> None:
    """With the date of its release, or with the unreleased changes."""
    heading = next(line for line in (PROJECT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert heading == "## Unreleased" or re.fullmatch(rf"## {re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)", heading)
