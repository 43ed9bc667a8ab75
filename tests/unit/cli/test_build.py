"""`build` reports each failed build by its plugin's name, whatever its output looks like."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from orchestrator.cli import commands, images
from orchestrator.containers.spec import ImageStatus
from orchestrator.errors import BuildError
from orchestrator.loader.image_builder import ImageBuilder


@pytest.fixture
def build(monkeypatch, tmp_path):
    for name, manifest in (("good", "entrypoint: a.b:C"), ("fails", "entrypoint: a.b:C"), ("bad", "[")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plugin.yaml").write_text(f"version: '1'\ndescription: x\n{manifest}\n")
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", str(tmp_path))
    monkeypatch.setattr(images, "image_builder", lambda *_: _Builder())
    return lambda *names: CliRunner().invoke(commands.command_line("build"), ["build", *names])


class _Builder(ImageBuilder):
    """Builds nothing."""

    def __init__(self):
        pass

    async def ensure_plugin(self, recipe, on_output=None):
        on_output(f"Step 1 of {recipe.name} [/red]")
        if recipe.name == "fails":
            raise BuildError("no such package", "the [/end] of the output")
        return ImageStatus("sha256:1", (f"plugin-{recipe.name}:1",), {})


def test_each_plugin_is_reported(build):
    result = build()
    assert result.exit_code == 1
    assert "good: plugin-good:1\n" in result.stderr
    assert "fails: no such package\nthe [/end] of the output\n" in result.stderr
    assert "bad: bad/plugin.yaml: " in result.stderr


def test_only_the_named_plugins_are_built(build):
    assert build("good").exit_code == 0
    assert build("nobody").exit_code == 1
