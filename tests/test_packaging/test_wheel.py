"""The wheel works wherever it is installed: the images' sources and the runtime are in it."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.live import live_orchestrator

PROJECT = Path(__file__).parents[2]


def test_two_builds_are_the_same_bytes(uv, wheel: Path, tmp_path: Path) -> None:
    """A hash that was published once can be checked by anyone."""
    uv("build", "--quiet", "--out-dir", tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_a_given_date_is_the_date_of_every_file(uv, tmp_path: Path) -> None:
    """SOURCE_DATE_EPOCH, as distributions set it."""
    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path, SOURCE_DATE_EPOCH="1700000000")
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_it_holds_what_images_are_built_from(wheel: Path) -> None:
    """Each file of the shared images, and nothing that was made from them."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("orchestrator/_plugin_images/")}
    sources = {
        f"orchestrator/_plugin_images/{path.relative_to(PROJECT / 'plugin-images')}"
        for folder in ("base", "cuda", "runtime")
        for path in (PROJECT / "plugin-images" / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed >= sources
    assert not [name for name in packed if "__pycache__" in name or name.endswith(".pyc")]


def test_installed_it_brings_the_runtime_for_the_tests_of_plugins(installed: Path, tmp_path: Path) -> None:
    """`from plugin_runtime import tool` works where the orchestrator is installed."""
    told = subprocess.run(
        [installed, "-c", "import orchestrator, plugin_runtime; print(orchestrator.__file__, plugin_runtime.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(Path(file).is_relative_to(installed.parents[1]) for file in told)


@pytest.mark.engine
def test_installed_it_serves_a_plugin(installed: Path, tmp_path: Path) -> None:
    """From any folder, with no checkout beside it: images are built, a plugin starts and answers."""
    (tmp_path / "echo").symlink_to(PROJECT / "tests" / "fixtures" / "plugins" / "echo")
    with live_orchestrator([tmp_path], python=installed, cwd=tmp_path) as live:
        live.wait_ready(300)
        assert live.run("echo", "echo", {"text": "from a wheel"}).json()["result"] == "from a wheel"
