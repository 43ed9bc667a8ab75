"""The wheel works wherever it is installed: it holds the images' sources and the runtime."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.checkout import PROJECT, copy_checkout
from support.live import live_orchestrator

pytestmark = pytest.mark.slow


def test_two_builds_are_the_same_bytes(uv, wheel: Path, tmp_path: Path) -> None:
    """Anyone can verify a published hash: from another checkout, on another day, with another umask, and without the
    source distribution in between.
    """
    elsewhere = tmp_path / "a checkout"
    copy_checkout(elsewhere)
    for file in filter(Path.is_file, elsewhere.rglob("*")):
        file.chmod(file.stat().st_mode & 0o700)
        os.utime(file, (1e9, 1e9))
    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path, elsewhere)
    (again,) = tmp_path.glob("*.whl")
    assert again.name == wheel.name
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_given_date_is_the_date_of_every_file(uv, tmp_path: Path) -> None:
    """SOURCE_DATE_EPOCH, as distributions set it."""
    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path, SOURCE_DATE_EPOCH="1700000000")
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_it_holds_the_page_and_the_dashboard(wheel: Path) -> None:
    """All files of the page except its checks; Grafana's dashboard; the markers of typed packages."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    page = PROJECT / "orchestrator" / "dashboard"
    assets = {path for path in (page / "static").rglob("*") if path.is_file()}
    assert len(assets) > 10
    assert {path.relative_to(PROJECT).as_posix() for path in assets} <= packed
    assert {
        "orchestrator/telemetry/grafana-dashboard.json",
        "orchestrator/testing/contract.json",
        "orchestrator/simulation/worker.py",
        "orchestrator/py.typed",
        "plugin_runtime/py.typed",
    } <= packed
    assert not [name for name in packed if "node_modules" in name or name.endswith(("package.json", "tsconfig.json"))]


def test_it_holds_what_images_are_built_from(wheel: Path) -> None:
    """Each file of the shared images, and nothing generated from them."""
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


def test_installed_it_has_the_runtime_for_the_tests_of_plugins(installed: Path, tmp_path: Path) -> None:
    """`from plugin_runtime import tool` works where the orchestrator is installed."""
    printed = subprocess.run(
        [installed, "-c", "import orchestrator, plugin_runtime; print(orchestrator.__file__, plugin_runtime.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(Path(file).is_relative_to(installed.parents[1]) for file in printed)


PROGRAM = """
from orchestrator.client import AsyncClient, Client
from plugin_runtime import InvalidInput, tool


class Reader:
    def validate(self) -> None:
        raise InvalidInput("no")

    @tool
    def read(self, page: bytes, times: int = 1) -> str:
        return page.decode() * times


def work(client: Client) -> str:
    reveal_type(client.health("ocr"))
    return Reader().read(b"page", times="twice")
"""


def test_installed_its_types_are_seen(installed: Path, tmp_path: Path) -> None:
    """By the type checker of a program that uses the client, and of a plugin."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed, "program.py"]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200).stdout
    assert "import-untyped" not in output
    assert "orchestrator.client.models.PluginDetail" in output
    assert 'Argument "times" to "read" of "Reader" has incompatible type "str"; expected "int"' in output


@pytest.mark.engine
def test_installed_it_serves_a_plugin(installed: Path, tmp_path: Path) -> None:
    """From any folder, without a checkout: images are built, a plugin starts and answers."""
    (tmp_path / "echo").symlink_to(PROJECT / "tests" / "fixtures" / "plugins" / "echo")
    with live_orchestrator([tmp_path], python=installed, cwd=tmp_path) as live:
        live.wait_ready(300)
        assert live.run("echo", "echo", {"text": "from a wheel"}).json()["result"] == "from a wheel"
