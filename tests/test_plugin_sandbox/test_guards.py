"""Time and memory limits through the whole app: the caller is answered in time, the container is removed after."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.harness import Harness

STACKS = 'Thread 0x1\n  File "/plugin/reader/plugin.py", line 7 in read'


async def hangs() -> None:
    await asyncio.Event().wait()


def measure(image: bytes) -> int:
    return len(image)


async def ready(harness: Harness, *names: str) -> None:
    await harness.open()
    for name in names:
        await harness.settled(name)


async def test_a_run_over_its_limit_is_504_in_time(harness: Harness) -> None:
    """With the limit in the sentence; the plugin is FAILED with TIMEOUT."""
    harness.add("reader", tools={"read": hangs}, limits={"timeout": "200ms"})
    await ready(harness, "reader")
    started = time.monotonic()
    answer = await harness.run("reader", "read")
    took = time.monotonic() - started
    health = await harness.health("reader")
    assert answer.status_code == 504
    assert (answer.json()["reason_code"], answer.json()["source"]) == ("TIMEOUT", "orchestrator")
    assert "0.2 s" in answer.json()["error"]
    assert 0.2 <= took < 2
    assert (health["state"], health["reason_code"], health["error_count"]) == ("FAILED", "TIMEOUT", 1)


async def test_the_caller_does_not_wait_for_the_container_to_stop(harness: Harness) -> None:
    """Answer first, stop after; one that ignores the signal is killed when its grace is over."""
    harness.add("reader", tools={"read": hangs}, limits={"timeout": "100ms"}, ignore_sigterm=True)
    await ready(harness, "reader")
    answer = await harness.run("reader", "read")
    still_there = await harness.containers("reader")
    health = await harness.until_removed("reader")
    assert answer.status_code == 504
    assert len(still_there) == 1
    assert await harness.containers("reader") == []
    assert health["post_mortem"]["signal"] == "SIGKILL"
    assert health["reason_code"] == "TIMEOUT"


async def test_a_timeout_leaves_the_stacks_of_where_it_hung(harness: Harness) -> None:
    """Requested from the container while it still hung."""
    harness.add("reader", tools={"read": hangs}, limits={"timeout": "100ms"}, stacks=STACKS)
    await ready(harness, "reader")
    await harness.run("reader", "read")
    assert (await harness.until_removed("reader"))["post_mortem"]["stacks"] == STACKS


async def test_a_timeout_is_final_under_a_tolerant_policy_too(harness: Harness) -> None:
    """Only raised exceptions are tolerated."""
    harness.add("reader", tools={"read": hangs}, limits={"timeout": "100ms"}, failure_policy="tolerant")
    await ready(harness, "reader")
    await harness.run("reader", "read")
    assert (await harness.health("reader"))["reason_code"] == "TIMEOUT"


async def test_the_default_limits_are_the_operators(harness: Harness) -> None:
    """A plugin that says nothing has them, in its container and in its health."""
    harness.add("reader")
    harness.add("small", limits={"memory": "64MiB", "timeout": "5s"})
    await ready(harness, "reader", "small")
    default, own = await harness.health("reader"), await harness.health("small")
    assert (default["limits"]["timeout_seconds"], default["limits"]["memory_bytes"]) == (60, 1 << 30)
    assert (own["limits"]["timeout_seconds"], own["limits"]["memory_bytes"]) == (5, 64 << 20)
    assert harness.instance("reader").spec.memory == 1 << 30
    assert harness.instance("small").spec.memory == 64 << 20


async def test_a_worker_killed_for_memory_is_502_and_names_the_limit(harness: Harness) -> None:
    """With the limit, and where to raise it."""
    harness.add("reader", tools={"read": hangs}, limits={"memory": "64MiB"})
    await ready(harness, "reader")
    run = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    await harness.instance("reader").worker_exits(signal=9, oom_kills=1)
    answer = await run
    health = await harness.until_removed("reader")
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "OUT_OF_MEMORY")
    assert (health["state"], health["reason_code"]) == ("FAILED", "OUT_OF_MEMORY")
    assert "64 MiB" in health["reason"]
    assert health["post_mortem"]["peak_memory_bytes"] == 2 << 20


async def test_a_helper_killed_for_memory_fails_the_plugin(harness: Harness) -> None:
    """The worker lives, but nobody knows what it lost."""
    harness.add("reader", tools={"read": hangs})
    await ready(harness, "reader")
    instance = harness.instance("reader")
    instance.set_status(memory={**instance.status["memory"], "oom_kills": 1})
    assert (await harness.until_state("reader", "FAILED"))["reason_code"] == "OUT_OF_MEMORY"


async def test_a_worker_killed_from_outside_is_not_out_of_memory(harness: Harness) -> None:
    """SIGKILL alone proves nothing."""
    harness.add("reader")
    await ready(harness, "reader")
    await harness.instance("reader").worker_exits(signal=9)
    assert (await harness.until_state("reader", "FAILED"))["reason_code"] == "KILLED"


async def test_a_container_killed_from_outside_is_found_out_at_once(harness: Harness) -> None:
    """And so is one that was removed."""
    harness.add("reader")
    harness.add("writer")
    await ready(harness, "reader", "writer")
    (killed,) = await harness.containers("reader")
    (removed,) = await harness.containers("writer")
    await harness.engine.kill_outside(killed)
    await harness.engine.remove(removed)
    one = await harness.until_state("reader", "FAILED")
    other = await harness.until_state("writer", "FAILED")
    assert (one["reason_code"], other["reason_code"]) == ("KILLED", "KILLED")


async def test_a_container_killed_for_memory_as_a_whole_is_out_of_memory(harness: Harness) -> None:
    """Its supervisor has ended too: the engine alone can report it."""
    harness.add("reader")
    await ready(harness, "reader")
    (container,) = await harness.containers("reader")
    harness.engine.out_of_memory(container)
    await harness.engine.kill_outside(container)
    assert (await harness.until_state("reader", "FAILED"))["reason_code"] == "OUT_OF_MEMORY"


async def test_a_container_that_leaves_in_the_middle_of_a_run_is_reported_with_its_code(harness: Harness) -> None:
    """The caller and the health agree."""
    harness.add("reader", tools={"read": hangs})
    await ready(harness, "reader")
    run = asyncio.create_task(harness.run("reader", "read"))
    await harness.until("reader", lambda health: health["in_flight"] == 1)
    harness.instance("reader").leave(3)
    answer = await run
    health = await harness.until_state("reader", "FAILED")
    assert (answer.json()["reason_code"], health["reason_code"]) == ("EXITED", "EXITED")
    assert "exit code 3" in health["reason"]


async def test_the_end_of_one_plugin_disturbs_no_other(harness: Harness) -> None:
    """Neither its runs nor its state."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": hangs}, limits={"timeout": "100ms"})
    harness.add("writer", tools={"write": go_on.wait})
    await ready(harness, "reader", "writer")
    writing = asyncio.create_task(harness.run("writer", "write"))
    await harness.until("writer", lambda health: health["in_flight"] == 1)
    await harness.run("reader", "read")
    await harness.until_removed("reader")
    go_on.set()
    assert (await writing).status_code == 200
    assert (await harness.health("writer"))["state"] == "RUNNING"


