"""The orchestrator's own image: its content, and when it is rebuilt."""

import re
from pathlib import Path

import pytest
from support.checkout import PROJECT

from orchestrator.containers.spec import ImageStatus
from orchestrator.loader.image_plan import OWN_IMAGE_TAG, own_image_plan, pinned_requirements, simulation_image_plan

IMAGES = PROJECT / "plugin-images"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of plugin images that a test can change."""
    for name in ("base", "cuda", "orchestrator", "runtime"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "Dockerfile").write_text("FROM scratch\n")
    return tmp_path / "images"


def plan(images: Path, **changes):
    return own_image_plan(images, **{"ca_bundle": None, "python_image": "python:test", "python_id": "1"} | changes)


def test_every_requirement_is_pinned_and_none_is_the_project_itself() -> None:
    """Including requirements of extras and of requirements; without those of the test tools."""
    pins = pinned_requirements("plugin-orchestrator")
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+", pin) for pin in pins)
    names = {pin.split("==")[0] for pin in pins}
    assert {"httptools", "starlette", "uvloop", "pydantic-core"} <= names
    assert not names & {"plugin-orchestrator", "aiohttp", "pytest", "testcontainers", "colorama"}


def test_the_context_holds_the_packages_and_the_sources_of_images(tmp_path: Path) -> None:
    """So that the orchestrator in it can build plugins' images."""
    plan(IMAGES).write_context(tmp_path)
    assert (tmp_path / "Dockerfile").is_file()
    assert (tmp_path / "site/orchestrator/__main__.py").is_file()
    assert (tmp_path / "site/plugin_runtime/__init__.py").is_file()
    assert (tmp_path / "site/orchestrator/_plugin_images/base/Dockerfile").is_file()
    assert (tmp_path / "site/orchestrator/_plugin_images/runtime/pyproject.toml").is_file()
    (metadata,) = tmp_path.glob("site/plugin_orchestrator-*.dist-info/METADATA")
    assert "Name: plugin-orchestrator" in metadata.read_text()
    assert (tmp_path / "ca-bundle.crt").read_text() == ""


def test_it_has_nothing_that_makes_faults(tmp_path: Path) -> None:
    """So that nothing can switch them on in a deployment: the testing image adds it, and starts another program."""
    plan(IMAGES).write_context(tmp_path / "own")
    assert not (tmp_path / "own/site/orchestrator/simulation").exists()
    own = ImageStatus("sha256:1", ("plugin-orchestrator/orchestrator:1",), {})
    testing = simulation_image_plan(own)
    testing.write_context(tmp_path / "testing")
    assert (tmp_path / "testing/simulation/worker.py").is_file()
    dockerfile = (tmp_path / "testing/Dockerfile").read_text()
    assert dockerfile.startswith("FROM plugin-orchestrator/orchestrator:1\n")
    assert "orchestrator.simulation.entrypoint" in dockerfile
    assert testing.tag.startswith("plugin-orchestrator/orchestrator-testing:")


def test_its_tag_follows_from_its_content(images: Path, tmp_path: Path) -> None:
    """Another Dockerfile, bundle or Python gives another image; the same ones the same."""
    before = plan(images).tag
    assert plan(images).tag == before
    (tmp_path / "ca.crt").write_text("a certificate")
    assert plan(images, ca_bundle=tmp_path / "ca.crt").tag != before
    assert plan(images, python_id="2").tag != before
    (images / "orchestrator" / "Dockerfile").write_text("FROM scratch\nUSER 1\n")
    assert plan(images).tag != before


async def test_it_is_built_once_and_tagged_as_in_compose(workshop) -> None:
    for name in ("orchestrator", "cuda"):
        (workshop.folder / "plugin-images" / name).mkdir()
        (workshop.folder / "plugin-images" / name / "Dockerfile").write_text("FROM scratch\n")
    builder = workshop.builder()
    first = await builder.ensure_own()
    assert (await builder.ensure_own()).id == first.id
    assert workshop.built() == ["orchestrator"]
    assert (await workshop.engine.image(OWN_IMAGE_TAG)).id == first.id
