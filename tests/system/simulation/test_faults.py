"""Faults on demand: what the orchestrator says is what it says of the real thing, because it is."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.simulation.faults import HOLD_ARGUMENT, Fault

IN_A_CALL = {
    "TOOL_ERROR": 502,
    "INVALID_OUTPUT": 502,
    "GPU_OUT_OF_MEMORY": 502,
    "CRASHED": 502,
    "EXITED": 502,
    "KILLED": 502,
    "KILL_FAILED": 502,
}
"""Those that need no kernel that limits memory, and end at once: the others are in `engine/testing`."""
IN_THE_START = (
    "PACKAGE_MISSING",
    "CUDA_UNAVAILABLE",
    "IMPORT_ERROR",
    "INIT_ERROR",
    "VALIDATE_MISSING",
    "VALIDATE_ERROR",
)
IN_THE_FOLDER = ("MANIFEST_INVALID", "MODEL_MISSING", "MODEL_CORRUPT", "SECRET_MISSING")


@pytest.mark.parametrize(("code", "status"), IN_A_CALL.items())
async def test_a_fault_in_a_call(simulated, detects: Callable[..., Any], code: str, status: int) -> None:
    """Answered with the code, and the plugin has it."""
    simulated.add()
    await simulated.open()
    number = await simulated.arm(code)
    answer = await detects()
    assert answer.status_code == status
    health = await simulated.harness.until("detector", lambda health: health["reason_code"] == code)
    assert health["state"] == "FAILED" and health["simulated"] is True
    if code != "KILL_FAILED":
        assert answer.json()["reason_code"] == code
    await simulated.disarm(number)
    await simulated.harness.until("detector", lambda health: health["reason_code"] != "KILL_FAILED", timeout=20)


@pytest.mark.parametrize("code", [*IN_THE_START, *IN_THE_FOLDER, "ENGINE_UNREACHABLE"])
async def test_a_fault_in_the_start(simulated, code: str) -> None:
    """The plugin ends with the code, and starts again once the fault is taken back."""
    simulated.add(secrets=[])
    client = await simulated.open()
    health = await simulated.started_anew(code)
    assert health["reason_code"] == code, health["reason"]
    assert health["simulated"] is True
    (number,) = (await client.get("/testing")).json()["faults"]
    await simulated.disarm(number)
    await client.post("/v1/plugins/detector/start")
    assert (await simulated.harness.until_state("detector", "INITIALIZED"))["simulated"] is False


async def test_a_reason_names_the_plugins_own_module_and_nothing_of_the_simulation(simulated) -> None:
    simulated.add()
    await simulated.open()
    health = await simulated.started_anew("CUDA_UNAVAILABLE")
    assert health["reason"].startswith("libcudart.so.12 is missing (needed by plugin)")


async def test_a_start_that_never_ends_is_over_soon(simulated) -> None:
    simulated.add()
    await simulated.open()
    health = await simulated.started_anew("STARTUP_TIMEOUT", limit=0.5)
    assert (health["reason_code"], "0.5 s" in health["reason"]) == ("STARTUP_TIMEOUT", True)


async def test_a_run_that_never_ends_takes_the_limit_that_was_given(simulated, detects: Callable[..., Any]) -> None:
    simulated.add()
    client = await simulated.open()
    await client.post("/v1/plugins/detector/stop")
    await simulated.arm("TIMEOUT", limit=0.5)
    await client.post("/v1/plugins/detector/start")
    await simulated.harness.until_state("detector", "INITIALIZED")
    assert (await detects()).status_code == 504


async def test_after_so_many_calls(simulated, detects: Callable[..., Any]) -> None:
    """Of the tool that is named; those of others do not count."""
    simulated.add()
    await simulated.open()
    await simulated.arm("TOOL_ERROR", tool="detect", after=2)
    statuses = [(await detects()).status_code, (await simulated.harness.run("detector", "track", frames=1)).status_code]
    statuses += [(await detects()).status_code for _ in range(2)]
    assert statuses == [200, 200, 200, 502]


async def test_after_so_many_items_of_a_stream(simulated) -> None:
    simulated.add()
    client = await simulated.open()
    await simulated.arm("CRASHED", tool="track", at=3)
    answer = await client.post(
        "/v1/plugins/detector/tools/track/run", json={"frames": 9}, headers={"Accept": "application/x-ndjson"}
    )
    *items, end = [line for line in answer.text.splitlines() if "heartbeat" not in line]
    assert [line.count('"item"') for line in items] == [1, 1, 1]
    assert '"CRASHED"' in end


async def test_a_tool_that_refuses_its_input_goes_on(simulated, detects: Callable[..., Any]) -> None:
    simulated.add()
    await simulated.open()
    number = await simulated.arm("InvalidInput")
    assert (await detects()).status_code == 422
    await simulated.disarm(number)
    assert (await detects()).status_code == 200


async def test_a_slow_tool_takes_so_much_longer(simulated, detects: Callable[..., Any]) -> None:
    simulated.add()
    await simulated.open()
    await simulated.arm("SLOW", delay=0.3)
    assert (await detects()).json()["execution_time_ms"] > 300


async def test_a_full_queue_is_full_of_real_runs(simulated, detects: Callable[..., Any]) -> None:
    """They end when they are let go."""
    simulated.add(queue=2)
    client = await simulated.open()
    number = await simulated.arm("HOLD")
    path, body, headers = "/v1/plugins/detector/tools/detect/run", {HOLD_ARGUMENT: True}, {"Prefer": "respond-async"}
    answers = [await client.post(path, json=body, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3
    refused = await detects()
    assert (refused.status_code, refused.json()["error_type"]) == (429, "QueueFull")
    assert int(refused.headers["Retry-After"]) >= 1
    await simulated.disarm(number)
    await simulated.harness.until("detector", lambda health: not health["in_flight"] and not health["queued"])
    assert (await detects()).status_code == 200


async def test_a_plugin_that_stands_in_takes_any_arguments(simulated, detects: Callable[..., Any]) -> None:
    simulated.add()
    simulated.stand_ins = frozenset({"detector"})
    await simulated.open()
    answer = await detects(image="?", anything=[1])
    assert (answer.status_code, answer.json()["result"]) == (200, 1)
    assert (await simulated.harness.health("detector"))["simulated"] is True


async def test_faults_that_are_there_from_the_start_on(simulated) -> None:
    simulated.add()
    simulated.faults = (Fault("detector", "VALIDATE_ERROR"),)
    await simulated.harness.open()
    health = await simulated.harness.until("detector", lambda health: health["reason_code"] is not None)
    assert health["reason_code"] == "VALIDATE_ERROR"


async def test_they_outlive_the_orchestrator(simulated, detects: Callable[..., Any]) -> None:
    """One that is killed is started with them, and its plugins still carry them."""
    simulated.add()
    await simulated.open()
    number = await simulated.arm("TOOL_ERROR")
    await simulated.harness.shut(containers_stay=True)
    client = await simulated.open()
    assert list((await client.get("/testing")).json()["faults"]) == [number]
    await simulated.disarm(number)
    assert (await detects()).status_code == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"plugin": "nobody", "code": "CRASHED"}, "no plugin nobody"),
        ({"plugin": "detector", "code": "OOM"}, "no reason code"),
        ({"plugin": "detector", "code": "GPU_LOST"}, "has no GPU"),
        ({"plugin": "detector", "code": "CRASHED", "tool": "detct"}, "Its tools: detect, track"),
        ({"code": "CRASHED"}, "a plugin"),
    ],
)
async def test_what_cannot_be_is_refused_in_a_sentence(simulated, fields: dict[str, Any], words: str) -> None:
    simulated.add()
    client = await simulated.open()
    answer = await client.post("/testing/faults", json=fields)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "FaultRefused")
    assert words in answer.json()["error"]
    await asyncio.sleep(0)
    assert (await client.get("/testing")).json()["faults"] == {}
