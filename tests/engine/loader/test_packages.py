"""What a plugin's requirements.txt installs, by the base image's own pip, and what stays in the image of it."""

import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.checkout import PROJECT
from support.package_index import Index, package_index, wheel

from orchestrator.app import docker_engine
from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.spec import ImageStatus
from orchestrator.errors import BuildError
from orchestrator.loader.build_settings import ca_bundle
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.image_recipe import PACKAGES_LABEL, PLUGIN_LABEL, ImageRecipe
from orchestrator.settings import Settings

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FORMS = "the runtime in this image needs python-multipart==0.0.34"
JSON = "the runtime in this image needs msgspec==0.22.0"
FILES_WITH = """
import pathlib, sys
roots = map(pathlib.Path, ("/opt", "/plugin", "/etc", "/root", "/tmp", "/scratch", "/var", "/usr/local"))
files = [path for root in roots for path in root.rglob("*") if path.is_file()]
assert len(files) > 1000
print(sum(sys.argv[1].encode() in path.read_bytes() for path in files))
"""
PASSWORD = f"hunter2-{uuid.uuid4().hex}"


@dataclass
class Workshop:
    """A plugin's folder, and a builder that takes packages from the index too."""

    engine: DockerEngine
    index: Index
    folder: Path
    images_dir: Path = PROJECT / "plugin-images"
    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")
    output: list[str] = field(default_factory=list)
    base: ImageStatus | None = None
    """A base image of the test's own."""

    def put(self, path: str, content: str | bytes) -> None:
        file = self.folder / "plugin" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def put_wheel(self, path: str, name: str, version: str, *, requires: str = "") -> str:
        file, content = wheel(name, version, requires=requires)
        self.put(f"{path}/{file}", content)
        return f"{path}/{file}"

    def builder(self) -> ImageBuilder:
        return ImageBuilder(
            self.engine,
            images_dir=self.images_dir,
            logs_dir=self.folder / "logs",
            ca_bundle=ca_bundle(Settings(), os.environ),
            build_settings={
                "HTTP_PROXY": f"http://reader:{PASSWORD}@192.0.2.1:3128",
                "NO_PROXY": self.index.host,
                "PIP_EXTRA_INDEX_URL": self.index.url,
                "PIP_TRUSTED_HOST": self.index.host,
            },
            python_image=Settings().python_image,
        )

    async def build(self) -> str:
        self.output.clear()
        return (
            await self.builder().ensure_plugin(ImageRecipe(self.name, self.folder / "plugin"), self.output.append)
        ).id

    async def failure(self) -> str:
        with pytest.raises(BuildError) as failed:
            await self.build()
        return str(failed.value)


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with package_index("reader", PASSWORD) as index:
        index.add("house_package", "1.0")
        index.add("forms", "3.0", requires="python-multipart<0.0.13")
        yield index


@pytest.fixture
async def workshop(index: Index, tmp_path: Path) -> AsyncIterator[Workshop]:
    engine = docker_engine(Settings(state_dir=tmp_path / "state"))
    workshop = Workshop(engine, index, tmp_path)
    workshop.put("package/__init__.py", "NUMBER = 42\n")
    yield workshop
    images = [
        image
        for label in (PLUGIN_LABEL, PACKAGES_LABEL)  # those that others are built on come last
        for image in await engine.images({label: workshop.name})
    ]
    if workshop.base is not None:
        images.append(workshop.base)
    for image in images:
        for tag in image.tags or (image.id,):
            await engine.remove_image(tag)
    await engine.close()


def python(image: str, code: str, *arguments: str) -> str:
    """What this prints in a container of the image."""
    options = ["--rm", "--network", "none", "--user", "0", "--entrypoint", "python"]
    return docker_says("run", *options, image, "-I", "-c", code, *arguments).strip()


def docker_says(*command: str) -> str:
    return subprocess.run(["docker", *command], check=True, capture_output=True, text=True).stdout


