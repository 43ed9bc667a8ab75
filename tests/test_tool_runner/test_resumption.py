"""What executed when the orchestrator was killed is found again by the next one."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.harness import TIMEOUT, Harness, eventually
from support.real_runtime import RealRuntime
from test_tool_runner.callers import container, executing, killed, runner

pytestmark = pytest.mark.slow


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """A tool that waits for this file ends when it exists: no sooner, however busy the machine is."""
    return tmp_path / "go"


async def start(harness: Harness, tool: str, **arguments: Any) -> str:
    answer = await harness.client.post(
        f"/v1/plugins/worker/tools/{tool}/run", json=arguments, headers={"Prefer": "respond-async"}
    )
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


async def run_of(harness: Harness, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = (await harness.client.get(f"/v1/runs/{run_id}")).json()
    return run


async def result(harness: Harness, run_id: str, wait: float = 10) -> httpx.Response:
    return await harness.client.get(f"/v1/runs/{run_id}/result", params={"wait": wait})


async def retained_in_container(harness: Harness, run_id: str) -> bool:
    """Once it has ended."""
    async with container(harness, "tools") as tools:
        return (await tools.get(f"/runs/{run_id}")).status_code == 200


@pytest.mark.parametrize(
    ("tool", "arguments", "value"),
    [("nap", {"size": 2}, "xx"), ("count", {"n": 20, "seconds": 0}, list(range(20)))],
)
async def test_a_run_that_executes_goes_on_and_its_result_is_delivered(
    worker: Harness, tool: str, arguments: dict[str, Any], value: Any, go: Path
) -> None:
    """It is running for the next orchestrator too, occupies its slot, and counts once."""
    await worker.open()
    await worker.settled("worker")
    run_id = await start(worker, tool, **arguments, until=str(go))
    await executing(worker, run_id)
    before = await run_of(worker, run_id)
    await killed(worker)
    await worker.open()
    run = await run_of(worker, run_id)
    assert (run["state"], run["started_at"], run["id"]) == ("running", before["started_at"], run["id"])
    assert (await worker.health("worker"))["in_flight"] == 1
    behind = await start(worker, "nap")
    assert (await run_of(worker, behind))["state"] == "queued"
    go.touch()
    assert (await result(worker, run_id)).json()["result"] == value
    assert (await result(worker, behind)).status_code == 200
    assert (await run_of(worker, run_id))["outcome"] == "ok"
    health = await worker.health("worker")
    assert (health["success_count"], health["in_flight"], health["generation"]) == (2, 0, 1)
    assert not await retained_in_container(worker, run_id)


async def test_a_run_that_ended_meanwhile_is_delivered_too(worker: Harness, go: Path) -> None:
    """The container has retained its answer."""
    await worker.open()
    await worker.settled("worker")
    run_id = await start(worker, "nap", size=4, until=str(go))
    await executing(worker, run_id)
    await killed(worker)
    go.touch()
    assert await retained_in_container(worker, run_id)
    await worker.open()
    assert (await result(worker, run_id)).json()["result"] == "xxxx"
    assert (await worker.health("worker"))["success_count"] == 1


async def test_a_run_that_is_found_again_can_be_cancelled(worker: Harness) -> None:
    """As any other; it says how long it executed, under both orchestrators."""
    await worker.open()
    await worker.settled("worker")
    run_id = await start(worker, "wait", seconds=60)
    await executing(worker, run_id)
    reached = asyncio.get_running_loop().time()
    await killed(worker)
    before = asyncio.get_running_loop().time() - reached
    await worker.open()
    await eventually(lambda: run_id in runner(worker)._live, "it is found again")
    cancelling = await worker.client.delete(f"/v1/runs/{run_id}")
    ended = cancelling.json()["state"] == "finished"  # it may have by the time that the request is answered
    assert (cancelling.status_code, cancelling.json()["cancel_requested"]) == (200 if ended else 202, True)
    assert (await result(worker, run_id)).status_code == 409
    run = await run_of(worker, run_id)
    assert (run["state"], run["outcome"]) == ("finished", "cancelled")
    assert run["execution_time_ms"] > before * 1000
    assert (await worker.run("worker", "nap")).status_code == 200


async def test_a_run_that_is_found_again_has_its_progress(worker: Harness) -> None:
    """Its stream broke off with the earlier orchestrator: the container's status has it, and goes on to."""
    await worker.open()
    await worker.settled("worker")
    run_id = await start(worker, "count", n=150, seconds=0.1)
    async with asyncio.timeout(TIMEOUT):
        while (await run_of(worker, run_id))["progress"] is None:
            await asyncio.sleep(0.01)
    await killed(worker)
    await worker.open()
    found = (await run_of(worker, run_id))["progress"]
    assert found["message"] == f"{round(found['fraction'] * 150)} of 150"
    async with asyncio.timeout(2 * TIMEOUT):
        while (run := await run_of(worker, run_id))["progress"] == found:
            await asyncio.sleep(0.05)
    assert run["state"] == "running"
    assert run["progress"]["fraction"] > found["fraction"]
    await worker.client.delete(f"/v1/runs/{run_id}")
    assert (await result(worker, run_id)).status_code == 409


