"""Requests of a caller that does not wait for its run."""

import asyncio
import shutil
import time
from typing import Any

import httpx
from support.harness import TIMEOUT, Harness
from support.real_runtime import RealRuntime

from orchestrator.tools.tool_runner import ToolRunner

RUN_ID = "0123456789abcdef" * 2


async def start(harness: Harness, tool: str, **arguments: Any) -> httpx.Response:
    return await harness.client.post(
        f"/v1/plugins/worker/tools/{tool}/run", json=arguments, headers={"Prefer": "respond-async"}
    )


async def run_of(harness: Harness, run_id: str) -> dict[str, Any]:
    answer = await harness.client.get(f"/v1/runs/{run_id}")
    assert answer.status_code == 200, answer.text
    run: dict[str, Any] = answer.json()
    return run


async def until(harness: Harness, run_id: str, state: str) -> dict[str, Any]:
    run: dict[str, Any] = {}
    deadline = time.monotonic() + 10
    while (run := await run_of(harness, run_id))["state"] != state:
        assert time.monotonic() < deadline, run
        await asyncio.sleep(0.01)
    return run


async def result(harness: Harness, run_id: str, wait: float = 10) -> httpx.Response:
    return await harness.client.get(f"/v1/runs/{run_id}/result", params={"wait": wait})


def runner(harness: Harness) -> ToolRunner:
    assert harness.app is not None
    found = harness.app.state.context.tool_runner
    assert isinstance(found, ToolRunner)
    return found


async def killed(harness: Harness) -> None:
    """The orchestrator dies at this moment: its files are as they were then, its containers go on."""
    assert harness.app is not None
    await harness.app.state.context.history.flush()
    state, snapshot = harness.settings.state_dir, harness.settings.state_dir.with_name("snapshot")
    await asyncio.to_thread(shutil.copytree, state, snapshot)
    tasks = tuple(runner(harness)._tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await harness.shut(containers_stay=True)
    shutil.rmtree(state)
    snapshot.rename(state)


def container(harness: Harness, socket: str, plugin: str = "worker") -> httpx.AsyncClient:
    """A client of the plugin's own socket."""
    program = harness.runtimes[plugin]
    assert isinstance(program, RealRuntime)
    transport = httpx.AsyncHTTPTransport(uds=f"{program.run_dir}/{socket}.sock")
    return httpx.AsyncClient(transport=transport, base_url="http://plugin", trust_env=False, verify=False)


async def executing(harness: Harness, run_id: str, plugin: str = "worker") -> None:
    """The tool has been reached: an orchestrator that is killed before that leaves nothing to be found."""
    async with container(harness, "control", plugin) as control, asyncio.timeout(4 * TIMEOUT):
        while run_id not in [run["run_id"] for run in (await control.get("/status")).json()["runs"]]:
            await asyncio.sleep(0.005)
