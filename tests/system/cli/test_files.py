"""`-o` through the whole orchestrator: whatever a plugin gives lands on disk whole."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.giving_files import WHOLE_FILM, noise, open_with_giver
from support.harness import Harness
from typer.testing import CliRunner

from orchestrator.cli import commands, console

pytestmark = pytest.mark.slow


@pytest.fixture
async def call(harness: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    await open_with_giver(harness)
    monkeypatch.setenv("ORCHESTRATOR_URL", str(harness.client.base_url))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    async def call(*arguments: str, code: int = 0, terminal: bool = False) -> Any:
        monkeypatch.setattr(console.console, "_force_terminal", terminal)
        result = await asyncio.to_thread(CliRunner().invoke, commands.command_line(), list(arguments))
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


async def test_a_picture_gets_the_name_that_is_given(call: Any) -> None:
    assert (await call("run", "giver", "picture", "-o", "page.png")).stdout == "page.png\n"
    assert Image.open(io.BytesIO(Path("page.png").read_bytes())).size == (120, 80)


async def test_all_files_of_a_result_are_saved_at_once_or_later(call: Any) -> None:
    shown = json.loads((await call("run", "giver", "report", "-o", "out")).stdout)
    assert shown["film"] == "out/film.mp4" and shown["table"] == "out/table.csv" and shown["count"] == 2
    assert sorted(Path(path).name for path in [*shown["pages"], shown["film"], shown["table"]]) == names("out")
    assert Path("out/table.csv").read_bytes() == b"a,b\n1,2\n"
    run_id = (await call("run", "giver", "report", "--async")).stdout.strip()
    await call("runs", "result", run_id, "--wait", "20", "-o", "later")
    assert names("later") == names("out")


async def test_a_terminal_names_the_command_that_saves_them(call: Any) -> None:
    shown = await call("run", "giver", "report", terminal=True)
    assert "table.csv (text/csv, 8 B)" in shown.stdout and "sha256" not in shown.stdout
    command = shown.stderr.partition("`orchestrator ")[2].partition("`")[0].replace("DIR", "out").split()
    await call(*command)
    assert Path("out/table.csv").read_bytes() == b"a,b\n1,2\n"


async def test_bytes_of_no_format_are_a_file(call: Any) -> None:
    await call("run", "giver", "raw", "-p", "size=200000", "-o", "raw.bin")
    assert Path("raw.bin").read_bytes() == noise(200_000)


async def test_files_of_items_are_saved(call: Any) -> None:
    shown = (await call("run", "giver", "frames", "-o", "out", "--raw")).stdout
    assert '"frame": "out/frame.png"' in shown and shown.endswith("out/end.txt")
    assert Image.open(io.BytesIO(Path("out/frame.png").read_bytes())).size == (50, 40)


@pytest.mark.parametrize(
    ("tool", "name", "content"), [("parts", "parts.bin", noise(100_000)), ("film", "film.mp4", WHOLE_FILM)]
)
async def test_parts_are_one_whole_file(call: Any, tool: str, name: str, content: bytes) -> None:
    assert (await call("run", "giver", tool, "-o", "out")).stdout == f"out/{name}\n"
    assert names("out") == [name] and (Path("out") / name).read_bytes() == content
    run_id = (await call("run", "giver", tool, "--async")).stdout.strip()
    await call("runs", "result", run_id, "--wait", "20", "-o", f"later-{name}")
    assert Path(f"later-{name}").read_bytes() == content
    shown = await call("run", "giver", tool, terminal=True)
    assert "in 3 parts" in shown.stdout and len(shown.stdout) < 200
