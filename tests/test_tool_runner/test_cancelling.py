"""Runs that are cancelled: requested to end first, and their container stopped where they do not."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.harness import Harness
from test_tool_runner.callers import RUN_ID, result, run_of, start, until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("tool", "arguments"), [("wait", {"seconds": 60}), ("count", {"n": 1000}), ("looks", {})])
async def test_a_run_that_executes_is_requested_to_end(worker: Harness, tool: str, arguments: dict[str, Any]) -> None:
    """And its plugin goes on."""
    await worker.open()
    run_id = (await start(worker, tool, **arguments)).json()["run_id"]
    await until(worker, run_id, "running")
    cancelling = await worker.client.delete(f"/v1/runs/{run_id}")
    ended = cancelling.json()["state"] == "finished"  # it may have by the time that the request is answered
    assert (cancelling.status_code, cancelling.json()["cancel_requested"]) == (200 if ended else 202, True)
    answer = await result(worker, run_id)
    assert (answer.status_code, answer.json()["error_type"]) == (409, "Cancelled")
    assert (await run_of(worker, run_id))["outcome"] == "cancelled"
    assert (await worker.client.delete(f"/v1/runs/{run_id}")).status_code == 200
    again = await worker.run("worker", "nap", size=1)
    assert again.json()["result"] == "x", again.text
    health = await worker.health("worker")
    assert (health["generation"], health["error_count"], health["in_flight"]) == (1, 0, 0)


async def test_a_run_that_does_not_end_costs_its_container(worker: Harness) -> None:
    """STOPPED, and by which run; the run is cancelled all the same."""
    await worker.open()
    run_id = (await start(worker, "nap", seconds=30)).json()["run_id"]
    await until(worker, run_id, "running")
    started = time.monotonic()
    await worker.client.delete(f"/v1/runs/{run_id}")
    run = await until(worker, run_id, "finished")
    assert 0.3 < time.monotonic() - started < 2
    assert (run["outcome"], run["reason_code"]) == ("cancelled", "STOPPED")
    assert run["execution_time_ms"] > 300
    health = await worker.until_removed("worker")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "STOPPED")
    assert run_id in health["reason"]
    assert "did not stop within 0.4 s" in health["reason"]
    assert (await result(worker, run_id)).status_code == 409


async def test_a_synchronous_run_can_be_looked_up_and_cancelled_too(worker: Harness) -> None:
    """By the id that its caller chose."""
    await worker.open()
    await worker.settled("worker")
    call = asyncio.create_task(
        worker.client.post("/v1/plugins/worker/tools/wait/run", json={"seconds": 60}, headers={"X-Run-Id": RUN_ID})
    )
    await worker.until("worker", lambda health: health["in_flight"] == 1)
    run = await run_of(worker, RUN_ID)
    assert (run["state"], run["asynchronous"]) == ("running", False)
    await worker.client.delete(f"/v1/runs/{RUN_ID}")
    answer = await call
    assert (answer.status_code, answer.headers["X-Run-Id"]) == (409, RUN_ID)
    no_result = await worker.client.get(f"/v1/runs/{RUN_ID}/result")
    assert (no_result.status_code, no_result.json()["error_type"]) == (404, "NoResult")


async def test_a_cancelled_upload_ends_and_costs_nothing(worker: Harness) -> None:
    """It has not reached the tool."""
    await worker.open()
    await worker.settled("worker")
    hold = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await hold.wait()

    call = asyncio.create_task(
        worker.client.post(
            "/v1/plugins/worker/tools/measure/run",
            content=body(),
            headers={"Content-Type": "image/png", "X-Run-Id": RUN_ID},
        )
    )
    await worker.until("worker", lambda health: health["in_flight"] == 1)
    await worker.client.delete(f"/v1/runs/{RUN_ID}")
    run = await until(worker, RUN_ID, "finished")
    assert (run["outcome"], run["reason_code"]) == ("cancelled", None)
    hold.set()
    await asyncio.gather(call, return_exceptions=True)
    assert (await worker.run("worker", "nap")).status_code == 200


async def disconnected(worker: Harness, tool: str, headers: dict[str, str], **arguments: Any) -> str:
    """The id of a run whose caller hung up while it executed."""
    route = f"/v1/plugins/worker/tools/{tool}/run"
    call = asyncio.create_task(worker.client.post(route, json=arguments, headers=headers))
    await worker.until("worker", lambda health: health["in_flight"] == 1)
    await asyncio.sleep(0.2)  # until the caller is watched
    run_id = (await worker.client.get("/v1/runs")).json()[0]["run_id"]
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    return str(run_id)


@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson"])
@pytest.mark.parametrize(("tool", "arguments"), [("wait", {"seconds": 60}), ("count", {"n": 1000}), ("looks", {})])
async def test_a_caller_that_hangs_up_cancels_a_run_that_can_be(
    worker: Harness, tool: str, arguments: dict[str, Any], accept: str
) -> None:
    """Its slot is free at once, and its plugin goes on."""
    await worker.open()
    await worker.settled("worker")
    run_id = await disconnected(worker, tool, {"accept": accept}, **arguments)
    run = await until(worker, run_id, "finished")
    assert (run["outcome"], run["reason_code"], run["cancel_requested"]) == ("caller_gone", None, False)
    assert (await worker.run("worker", "nap", size=1)).json()["result"] == "x"
    health = await worker.health("worker")
    assert (health["generation"], health["error_count"], health["in_flight"]) == (1, 0, 0)


async def test_a_plain_tool_goes_on_to_its_end_without_its_caller(worker: Harness) -> None:
    """Its container is not stopped for that, and the run counts."""
    await worker.open()
    await worker.settled("worker")
    run_id = await disconnected(worker, "nap", {}, seconds=1)
    run = await until(worker, run_id, "finished")
    assert (run["outcome"], run["execution_time_ms"] >= 1000) == ("ok", True)
    health = await worker.health("worker")
    assert (health["state"], health["success_count"]) == ("RUNNING", 1)


@pytest.mark.parametrize("tool", ["wait", "looks"])
async def test_a_run_whose_caller_chose_its_id_goes_on_without_it(worker: Harness, tool: str) -> None:
    """The caller may come back for it, until somebody cancels it."""
    await worker.open()
    await worker.settled("worker")
    arguments = {"seconds": 1.5} if tool == "wait" else {}
    run_id = await disconnected(worker, tool, {"X-Run-Id": RUN_ID}, **arguments)
    assert run_id == RUN_ID
    await asyncio.sleep(0.5)
    assert (await run_of(worker, RUN_ID))["state"] == "running"
    if tool == "looks":
        await worker.client.delete(f"/v1/runs/{RUN_ID}")
    run = await until(worker, RUN_ID, "finished")
    assert run["outcome"] == ("ok" if tool == "wait" else "cancelled")


async def test_an_asynchronous_run_goes_on_without_its_caller(worker: Harness) -> None:
    """It has been answered long ago."""
    await worker.open()
    run_id = (await start(worker, "wait", seconds=0.6)).json()["run_id"]
    assert (await until(worker, run_id, "finished"))["outcome"] == "ok"
