"""An image made by a script in a container: how it ends, and what is left."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.spec import Installation
from orchestrator.errors import BuildError, NotFoundError

pytestmark = pytest.mark.engine

PYTHON_IMAGE = "plugin-orchestrator/python:3.11-bookworm"


@dataclass
class Workshop:
    engine: DockerEngine
    name: str
    base: str
    files: Path

    def installation(self, script: str, base: str = "") -> Installation:
        return Installation(
            tag=f"{self.name}:made",
            base=base or self.base,
            files=self.files,
            script=script,
            labels={"made-by": self.name},
            volume=self.name,
            volume_path="/mnt",
            owner_labels={"under-way": self.name},
        )

    async def under_way(self) -> int:
        return len(await self.engine.list({"under-way": self.name}))


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    engine = DockerEngine.from_environment()
    name = f"test-{uuid.uuid4().hex[:12]}"
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text(f'FROM {PYTHON_IMAGE}\nENTRYPOINT ["env"]\nUSER 7:7\n')
    (tmp_path / "files" / "given").mkdir(parents=True)
    (tmp_path / "files" / "given" / "text").write_text("from outside")
    base = f"{name}:base"
    await engine.build(tmp_path / "context", tag=base, labels={}, build_args={}, on_output=lambda _: None)
    yield Workshop(engine, name, base, tmp_path / "files")
    for tag in (f"{name}:made", base):
        with suppress(NotFoundError):
            await engine.remove_image(tag)
    await engine.close()
    client = docker.from_env()
    for volume in client.volumes.list(filters={"name": name}):
        volume.remove()
    client.close()


async def test_what_the_script_leaves_is_in_the_image_and_in_the_volume_alone(workshop: Workshop) -> None:
    """The user and the entry point are those of the image below; what marks the container is on no image."""
    lines: list[str] = []
    await workshop.engine.install(
        workshop.installation("cat /given/text; echo; id -u; echo kept >/mnt/file; echo made >/made"), lines.append
    )
    assert lines == ["from outside", "0"]
    again: list[str] = []
    client = docker.from_env()
    try:
        config = client.images.get(f"{workshop.name}:made").attrs["Config"]
        said = client.containers.run(f"{workshop.name}:made", ["cat", "/made"], network_mode="none", remove=True)
    finally:
        client.close()
    assert said == b"made\n"
    assert (config["Entrypoint"], config["User"], config["Labels"]["made-by"]) == (["env"], "7:7", workshop.name)
    assert not config["Labels"]["under-way"]
    await workshop.engine.install(workshop.installation("cat /mnt/file"), again.append)
    assert again == ["kept"]
    assert await workshop.under_way() == 0


async def test_a_script_that_fails_makes_no_image(workshop: Workshop) -> None:
    with pytest.raises(BuildError, match="exit code 3") as failed:
        await workshop.engine.install(workshop.installation("echo why; exit 3"), lambda _: None)
    assert failed.value.tail == "why"
    with pytest.raises(NotFoundError):
        await workshop.engine.image(f"{workshop.name}:made")
    assert await workshop.under_way() == 0


async def test_a_cancelled_one_leaves_no_container(workshop: Workshop) -> None:
    started = asyncio.Event()
    running = asyncio.create_task(
        workshop.engine.install(workshop.installation("echo started; sleep 600"), lambda _: started.set())
    )
    await asyncio.wait_for(started.wait(), 60)
    assert await workshop.under_way() == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await workshop.under_way() == 0


async def test_an_image_without_an_entry_point_is_refused(workshop: Workshop) -> None:
    with pytest.raises(BuildError, match="has no entry point"):
        await workshop.engine.install(workshop.installation("true", base=PYTHON_IMAGE), lambda _: None)


async def test_what_the_engine_refuses_is_a_failed_build(workshop: Workshop) -> None:
    """Such as files that lie where the image has a file in place of a folder."""
    (workshop.files / "etc").mkdir()
    (workshop.files / "etc" / "hostname").mkdir()
    (workshop.files / "etc" / "hostname" / "x").touch()
    with pytest.raises(BuildError, match="was refused"):
        await workshop.engine.install(workshop.installation("true"), lambda _: None)
    assert await workshop.under_way() == 0
