"""Images that Docker really builds, on a small base that takes seconds."""

import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.spec import ContainerSpec
from orchestrator.errors import BuildError, NotFoundError
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.image_recipe import PACKAGES_LABEL, PLUGIN_LABEL, SHARED_LABEL, ImageRecipe

pytestmark = pytest.mark.engine

PYTHON_IMAGE = "plugin-orchestrator/python:3.11-bookworm"
DOCKERFILE = """\
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
LABEL marker=MARKER
COPY ca-bundle.crt runtime /runtime/
COPY cached_pip.py /opt/venv/
RUN ln -s "$(command -v python3)" /usr/local/bin/python && mkdir -p /plugin
ENV PYTHONPATH=/plugin
"""
PIP = """\
import sys
requirements = open("requirements.txt").read()
print("pip reads:", requirements)
if "no-such-thing" in requirements:
    sys.exit("ERROR: No matching distribution found for no-such-thing")
"""


class OwnImages(DockerEngine):
    """Docker, limited to this run's images: the builder prunes, and must not prune others."""

    marker = ""

    async def images(self, labels):
        return await super().images({**labels, "marker": self.marker})


class Bench:
    """A plugin with a unique name, and a builder."""

    def __init__(self, engine: OwnImages, images_dir: Path, folder: Path) -> None:
        self.engine = engine
        self.name = f"test-{uuid.uuid4().hex[:12]}"
        self.images_dir = images_dir
        self.folder = folder
        self.plugin = folder / "plugin"
        (self.plugin / "package").mkdir(parents=True)
        (self.plugin / "package" / "__init__.py").write_text("NUMBER = 42\n")
        self.built: list[str] = []

    def builder(self) -> ImageBuilder:
        return ImageBuilder(
            self.engine,
            images_dir=self.images_dir,
            logs_dir=self.folder / "logs",
            ca_bundle=None,
            build_settings={},
            python_image=PYTHON_IMAGE,
        )

    async def ensure(self):
        self.built.clear()
        return await self.builder().ensure_plugin(ImageRecipe(self.name, self.plugin), self.built.append)

    async def run(self, image: str, *command: str) -> str:
        spec = ContainerSpec(
            name=f"{self.name}-run",
            image=image,
            labels={"plugin-orchestrator.test": self.name},
            environment={},
            memory=64 * 1024**2,
            pids=16,
            command=command,
        )
        container = await self.engine.create(spec)
        try:
            await self.engine.start(container)
            async with self.engine.follow_logs(container, tail=100) as lines:
                return "\n".join([line.split(" ", 1)[1] async for line in lines])
        finally:
            await self.engine.remove(container)


async def remove_images(engine: DockerEngine, labels: dict[str, str]) -> None:
    for image in await engine.images(labels):
        for reference in image.tags or (image.id,):
            with suppress(NotFoundError):
                await engine.remove_image(reference)


@pytest_asyncio.fixture(scope="module")
async def workshop_engine() -> AsyncIterator[OwnImages]:
    engine = OwnImages.from_environment()
    engine.marker = f"test-{uuid.uuid4().hex[:12]}"
    yield engine
    await remove_images(engine, {})
    assert await engine.images({}) == []
    await engine.close()


@pytest.fixture(scope="module")
def images_dir(workshop_engine: OwnImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin-images")
    (folder / "base").mkdir()
    (folder / "base" / "Dockerfile").write_text(DOCKERFILE.replace("MARKER", workshop_engine.marker))
    (folder / "base" / "cached_pip.py").write_text(PIP)
    (folder / "runtime").mkdir()
    (folder / "runtime" / "file").touch()
    return folder


@pytest_asyncio.fixture
async def bench(workshop_engine: OwnImages, images_dir: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(workshop_engine, images_dir, tmp_path)
    yield bench
    await remove_images(workshop_engine, {PLUGIN_LABEL: bench.name})
    await remove_images(workshop_engine, {PACKAGES_LABEL: bench.name})


async def test_the_second_time_nothing_is_built(bench):
    first = await bench.ensure()
    assert bench.built
    second = await bench.ensure()
    assert bench.built == []
    assert first.id == second.id


async def test_a_plugin_finds_its_code_and_may_read_but_not_write_it(bench):
    (bench.plugin / "package" / "data.txt").write_text("secretive")
    (bench.plugin / "package" / "data.txt").chmod(0o600)
    image = await bench.ensure()
    code = "import os, package; print(package.NUMBER, open('/plugin/package/data.txt').read(), os.getuid())"
    assert await bench.run(image.id, "python", "-c", code) == "42 secretive 65532"
    code = "import os, package; print(os.path.exists(package.__cached__), oct(os.stat(package.__file__).st_mode))"
    assert await bench.run(image.id, "python", "-c", code) == "True 0o100644"


async def test_changed_code_installs_nothing_again(bench):
    (bench.plugin / "requirements.txt").write_text("# nothing\n")
    await bench.ensure()
    assert "pip reads: # nothing" in bench.built
    (bench.plugin / "package" / "__init__.py").write_text("NUMBER = 43\n")
    image = await bench.ensure()
    assert bench.built and not any("pip reads" in line for line in bench.built)
    assert await bench.run(image.id, "python", "-c", "import package; print(package.NUMBER)") == "43"


async def test_code_that_does_not_compile_fails_no_build(bench):
    (bench.plugin / "package" / "broken.py").write_text("def\n")
    assert (await bench.ensure()).tags


async def test_a_requirement_that_fails_is_a_failed_build_with_its_reason(bench):
    (bench.plugin / "requirements.txt").write_text("no-such-thing\n")
    with pytest.raises(
        BuildError, match=r"No matching distribution found for no-such-thing\. Correct requirements\.txt"
    ):
        await bench.ensure()
    assert "no-such-thing" in (bench.folder / "logs" / f"{bench.name}.log").read_text()
    dangling = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", f"label=marker={bench.engine.marker}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert dangling.stdout == ""


async def test_a_plugin_does_not_pass_for_the_image_it_is_built_on(bench):
    image = await bench.ensure()
    assert image.id not in {base.id for base in await bench.engine.images({SHARED_LABEL: "base"})}


async def test_older_images_are_removed_when_two_newer_ones_exist(bench):
    images = []
    for number in range(3):
        (bench.plugin / "package" / "__init__.py").write_text(f"NUMBER = {number}\n")
        images.append(await bench.ensure())
    left = {image.id for image in await bench.engine.images({PLUGIN_LABEL: bench.name})}
    assert left == {image.id for image in images[1:]}
