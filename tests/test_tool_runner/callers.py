"""Requests of a caller that does not wait for its run."""

import asyncio
import time
from typing import Any

import httpx
from support.harness import Harness

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
