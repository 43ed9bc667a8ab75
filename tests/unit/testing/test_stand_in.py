"""A plugin by its name alone is a valid plugin."""

from pathlib import Path

import pytest
import yaml

from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import PluginLoader
from orchestrator.testing import StandIn


def written(stand_in: StandIn, folder: Path) -> Path:
    (folder / stand_in.name).mkdir()
    for name, text in stand_in.files().items():
        (folder / stand_in.name / name).write_text(text)
    return folder


def test_its_folder_is_a_plugin(tmp_path: Path) -> None:
    stand_in = StandIn("detector", tools={"detect": {"boxes": [1, None, "'"]}}, gpu=True, manifest={"concurrency": 4})
    (found,) = PluginLoader((written(stand_in, tmp_path),)).discover()
    assert isinstance(found.manifest, Manifest), found.error
    assert (found.name, found.manifest.requires_gpu, found.manifest.concurrency) == ("detector", True, 4)


def test_its_tools_return_what_is_said() -> None:
    """Whatever JSON has, quotes and all."""
    result = {"text": 'it\'s "quoted" \\ \n', "none": None, "list": [1.5, True]}
    namespace: dict = {}
    exec(StandIn("x", tools={"a": result, "b": []}).files()["stand_in.py"], namespace)
    plugin = namespace["StandIn"]()
    assert (plugin.a(), plugin.b()) == (result, [])


def test_without_tools_it_has_one() -> None:
    assert "def run(" in StandIn("x").files()["stand_in.py"]
    assert yaml.safe_load(StandIn("x").files()["plugin.yaml"])["name"] == "x"


@pytest.mark.parametrize("tool", ["class", "two words", "_hidden", "1st"])
def test_a_tool_that_is_no_method_is_refused(tool: str) -> None:
    with pytest.raises(ValueError, match="name of a tool"):
        StandIn("x", tools={tool: None})


def test_a_result_that_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        StandIn("x", tools={"a": object()})
