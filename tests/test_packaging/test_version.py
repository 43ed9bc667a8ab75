"""One version, from one place: the package, the API, the metrics, the runtime in the images and the list of changes."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from plugin_runtime import __version__
from support.house import House

PROJECT = Path(__file__).parents[2]


def test_what_is_installed_is_of_this_version() -> None:
    """As pip and the orchestrator's own image tell it."""
    assert version("plugin-orchestrator") == __version__


@pytest.mark.parametrize("project", [".", "plugin-images/runtime"])
def test_no_project_file_states_it_again(project: str) -> None:
    """Both read the one place, which a release changes."""
    told = tomllib.loads((PROJECT / project / "pyproject.toml").read_text())
    assert told["project"]["dynamic"] == ["version"]
    place = PROJECT / project / told["tool"]["hatch"]["version"]["path"]
    assert place.resolve() == PROJECT / "plugin-images" / "runtime" / "src" / "plugin_runtime" / "__init__.py"


def test_the_command_line_tells_it() -> None:
    """To whoever reports a defect."""
    asked = [sys.executable, "-m", "orchestrator", "--version"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == f"orchestrator {__version__}\n"


def test_no_module_of_the_orchestrator_states_it_again() -> None:
    """It would stay behind at the next release."""
    assert not [path for path in (PROJECT / "orchestrator").rglob("*.py") if f'"{__version__}"' in path.read_text()]


async def test_the_api_and_the_metrics_tell_it(house: House) -> None:
    """To programs that ask what they speak to."""
    await house.open()
    assert (await house.client.get("/openapi.json")).json()["info"]["version"] == __version__
    assert "plugin_orchestrator_build_info{python=" in (metrics := (await house.client.get("/metrics")).text)
    assert f'version="{__version__}"}} 1.0' in metrics


def test_the_list_of_changes_begins_with_it() -> None:
    """With the day of its release; or with what is to be released next."""
    heading = next(line for line in (PROJECT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert heading == "## Unreleased" or re.fullmatch(rf"## {re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)", heading)
