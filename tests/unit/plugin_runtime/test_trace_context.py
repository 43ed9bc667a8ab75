"""trace_context: a tool sees the trace that its run belongs to, and never another run's."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

SOURCE = """
    import asyncio, time
    from plugin_runtime import tool, trace_context

    class Plugin:
        def validate(self):
            self.at_start = trace_context()

        @tool
        def plain(self) -> object:
            time.sleep(0.05)
            return trace_context()

        @tool
        async def awaiting(self) -> object:
            await asyncio.sleep(0.05)
            return trace_context()

        @tool
        def yielding(self) -> object:
            for _ in range(2):
                time.sleep(0.02)
                yield trace_context()

        @tool
        async def yielding_async(self) -> object:
            for _ in range(2):
                await asyncio.sleep(0.02)
                yield trace_context()

        @tool
        def changing(self) -> object:
            trace_context()["traceparent"] = "mine"
            return trace_context()

        @tool
        def before_any_run(self) -> object:
            return self.at_start
"""


def headers(number: int) -> dict[str, str]:
    return {"traceparent": f"00-{'1' * 32}-{number:016x}-01", "tracestate": f"vendor={number}"}


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE).ready()


@pytest.mark.parametrize("tool", ["plain", "awaiting", "changing"])
def test_a_tool_sees_its_trace(runtime, tool: str) -> None:
    """Also where it awaits. What it does with the answer changes nothing."""
    assert runtime.post(tool, json={}, headers=headers(1)).json()["result"] == headers(1)


@pytest.mark.parametrize("tool", ["yielding", "yielding_async"])
def test_a_generator_sees_its_trace_at_every_step(runtime, tool: str) -> None:
    lines = runtime.post(tool, json={}, headers=headers(2)).text.splitlines()
    assert sum(headers(2)["traceparent"] in line for line in lines) == 2


def test_a_run_without_a_trace_sees_none(runtime) -> None:
    """Also on a connection that carried one before; nor is there one outside a run."""
    with runtime.new_client("tools") as client:
        assert client.post("/tools/plain", json={}, headers=headers(3)).json()["result"] == headers(3)
        assert client.post("/tools/plain", json={}).json()["result"] == {}
        only = {"traceparent": headers(4)["traceparent"]}
        assert client.post("/tools/plain", json={}, headers=only).json()["result"] == only
    assert runtime.result("before_any_run") == {}


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["plain", "awaiting"])
def test_concurrent_runs_see_their_own_traces(runtime, tool: str) -> None:
    def call(number: int) -> Any:
        with runtime.new_client("tools") as client:
            return client.post(f"/tools/{tool}", json={}, headers=headers(number)).json()["result"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == [headers(number) for number in range(8)]
