"""A test's side: what is true in a block, and that nothing of it is left afterwards."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.client import PluginError, PluginUnavailable, QueueFull
from orchestrator.testing import FaultRefusedError, RunningOrchestrator, calls, item


@pytest.fixture
async def within(simulated) -> Any:
    """Runs a function of the orchestrator in a thread, as a test without asyncio would."""
    simulated.gpus = "2x24GiB"
    simulated.add(queue=1)
    simulated.add("on-gpu", requires_gpu=True)
    simulated.harness.runtimes["gpu-holder"] = simulated.harness.runtimes["on-gpu"]
    client = await simulated.open()

    def with_orchestrator(work: Callable[[RunningOrchestrator], None]) -> None:
        with RunningOrchestrator(str(client.base_url), "") as orchestrator:
            work(orchestrator)

    async def run(work: Callable[[RunningOrchestrator], None]) -> None:
        await asyncio.to_thread(with_orchestrator, work)

    return run


def code_of(orchestrator: RunningOrchestrator, plugin: str = "detector") -> str | None:
    return orchestrator.client.health(plugin)["reason_code"]


async def test_a_fault_in_a_call_is_over_after_the_block(within) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with orchestrator.fault("detector", "CRASHED"), pytest.raises(PluginError):
            orchestrator.client.run("detector", "detect")
        assert orchestrator.client.run("detector", "detect") == 1

    await within(work)


@pytest.mark.parametrize("code", ["INIT_ERROR", "SECRET_MISSING", "ENGINE_UNREACHABLE", "STOPPED", "PARKED"])
async def test_what_needs_no_call_is_there_when_the_block_begins(within, code: str) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with orchestrator.fault("detector", code):
            assert code_of(orchestrator) == code
        assert orchestrator.client.run("detector", "detect") == 1

    await within(work)


@pytest.mark.parametrize("code", ["GPU_NOT_FOUND", "GPU_LOST", "GPU_BUSY"])
async def test_gpus_come_back(within, code: str) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with orchestrator.fault("on-gpu", code):
            assert code_of(orchestrator, "on-gpu") == code
        assert orchestrator.client.run("on-gpu", "detect") == 1

    await within(work)


async def test_a_container_that_cannot_be_killed_is_removed_in_the_end(within) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with orchestrator.fault("detector", "KILL_FAILED"), pytest.raises(PluginError):
            orchestrator.client.run("detector", "detect")
        assert orchestrator.client.run("detector", "detect") == 1

    await within(work)


async def test_a_test_that_fails_in_the_block_leaves_no_fault(within) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with pytest.raises(ZeroDivisionError), orchestrator.fault("detector", "VALIDATE_ERROR"):
            _ = 1 / 0
        assert orchestrator.client.run("detector", "detect") == 1

    await within(work)


async def test_without_restoring_the_plugin_stays_as_it_is(within) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with orchestrator.fault("detector", "VALIDATE_ERROR", restore=False):
            pass
        with pytest.raises(PluginUnavailable):
            orchestrator.client.run("detector", "detect")

    await within(work)


async def test_calls_and_items_that_are_let_pass(within) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with orchestrator.fault("detector", "TOOL_ERROR", tool="detect", after=calls(1)):
            assert orchestrator.client.run("detector", "detect") == 1
            with pytest.raises(PluginError):
                orchestrator.client.run("detector", "detect")
        seen = []
        with orchestrator.fault("detector", "TOOL_ERROR", tool="track", at=item(2)), pytest.raises(PluginError):
            seen += [
                event.data
                for event in orchestrator.client.stream("detector", "track", frames=5)
                if hasattr(event, "data")
            ]
        assert orchestrator.client.run("detector", "track", frames=3) == [0, 1, 2]

    await within(work)


async def test_a_queue_is_full_in_the_block_alone(within) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with orchestrator.queue_full("detector"):
            assert orchestrator.client.health("detector")["queued"] == 1
            with pytest.raises(QueueFull):
                orchestrator.client.run("detector", "detect")
        assert orchestrator.client.run("detector", "detect") == 1

    await within(work)


async def test_a_tool_is_slow_in_the_block_alone(within) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with orchestrator.slow("detector", "300ms"):
            assert orchestrator.client.call("detector", "detect")["execution_time_ms"] > 300
        assert orchestrator.client.call("detector", "detect")["execution_time_ms"] < 300

    await within(work)


async def test_what_a_plugin_cannot_have_is_refused_and_it_goes_on(within) -> None:
    def work(orchestrator: RunningOrchestrator) -> None:
        with pytest.raises(FaultRefusedError, match="gpu=True"), orchestrator.fault("detector", "GPU_BUSY"):
            pass
        assert orchestrator.client.run("detector", "detect") == 1

    await within(work)
