"""While an image is built, every command says so: what goes on, for how long, and the newest line of it."""

import asyncio
import json

import pytest
from support.harness import eventually
from support.slow_builds import SlowBuilds
from typer.testing import CliRunner

from orchestrator.cli import commands, console

BUILDING = "building its image for 0 s: Collecting torch"


@pytest.fixture
async def begin(harness, monkeypatch):
    """Begin a command of the command line: a task with its result."""
    harness.add("echo", image="base", tools={"echo": lambda: "hello"}, files={"code.py": b"x = 0\n"})
    await harness.open()
    await harness.settled("echo")
    monkeypatch.setenv("ORCHESTRATOR_URL", str(harness.client.base_url))
    for output in (console.console, console.errors):
        monkeypatch.setattr(output, "width", 200)

    def begin(*arguments):
        return asyncio.create_task(
            asyncio.to_thread(CliRunner().invoke, commands.command_line(arguments[0]), list(arguments))
        )

    return begin


def edit(harness, text="x = 1\n"):
    (harness.plugins / "echo" / "code.py").write_text(text)


async def test_a_restart_into_a_pipe_prints_a_line_now_and_then(begin, harness):
    """And waits on beyond ten minutes where it is told to."""
    builds = SlowBuilds(harness)
    edit(harness)
    restarting = begin("restart", "echo", "--wait", "3600")
    await eventually(lambda: bool(builds.begun), "a build")
    await asyncio.sleep(2.5)  # so that it asks more than once
    assert not restarting.done()
    builds.go_on()
    result = await restarting
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("echo: building its image for ")
    assert len(result.stderr.splitlines()) == 1
    assert "INITIALIZED" in result.stdout


async def test_a_start_does_so_too(begin, harness):
    await begin("stop", "echo")
    builds = SlowBuilds(harness)
    edit(harness)
    starting = begin("start", "echo", "--wait", "3600")
    await harness.until("echo", lambda health: (health["reason"] or "").startswith("building its image"))
    await asyncio.sleep(1.5)
    builds.go_on()
    result = await starting
    assert (result.exit_code, result.stderr.count("echo: building its image for ")) == (0, 1)


async def test_what_still_goes_on_at_the_end_of_the_wait_is_said(begin, harness):
    """The old instance serves, which is no failure."""
    SlowBuilds(harness)
    edit(harness)
    result = await begin("restart", "echo", "--wait", "0.2")
    assert result.exit_code == 0
    assert "the old one serves until then" in result.stderr
    assert BUILDING[:18] in result.stdout


async def test_a_refused_restart_says_why_and_that_the_old_instance_goes_on(begin, harness):
    harness.write("echo", image="base", secrets=["TOKEN"])
    result = await begin("restart", "echo")
    assert result.exit_code == 1
    assert "echo was not restarted: what runs goes on." in result.stderr
    assert "SECRET_MISSING: The secret 'TOKEN'" in result.stderr
    shown = (await begin("health", "echo")).stdout
    assert "Its restart was refused, so instance 1 goes on." in shown
    assert "FAIL SECRET_MISSING" in shown
    assert "The restart was refused: The secret 'TOKEN'" in (await begin("events", "echo")).stdout


async def test_a_build_that_fails_while_the_command_waits_is_refused_as_well(begin, harness):
    builds = SlowBuilds(harness)
    edit(harness)
    harness.engine.image_store.build_error = "ERROR: No matching distribution found for nothing==1"
    restarting = begin("restart", "echo")
    await eventually(lambda: bool(builds.begun), "a build")
    await asyncio.sleep(1.5)
    builds.go_on()
    result = await restarting
    assert result.exit_code == 1
    assert "BUILD_FAILED: The image echo could not be built: No matching distribution found" in result.stderr
    printed = (await begin("logs", "echo", "--build")).stdout
    assert "Collecting torch\n" in printed
    assert "No matching distribution found for nothing==1" in printed


async def test_health_plugins_and_events_say_so(begin, harness):
    builds = SlowBuilds(harness)
    edit(harness)
    await begin("restart", "echo", "--wait", "0")
    await harness.until("echo", lambda health: (health["reason"] or "").endswith("Collecting torch"))
    for command in (("health", "echo"), ("plugins",)):
        result = await begin(*command)
        assert (result.exit_code, "Collecting torch" in result.stdout) == (0, True), result.output
    shown = json.loads((await begin("health", "echo", "--json")).stdout)
    assert (shown["state"], shown["activity"]["line"]) == ("INITIALIZED", "Collecting torch")
    builds.go_on()
    await harness.until("echo", lambda health: health["generation"] == 2 and health["state"] != "LOADED")
    events = (await begin("events", "echo")).stdout
    assert events.index("building its image") < events.index("built its image in ")


async def test_the_log_of_a_first_instance_is_its_build_until_there_is_a_container(begin, harness):
    await begin("stop", "echo")
    builds = SlowBuilds(harness)
    edit(harness)
    await begin("start", "echo", "--wait", "0")
    await eventually(lambda: bool(builds.begun), "a build")
    assert (await begin("logs", "echo")).stdout == "Collecting torch\n"
    builds.go_on()
    await harness.settled("echo")
    assert "Collecting torch" not in (await begin("logs", "echo")).stdout
    assert "Collecting torch\n" in (await begin("logs", "echo", "--build")).stdout


async def test_a_build_cannot_be_followed(begin):
    result = await begin("logs", "echo", "--build", "-f")
    assert result.exit_code == 2
