"""Images of the plugin in C: as it is, and with one thing in it wrong."""

import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import docker
import pytest
from support.checkout import TESTS

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.settings import Settings

WORD_COUNT = TESTS / "fixtures" / "word_count"
BuildImage = Callable[..., str]


@pytest.fixture(scope="session")
def word_count_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildImage]:
    """Builds the image, with `old` in its source replaced by `new`; returns the image's name."""
    engine = docker.from_env()
    made: set[str] = set()

    def build(name: str = "c", old: str = "", new: str = "") -> str:
        folder = tmp_path_factory.mktemp("image")
        source = (WORD_COUNT / "image" / "word_count.c").read_text()
        assert old in source
        (folder / "word_count.c").write_text(source.replace(old, new) if old else source)
        shutil.copy(WORD_COUNT / "image" / "Dockerfile", folder)
        compiler = ["gcc", "-O1", "-static", "-pthread", "-o", "word_count", "word_count.c"]
        subprocess.run(compiler, cwd=folder, check=True, timeout=60, capture_output=True)
        tag = f"plugin-orchestrator/test-word-count:{name}"
        engine.images.build(path=str(folder), tag=tag, rm=True)
        made.add(tag)
        return tag

    yield build
    for tag in made:
        with contextlib.suppress(docker.errors.ImageNotFound):  # another test session beside this one was quicker
            engine.images.remove(tag)
    engine.close()


@pytest.fixture
async def engine() -> AsyncIterator[DockerEngine]:
    engine = DockerEngine.from_environment()
    yield engine
    await engine.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run")
