"""A plugin's folder, the plugin images under it, and a builder over the memory engine."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.containers.memory import MemoryEngine, until_terminated
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.image_recipe import ImageRecipe

PYTHON_IMAGE = "python:test"


@dataclass
class Workshop:
    """Everything that a build needs, and the builds so far."""

    engine: MemoryEngine
    folder: Path

    def builder(self, **changes) -> ImageBuilder:
        settings = {
            "images_dir": self.folder / "plugin-images",
            "logs_dir": self.folder / "logs",
            "ca_bundle": None,
            "build_settings": {},
            "python_image": PYTHON_IMAGE,
        }
        return ImageBuilder(self.engine, **settings | changes)

    def recipe(self, name: str = "reader", **changes) -> ImageRecipe:
        return ImageRecipe(name=name, folder=self.plugin(name), **changes)

    def plugin(self, name: str = "reader") -> Path:
        folder = self.folder / "plugins" / name
        if not folder.exists():
            (folder / "package").mkdir(parents=True)
            (folder / "package" / "__init__.py").write_text("")
            (folder / "plugin.yaml").write_text("version: 1")
        return folder

    def built(self) -> list[str]:
        """Tags of the builds so far, without their hashes."""
        return [
            build.tag.split(":")[0].removeprefix("plugin-orchestrator/") for build in self.engine.image_store.builds
        ]


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    images = tmp_path / "plugin-images"
    (images / "base").mkdir(parents=True)
    (images / "base" / "Dockerfile").write_text("ARG PYTHON_IMAGE\nFROM ${PYTHON_IMAGE}\n")
    (images / "runtime" / "src").mkdir(parents=True)
    (images / "runtime" / "src" / "runtime.py").write_text("x = 1\n")
    engine = MemoryEngine()
    engine.add_image(PYTHON_IMAGE, until_terminated)
    yield Workshop(engine, tmp_path)
    await engine.close()