async def test_credentials_of_the_index_are_in_no_image_and_in_no_output(workshop: Workshop, tmp_path: Path) -> None:
    """Neither in the plugin's image nor in those under it: history, configuration, labels, files; nor in any log."""
    workshop.images_dir = tmp_path / "plugin-images"
    shutil.copytree(PROJECT / "plugin-images", workshop.images_dir)
    (workshop.images_dir / "base" / "unique").write_text(workshop.name)
    workshop.base = await workshop.builder().ensure_base()
    workshop.put("requirements.txt", "house-package==1.0\n")
    image = await workshop.build()
    assert python(image, "import house_package; print(house_package.VERSION)") == "1.0"
    history = docker_says("history", "--no-trunc", image)
    layers = [line.split()[0] for line in history.splitlines()[1:] if not line.startswith("<missing>")]
    said = history + "".join(docker_says("image", "inspect", layer) for layer in layers)
    assert len(layers) > 5
    assert python(image, FILES_WITH, PASSWORD) == "0"
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.log"))
    assert "house-package" in logs
    for text in (said, logs, "\n".join(workshop.output)):
        assert PASSWORD not in text
    workshop.put("requirements.txt", "no-such-package-here==1.0\n")
    failure = await workshop.failure()
    assert "no-such-package-here" in failure
    assert PASSWORD not in failure + (tmp_path / "logs" / f"{workshop.name}.log").read_text()


@pytest.mark.parametrize(
    ("requirement", "wish", "need"),
    [
        ("python-multipart==0.0.9", "requirements.txt wants python-multipart==0.0.9", FORMS),
        ("msgspec<0.19", "requirements.txt wants msgspec<0.19", JSON),
        ("forms==3.0", "forms 3.0 (which requirements.txt installs) wants python-multipart<0.0.13", FORMS),
        ("./vendor/msgspec-0.18.0-py3-none-any.whl", "requirements.txt wants msgspec 0.18.0", JSON),
        ("plugin-runtime==0.0.1", "requirements.txt wants plugin-runtime==0.0.1", "needs plugin-runtime=="),
    ],
)
async def test_a_requirement_that_would_replace_a_package_of_the_runtime_fails_the_build(
    workshop: Workshop, requirement: str, wish: str, need: str
) -> None:
    """The error names both sides."""
    workshop.put_wheel("vendor", "msgspec", "0.18.0")
    workshop.put("requirements.txt", f"{requirement}\n")
    failure = await workshop.failure()
    assert wish in failure and need in failure


async def test_a_requirement_that_the_runtimes_packages_satisfy_installs(workshop: Workshop) -> None:
    """They stay as they are."""
    workshop.put("requirements.txt", "msgspec>=0.19\npython-multipart\n")
    image = await workshop.build()
    assert python(image, "import msgspec, python_multipart; print(msgspec.__version__)") == "0.22.0"


async def test_files_of_the_plugins_folder_that_requirements_name_install(workshop: Workshop) -> None:
    """Wheels and source folders, by path, through another file, and from a folder of wheels; a changed one anew."""
    first = workshop.put_wheel("vendor", "first", "1.0")
    workshop.put_wheel("vendor", "second", "2.0", requires="third==3.0")
    workshop.put_wheel("vendor", "third", "3.0")
    fourth = workshop.put_wheel(".wheels", "fourth", "4.0")
    workshop.put("more/requirements.txt", f"./{fourth}\n-c pins.txt\n")
    workshop.put("more/pins.txt", "second==2.0\n")
    workshop.put("local/pyproject.toml", '[project]\nname = "local"\nversion = "5.0"\n')
    workshop.put("local/local/__init__.py", "VERSION = '5.0'\n")
    workshop.put("requirements.txt", f"{first}  # a wheel\n-f vendor\nsecond\n-r more/requirements.txt\n-e ./local\n")
    image = await workshop.build()
    names = "first, second, third, fourth, local"
    code = f"import {names}; print(*(module.VERSION for module in ({names})))"
    assert python(image, code) == "1.0 2.0 3.0 4.0 5.0"
    workshop.put("package/__init__.py", "NUMBER = 43\n")
    await workshop.build()
    assert not any("Successfully installed" in line for line in workshop.output)
    workshop.put(first, wheel("first", "1.0", size=1)[1])
    await workshop.build()
    assert any("Successfully installed" in line for line in workshop.output)
