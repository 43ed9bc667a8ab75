"""What executed when the orchestrator was killed is found again by the next one."""

import asyncio
import shutil
from typing import Any

import httpx
import pytest
from support.house import House, eventually
from support.real_runtime import RealRuntime

from orchestrator.tools.tool_runner import ToolRunner

pytestmark = pytest.mark.slow


def runner(house: House) -> ToolRunner:
    assert house.app is not None
    found = house.app.state.context.tool_runner
    assert isinstance(found, ToolRunner)
    return found


async def killed(house: House) -> None:
    """The orchestrator is gone from one moment to the next: its files are as they were then, its containers go on."""
    assert house.app is not None
    await house.app.state.context.history.flush()
    state, snapshot = house.settings.state_dir, house.settings.state_dir.with_name("snapshot")
    await asyncio.to_thread(shutil.copytree, state, snapshot)
    tasks = tuple(runner(house)._tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await house.shut(containers_stay=True)
    shutil.rmtree(state)
    snapshot.rename(state)


async def begin(house: House, tool: str, **arguments: Any) -> str:
    answer = await house.client.post(
        f"/v1/plugins/worker/tools/{tool}/run", json=arguments, headers={"Prefer": "respond-async"}
    )
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


async def run_of(house: House, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = (await house.client.get(f"/v1/runs/{run_id}")).json()
    return run


async def executing(house: House, run_id: str) -> None:
    await eventually(lambda: run_id in runner(house)._live, "it is there")
    deadline = asyncio.get_running_loop().time() + 5
    while (await run_of(house, run_id))["state"] != "running":
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # from the orchestrator to the tool


async def result(house: House, run_id: str, wait: float = 10) -> httpx.Response:
    return await house.client.get(f"/v1/runs/{run_id}/result", params={"wait": wait})


async def kept_in_container(house: House, run_id: str) -> bool:
    program = house.runtimes["worker"]
    assert isinstance(program, RealRuntime)
    transport = httpx.AsyncHTTPTransport(uds=str(program.run_dir) + "/tools.sock")
    async with httpx.AsyncClient(transport=transport, trust_env=False, verify=False) as container:
        return (await container.get(f"http://plugin/runs/{run_id}")).status_code == 200


@pytest.mark.parametrize(
    ("tool", "arguments", "value"),
    [("nap", {"seconds": 1.5, "size": 2}, "xx"), ("count", {"n": 20}, list(range(20)))],
)
async def test_a_run_that_executes_goes_on_and_its_result_is_delivered(
    worker: House, tool: str, arguments: dict[str, Any], value: Any
) -> None:
    """It is running for the next orchestrator too, holds its turn, and counts once."""
    await worker.open()
    await worker.settled("worker")
    run_id = await begin(worker, tool, **arguments)
    await executing(worker, run_id)
    before = await run_of(worker, run_id)
    await killed(worker)
    await worker.open()
    run = await run_of(worker, run_id)
    assert (run["state"], run["started_at"], run["id"]) == ("running", before["started_at"], run["id"])
    assert (await worker.health("worker"))["in_flight"] == 1
    behind = await begin(worker, "nap")
    assert (await run_of(worker, behind))["state"] == "queued"
    assert (await result(worker, run_id)).json()["result"] == value
    assert (await result(worker, behind)).status_code == 200
    assert (await run_of(worker, run_id))["outcome"] == "ok"
    health = await worker.health("worker")
    assert (health["success_count"], health["in_flight"], health["generation"]) == (2, 0, 1)
    assert not await kept_in_container(worker, run_id)


async def test_a_run_that_ended_meanwhile_is_delivered_too(worker: House) -> None:
    """The container has kept what came of it."""
    await worker.open()
    await worker.settled("worker")
    run_id = await begin(worker, "nap", seconds=0.2, size=4)
    await executing(worker, run_id)
    await killed(worker)
    await asyncio.sleep(0.4)
    await worker.open()
    assert (await result(worker, run_id)).json()["result"] == "xxxx"
    assert (await worker.health("worker"))["success_count"] == 1


async def test_a_run_that_is_found_again_can_be_cancelled(worker: House) -> None:
    """As any other."""
    await worker.open()
    await worker.settled("worker")
    run_id = await begin(worker, "wait", seconds=60)
    await executing(worker, run_id)
    await killed(worker)
    await worker.open()
    await eventually(lambda: run_id in runner(worker)._live, "it is found again")
    assert (await worker.client.delete(f"/v1/runs/{run_id}")).status_code == 202
    assert (await result(worker, run_id)).status_code == 409
    assert (await worker.run("worker", "nap")).status_code == 200


async def test_a_run_that_is_found_again_keeps_its_deadline(worker: House) -> None:
    """What it used before counts; its end is a TIMEOUT as ever."""
    worker.write("worker", image="house/worker", limits={"timeout": "1500ms"})
    await worker.open()
    await worker.settled("worker")
    run_id = await begin(worker, "nap", seconds=30)
    await executing(worker, run_id)
    begun = asyncio.get_running_loop().time()
    await killed(worker)
    await asyncio.sleep(0.5)
    await worker.open()
    answer = await result(worker, run_id)
    assert answer.status_code == 504
    assert asyncio.get_running_loop().time() - begun < 2.2
    assert (await worker.buried("worker"))["reason_code"] == "TIMEOUT"


async def test_runs_that_waited_are_interrupted(worker: House) -> None:
    """Their bodies are gone."""
    await worker.open()
    await worker.settled("worker")
    first, second = await begin(worker, "nap", seconds=1), await begin(worker, "nap")
    await executing(worker, first)
    await killed(worker)
    await worker.open()
    await eventually(lambda: second not in runner(worker)._live, "it is given up")
    worker_history = worker.app.state.context.history  # type: ignore[union-attr]
    await worker_history.flush()
    run = await run_of(worker, second)
    assert (run["state"], run["outcome"]) == ("interrupted", "interrupted")
    assert (await result(worker, second, 0)).status_code == 404
    assert (await result(worker, first)).status_code == 200


async def test_runs_of_containers_that_are_gone_are_interrupted(worker: House) -> None:
    """Nobody will ever know."""
    await worker.open()
    await worker.settled("worker")
    run_id = await begin(worker, "nap", seconds=30)
    await executing(worker, run_id)
    await killed(worker)
    worker.write("worker", version="2.0.0", image="house/worker")  # not to be adopted
    await worker.open()
    await worker.app.state.context.history.flush()  # type: ignore[union-attr]
    assert (await run_of(worker, run_id))["state"] == "interrupted"


async def test_a_run_whose_caller_is_gone_holds_its_turn_until_it_ends(worker: House) -> None:
    """A synchronous one: interrupted in the history, and still in the way of others."""
    await worker.open()
    await worker.settled("worker")
    await worker.shut(containers_stay=True)
    program = worker.runtimes["worker"]
    assert isinstance(program, RealRuntime)
    _, writer = await asyncio.open_unix_connection(str(program.run_dir) + "/tools.sock")
    body = b'{"seconds": 0.8}'
    head = (
        f"POST /tools/nap HTTP/1.1\r\nX-Run-Id: left\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await worker.open()
    health = await worker.until("worker", lambda health: health["in_flight"] == 1)
    assert health["state"] == "RUNNING"
    run_id = await begin(worker, "nap")
    assert (await run_of(worker, run_id))["state"] == "queued"
    assert (await result(worker, run_id)).status_code == 200
    health = await worker.health("worker")
    assert (health["in_flight"], health["success_count"], health["error_count"]) == (0, 1, 0)
