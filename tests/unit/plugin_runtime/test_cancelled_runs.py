"""Runs that are cancelled: each kind of tool learns of it in its own way, and none is stopped by force."""

import asyncio
import json
import time

import pytest
from unit.plugin_runtime.run_calls import SOURCE, Caller, about, call_and_hang_up, cancel, executes

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.runtime_client.client import RuntimeChannel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE, concurrency="4").ready()


@pytest.mark.parametrize("tool", ["counts", "acounts"])
def test_a_generator_is_closed_where_it_yields(runtime, tool):
    before = runtime.result("which_closed").split().count(tool)
    caller = Caller(runtime, f"stop-{tool}", tool, n=1000)
    assert cancel(runtime, f"stop-{tool}").status_code == 202
    end = json.loads(caller.ended().text.splitlines()[-1])
    assert (end["event"], end["ok"], end["kind"], end["error_type"]) == ("end", False, "cancelled", "Cancelled")
    assert runtime.result("which_closed").split().count(tool) == before + 1


def test_an_async_tool_is_cancelled_where_it_awaits(runtime):
    before = runtime.result("which_closed").count("waits")
    caller = Caller(runtime, "stop-waits", "waits", seconds=60)
    cancel(runtime, "stop-waits")
    answer = caller.ended()
    assert (answer.status_code, answer.json()["kind"]) == (409, "cancelled")
    assert runtime.result("which_closed").count("waits") == before + 1
    assert runtime.result("waits", seconds=0) == "waited"


@pytest.mark.parametrize("tool", ["looks", "looks_in_a_thread", "gives_up"])
def test_a_plain_tool_that_calls_cancelled_ends(runtime, tool):
    caller = Caller(runtime, f"stop-{tool}", tool)
    time.sleep(0.05)
    cancel(runtime, f"stop-{tool}")
    answer = caller.ended()
    assert (answer.status_code, answer.json()["kind"]) == (409, "cancelled")
    assert "traceback" not in answer.json()


def test_only_the_cancelled_one_of_two_runs_sees_it(runtime):
    first, second = Caller(runtime, "first", "looks"), Caller(runtime, "second", "looks")
    cancel(runtime, "second")
    assert second.ended().status_code == 409
    assert [run["run_id"] for run in runtime.status()["runs"]] == ["first"]
    cancel(runtime, "first")
    assert first.ended().status_code == 409


@pytest.mark.parametrize(("tool", "arguments"), [("will_not", {}), ("never_looks", {"seconds": 0.3})])
def test_a_tool_that_ignores_the_request_has_its_result(runtime, tool, arguments):
    caller = Caller(runtime, f"anyway-{tool}", tool, **arguments)
    cancel(runtime, f"anyway-{tool}")
    assert caller.ended().json()["ok"]


def test_that_it_was_cancelled_is_retained(runtime):
    call_and_hang_up(runtime, "stop-retained", "counts", n=1000)
    cancel(runtime, "stop-retained")
    answer = about(runtime, "GET", "stop-retained")
    assert (answer.status_code, answer.json()["kind"]) == (409, "cancelled")
    again = cancel(runtime, "stop-retained")
    assert (again.status_code, again.json()["ended"]) == (200, True)


@pytest.mark.parametrize("cancelled", [True, False], ids=["after a cancel", "alone"])
async def test_the_orchestrator_can_hang_up_on_a_stream(runtime, cancelled):
    """One whose reader leaves is cancelled too, and either may come first."""
    run_id, seconds = f"left-{cancelled}", []
    channel = RuntimeChannel(UnixEndpoint(runtime.run_dir))
    for _ in range(1 if cancelled else 3):
        call = channel.call(
            "counts", run_id=run_id, content_type="application/json", query="", body=b'{"n": 1000, "seconds": 0.01}'
        )
        async with call as response, asyncio.timeout(10):
            await anext(response.lines())
            if cancelled:
                await channel.cancel(run_id)
                while await asyncio.to_thread(executes, runtime, run_id):
                    await asyncio.sleep(0.01)
            begun = time.monotonic()
            await response.hang_up()
            seconds.append(time.monotonic() - begun)
    await channel.close()
    # Alone, without the two seconds in which an answer would be read: the run counts as executing meanwhile.
    assert cancelled or min(seconds) < 1.5