async def test_a_run_that_is_found_again_keeps_its_deadline(worker: Harness) -> None:
    """What it used before counts; its end is a TIMEOUT as ever."""
    worker.write("worker", image="harness/worker", limits={"timeout": "1500ms"})
    await worker.open()
    await worker.settled("worker")
    run_id = await start(worker, "nap", seconds=30)
    await executing(worker, run_id)
    await killed(worker)
    await asyncio.sleep(1)
    opened = asyncio.get_running_loop().time()
    await worker.open()
    answer = await result(worker, run_id)
    assert answer.status_code == 504
    assert asyncio.get_running_loop().time() - opened < 1.5
    assert (await worker.until_removed("worker"))["reason_code"] == "TIMEOUT"


async def test_runs_that_waited_are_interrupted(worker: Harness, go: Path) -> None:
    """Their bodies were lost."""
    await worker.open()
    await worker.settled("worker")
    first, second = await start(worker, "nap", until=str(go)), await start(worker, "nap")
    await executing(worker, first)
    await killed(worker)
    await worker.open()
    await eventually(lambda: second not in runner(worker)._live, "it is given up")
    worker_history = worker.app.state.context.history  # type: ignore[union-attr]
    await worker_history.flush()
    run = await run_of(worker, second)
    assert (run["state"], run["outcome"]) == ("interrupted", "interrupted")
    assert (await result(worker, second, 0)).status_code == 404
    go.touch()
    assert (await result(worker, first)).status_code == 200


async def test_runs_of_removed_containers_are_interrupted(worker: Harness) -> None:
    """Nobody will ever know."""
    await worker.open()
    await worker.settled("worker")
    run_id = await start(worker, "nap", seconds=30)
    await executing(worker, run_id)
    await killed(worker)
    worker.write("worker", version="2.0.0", image="harness/worker")
    for old in worker.engine._containers.values():  # not to be adopted: it does not say what it was made from
        old.status = replace(old.status, labels=_without_manifest(old.status.labels))
    await worker.open()
    await worker.app.state.context.history.flush()  # type: ignore[union-attr]
    assert (await run_of(worker, run_id))["state"] == "interrupted"


async def test_a_run_whose_caller_was_disconnected_holds_its_slot_until_it_ends(worker: Harness, go: Path) -> None:
    """A synchronous one: interrupted in the history, and still in the way of others."""
    await worker.open()
    await worker.settled("worker")
    await worker.shut(containers_stay=True)
    program = worker.runtimes["worker"]
    assert isinstance(program, RealRuntime)
    _, writer = await asyncio.open_unix_connection(str(program.run_dir) + "/tools.sock")
    body = json.dumps({"until": str(go)}).encode()
    head = (
        f"POST /tools/nap HTTP/1.1\r\nX-Run-Id: left\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await writer.drain()
    await executing(worker, "left")
    writer.close()
    await worker.open()
    health = await worker.until("worker", lambda health: health["in_flight"] == 1)
    assert health["state"] == "RUNNING"
    run_id = await start(worker, "nap")
    assert (await run_of(worker, run_id))["state"] == "queued"
    go.touch()
    assert (await result(worker, run_id)).status_code == 200
    health = await worker.health("worker")
    assert (health["in_flight"], health["success_count"], health["error_count"]) == (0, 1, 0)


def _without_manifest(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != "plugin-orchestrator.manifest"}