async def test_a_result_over_the_limit_is_invalid_output(tmp_path: Path) -> None:
    """It is not passed on, and the plugin is FAILED."""
    async with Harness(tmp_path, max_result=10_000) as harness:
        harness.add("reader", tools={"read": lambda: "x" * 100_000})
        await ready(harness, "reader")
        answer = await harness.run("reader", "read")
        assert (answer.status_code, answer.json()["reason_code"]) == (502, "INVALID_OUTPUT")
        assert answer.json()["result"] is None
        assert (await harness.health("reader"))["reason_code"] == "INVALID_OUTPUT"


@pytest.mark.slow
@pytest.mark.parametrize("length", [b"Content-Length: 50", b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
async def test_an_upload_that_stalls_is_408_and_the_plugin_goes_on(tmp_path: Path, length: bytes) -> None:
    """The caller is to blame, whether its body is short, long or of unknown length."""
    async with Harness(tmp_path, upload_idle_timeout="200ms") as harness:
        harness.add("reader", tools={"measure": measure})
        await ready(harness, "reader")
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.client.base_url.port)
        head = b"POST /v1/plugins/reader/tools/measure/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        writer.write(head + length + b"\r\n\r\n4\r\nabcd\r\n")
        status = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        route = "/v1/plugins/reader/tools/measure/run"
        again = await harness.client.post(route, content=b"x" * 10, headers={"content-type": "image/png"})
        assert status.split()[1] == b"408"
        assert (again.status_code, again.json()["result"]) == (200, 10)
        assert (await harness.health("reader"))["error_count"] == 0


async def test_an_upload_may_take_longer_than_the_tool_may(harness: Harness) -> None:
    """The tool's clock stands still while the caller is slow."""

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * 1000
            await asyncio.sleep(0.1)

    harness.add("reader", tools={"measure": measure}, limits={"timeout": "500ms"})
    await ready(harness, "reader")
    route = "/v1/plugins/reader/tools/measure/run"
    answer = await harness.client.post(route, content=slowly(), headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json().get("result")) == (200, 8000)
