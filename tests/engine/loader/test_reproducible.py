"""The base image has the same content whenever it is built, except for the dates of its files."""

import hashlib
import io
import tarfile
import tomllib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest
from support.checkout import PROJECT

from orchestrator.app import docker_engine, image_builder
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.image_plan import shared_plan
from orchestrator.settings import Settings

IMAGES = PROJECT / "plugin-images"

Content = dict[str, tuple[bytes, int, int, int, str, str]]


def test_the_runtimes_requirements_are_pinned_to_the_tested_versions() -> None:
    """All of it; pip would take the newest versions of the day."""
    lines = (IMAGES / "runtime" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    locked = {each["name"]: each.get("version") for each in tomllib.loads((PROJECT / "uv.lock").read_text())["package"]}
    needed = tomllib.loads((IMAGES / "runtime" / "pyproject.toml").read_text())["project"]["dependencies"]
    assert pins == [f"{name}=={locked[name]}" for name in sorted(need.split(">=")[0] for need in needed)]


@pytest.fixture
async def builder(tmp_path: Path) -> AsyncIterator[ImageBuilder]:
    settings = Settings(state_dir=tmp_path / "state")
    engine = docker_engine(settings)
    yield image_builder(settings, engine)
    await engine.close()


@pytest.mark.engine
@pytest.mark.slow
async def test_a_second_build_of_the_base_image_has_the_same_content(builder: ImageBuilder, tmp_path: Path) -> None:
    """Every file, link, mode and owner, bytecode included; from the same sources and Python image, nothing cached."""
    base = await builder.ensure_base()
    engine = docker.from_env(timeout=280)
    python = builder._python_image
    python_id = engine.images.get(python).id or ""
    plan = shared_plan("base", IMAGES, ca_bundle=builder._ca_bundle, python_image=python, python_id=python_id)
    assert plan.tag in base.tags
    plan.write_context(tmp_path / "context")
    tag = f"test-{uuid.uuid4().hex[:12]}"
    try:
        engine.images.build(
            path=str(tmp_path / "context"),
            tag=tag,
            nocache=True,
            rm=True,
            buildargs={"PYTHON_IMAGE": python, **builder._build_args},
        )
        first, second = (content(engine, image) for image in (base.id, tag))
        assert len(first) > 5000
        assert [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)] == []
    finally:
        engine.images.remove(tag, force=True)
        engine.close()


def content(engine: docker.DockerClient, image: str) -> Content:
    """Path → type, mode, owner, group, target of a link, hash."""
    container = engine.containers.create(image, network_mode="none")
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as archive:
            return {
                member.name: (
                    member.type,
                    member.mode,
                    member.uid,
                    member.gid,
                    member.linkname,
                    hashlib.sha256(file.read()).hexdigest()
                    if member.isreg() and (file := archive.extractfile(member))
                    else "",
                )
                for member in archive
            }
    finally:
        container.remove(v=True)
