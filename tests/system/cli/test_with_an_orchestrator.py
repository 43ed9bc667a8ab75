"""The commands against the whole orchestrator: what they print, what they save, and their exit codes."""

import asyncio
import base64
import json
import signal
import sys

import pytest
from typer.testing import CliRunner

from orchestrator.cli import commands, connection, console

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)


def greet(name: str, times: int = 1, tags: list = ()):
    return " ".join([f"Hello, {name}!"] * times) + "".join(tags)


def draw():
    return {"boxes": [1], "picture": base64.b64encode(PICTURE).decode(), "also": ["data:text/plain;base64,aGk="]}


def weigh(file: bytes):
    return len(file)


def count(to: int):
    for number in range(to):
        yield {"event": "progress", "fraction": number / to, "message": "on"}
        yield {"number": number}


async def runs_on():
    while True:
        yield 1
        await asyncio.sleep(0.01)


TOOLS = {tool.__name__: tool for tool in (greet, draw, weigh, count, runs_on)}


@pytest.fixture
async def call(harness, monkeypatch):
    harness.add("echo", tools=TOOLS, queue=0)
    harness.write_raw("broken", "version: [")
    await harness.open()
    await harness.settled("echo")
    monkeypatch.setenv("ORCHESTRATOR_URL", str(harness.client.base_url))
    for output in (console.console, console.errors):
        monkeypatch.setattr(output, "width", 80)

    async def call(*arguments, code=0, stdin=None):
        result = await asyncio.to_thread(
            CliRunner().invoke, commands.command_line(), [str(one) for one in arguments], input=stdin
        )
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


async def test_values_are_read_by_their_parameters_types(call):
    assert (await call("run", "echo", "greet", "-p", "name=42", "-p", "times=2")).stdout == "Hello, 42! Hello, 42!\n"
    assert (await call("run", "echo", "weigh", "-i", "file=-", stdin=b"12345")).stdout == "5\n"


async def test_the_items_of_a_stream_are_printed_as_they_come_or_collected_for_json(call):
    raw = await call("run", "echo", "count", "-p", "to=2", "--raw")
    assert raw.stdout == '{"number": 0}\n{"number": 1}\n'
    envelope = json.loads((await call("run", "echo", "count", "-p", "to=2", "--json")).stdout)
    assert envelope["ok"] and envelope["result"] == [{"number": 0}, {"number": 1}]


async def test_pictures_in_a_result_are_saved_and_named_in_it(call, tmp_path):
    shown = json.loads((await call("run", "echo", "draw", "-o", tmp_path / "out", "--raw")).stdout)
    assert shown["boxes"] == [1]
    assert (tmp_path / "out" / "draw-picture.png").read_bytes() == PICTURE
    assert shown["picture"] == str(tmp_path / "out" / "draw-picture.png")
    assert (tmp_path / "out" / "draw-also-1.txt").read_bytes() == b"hi"


@pytest.mark.slow
async def test_each_kind_of_failure_has_its_exit_code(call, harness, monkeypatch):
    assert "MANIFEST_INVALID" in (await call("run", "broken", "x", code=4)).stderr
    assert json.loads((await call("run", "broken", "x", "--json", code=4)).stdout)["ok"] is False
    assert "UnknownTool" in (await call("run", "echo", "sing", code=1)).stderr
    await call("run", "echo", "greet", "-p", "name", code=2)
    await call("run", "echo", "greet", "-p", "name=a", "-i", f"name={__file__}", code=2)
    await call("health", "broken", code=1)
    run_id = (await call("run", "echo", "runs_on", "--async")).stdout.strip()
    await harness.until("echo", lambda health: health["in_flight"] == 1)
    assert "QueueFull" in (await call("run", "echo", "weigh", "-i", f"file={__file__}", code=5)).stderr
    await call("runs", "cancel", run_id)
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://127.0.0.1:1")
    assert "No orchestrator answers" in (await call("plugins", code=3)).stderr


async def test_a_run_is_started_looked_up_and_its_result_fetched(call):
    run_id = (await call("run", "echo", "greet", "-p", "name=Ada", "--async")).stdout.strip()
    assert (await call("runs", "result", run_id, "--wait", "5")).stdout == "Hello, Ada!\n"
    shown = (await call("runs", "show", run_id)).stdout
    assert run_id in shown and "finished" in shown
    listed = (await call("runs")).stdout.splitlines()
    assert listed[0].split()[:2] == ["RUN", "PLUGIN"] and max(map(len, listed)) <= 80
    short = listed[1].split()[0]
    assert run_id.startswith(short) and run_id in (await call("runs", "show", short)).stdout
    assert "has ended: ok" in (await call("runs", "cancel", run_id)).stdout
    assert "UnknownRun" in (await call("runs", "show", "0" * 32, code=1)).stderr


async def test_commands_show_their_outcome(call):
    assert "INITIALIZED" in (await call("restart", "echo", "--wait", "5")).stdout
    stopped = (await call("stop", "echo")).stdout
    assert "UNAVAILABLE" in stopped and "STOPPED" in stopped
    assert "MANIFEST_INVALID" in (await call("restart", "broken", code=1)).stdout
    events = (await call("events", "echo")).stdout
    assert "#2  INITIALIZED" in events and "STOPPED: " in events
    assert [event["plugin"] for event in json.loads((await call("events", "-n", "2", "--json")).stdout)]


async def test_names_are_completed(call):
    assert await asyncio.to_thread(connection.complete_plugin, "b") == ["broken"]


@pytest.mark.slow
async def test_watching_and_following_print_a_line_a_change(call):
    programs = {}
    for arguments in (("plugins", "--watch"), ("events", "-f", "--json", "-n", "1")):
        programs[arguments[0]] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "orchestrator", *arguments, stdout=asyncio.subprocess.PIPE
        )
    watched, followed = programs["plugins"].stdout, programs["events"].stdout
    try:
        async with asyncio.timeout(60):
            first = [(await watched.readline()).decode() for _ in range(2)]
            assert any("  echo  INITIALIZED\n" in line for line in first)
            assert any("  broken  FAILED  MANIFEST_INVALID: " in line for line in first)
            assert json.loads(await followed.readline())["state"] == "INITIALIZED"
            await call("stop", "echo")
            assert "  echo  UNAVAILABLE  STOPPED: " in (await watched.readline()).decode()
            assert json.loads(await followed.readline())["reason_code"] == "STOPPED"
    finally:
        for program in programs.values():
            program.send_signal(signal.SIGINT)
        codes = [await program.wait() for program in programs.values()]
    assert codes == [130, 130]
