"""What the installation of a plugin's packages downloads is there for the next one."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
from support.checkout import PROJECT
from support.package_index import Index, package_index

from orchestrator.app import ca_bundle, docker_engine
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.image_recipe import INSTALLATION_LABEL, PACKAGES_LABEL, PLUGIN_LABEL, ImageRecipe
from orchestrator.settings import Settings

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NAME = f"test-{uuid.uuid4().hex[:12]}"
DEBIAN = "hello"  # a package of some KiB that needs nothing but the C library


@pytest.fixture(params=["max-age=600", ""], ids=["an index with ages", "a mirror without"])
def index(request: pytest.FixtureRequest) -> Iterator[Index]:
    with package_index("reader", "hunter2hunter2", cache_control=request.param) as index:
        for name in ("heavy", "light"):
            index.add(name, "1.0")
        yield index


@pytest.fixture
async def builder(index: Index, tmp_path: Path) -> AsyncIterator[ImageBuilder]:
    engine = docker_engine(Settings(state_dir=tmp_path / "state"))
    yield ImageBuilder(
        engine,
        images_dir=PROJECT / "plugin-images",
        logs_dir=tmp_path / "logs",
        ca_bundle=ca_bundle(Settings(), os.environ),
        build_settings={"PIP_EXTRA_INDEX_URL": index.url, "PIP_TRUSTED_HOST": index.host, "NO_PROXY": index.host},
        python_image=Settings().python_image,
    )
    for label in (PLUGIN_LABEL, PACKAGES_LABEL):
        for image in await engine.images({label: NAME}):
            for tag in image.tags:
                await engine.remove_image(tag)
    await engine.close()
    client = docker.from_env()
    client.volumes.get(f"plugin-orchestrator-downloads-{NAME}").remove()
    client.close()


async def test_a_further_line_fetches_nothing_again(builder: ImageBuilder, index: Index, tmp_path: Path) -> None:
    """Neither of Python's nor of Debian's packages. And nothing of the installation is left but the volume."""
    requirements = tmp_path / "plugin" / "requirements.txt"
    requirements.parent.mkdir()
    requirements.write_text("heavy==1.0\n")
    await builder.ensure_plugin(ImageRecipe(NAME, requirements.parent, system_packages=(DEBIAN,)))
    requirements.write_text("heavy==1.0\nlight==1.0\n")
    index.served.clear()
    output: list[str] = []
    image = await builder.ensure_plugin(ImageRecipe(NAME, requirements.parent, (DEBIAN,)), output.append)
    assert [path for path in index.served if path.startswith("/files/")] == ["/files/light-1.0-py3-none-any.whl"]
    assert any(line.startswith("Need to get 0 B/") for line in output)
    client = docker.from_env()
    try:
        owner = f"{INSTALLATION_LABEL}={builder._owner[INSTALLATION_LABEL]}"
        assert client.containers.list(all=True, filters={"label": owner}) == []
        code = (
            "import os; print(sorted(os.listdir('/mnt')), os.path.exists('/install'), os.path.exists('/root/.cache'))"
        )
        options = {"entrypoint": "python", "network_mode": "none", "remove": True}
        assert client.containers.run(image.id, ["-c", code], **options).split() == [b"[]", b"False", b"False"]
        config = client.images.get(image.id).attrs["Config"]
        assert config["Entrypoint"] == ["python", "-I", "-m", "plugin_runtime"]
        assert not config["Cmd"]
        assert config["User"] == "65532:65532"
        assert not config["Labels"].get(INSTALLATION_LABEL)  # its containers would pass for unfinished installations
        assert config["Healthcheck"]["Test"][0] == "CMD"
    finally:
        client.close()
