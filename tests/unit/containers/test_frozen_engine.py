"""A Docker Engine that is frozen: no caller, no thread and no process hangs with it. Needs no Docker."""

import asyncio
import subprocess
import sys
import time

import pytest
from support.waiting import eventually

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.errors import (
    EngineUnreachableError,
)

from .fake_dockerd import TEST_BOUNDS, engine_threads, frozen_dockerd


async def threads_ended() -> None:
    async def none_left() -> bool:
        return not engine_threads()

    await eventually(none_left)


async def test_a_frozen_engine_blocks_a_caller_no_longer_than_the_bound(tmp_path):
    async with frozen_dockerd(tmp_path / "docker.sock") as environment:
        engine = DockerEngine(environment, bounds=TEST_BOUNDS)
        for call in (engine.info(), engine.kill("x"), engine.remove("x"), engine.start("x"), engine.logs("x", tail=1)):
            started = time.monotonic()
            with pytest.raises(EngineUnreachableError, match=r"within 0\.3 s|timed out"):
                await call
            assert time.monotonic() - started < 0.3 + 2
        started = time.monotonic()
        with pytest.raises(EngineUnreachableError):
            async with engine.events({}):
                pass
        assert time.monotonic() - started < 0.3 + 2
        await engine.close()
    await threads_ended()


async def test_a_frozen_engine_uses_no_more_threads_than_the_pool_has(tmp_path):
    async with frozen_dockerd(tmp_path / "docker.sock") as environment:
        engine = DockerEngine(environment, bounds=TEST_BOUNDS)
        started = time.monotonic()
        calls = [engine.list({}) for _ in range(300)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - started < 5  # one after another on four threads they would take 22
        assert {type(result) for result in results} == {EngineUnreachableError}
        assert len(engine_threads()) <= 4
        await engine.close()
    await threads_ended()


async def test_the_event_loop_continues_while_the_engine_hangs(tmp_path):
    async with frozen_dockerd(tmp_path / "docker.sock") as environment:
        engine = DockerEngine(environment, bounds=TEST_BOUNDS)
        call = asyncio.create_task(engine.info())
        longest, last = 0.0, time.monotonic()
        while not call.done():
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        assert longest < 0.1
        with pytest.raises(EngineUnreachableError):
            await call
        await engine.close()


async def test_a_process_with_calls_in_a_frozen_engine_can_still_exit(tmp_path):
    """The sockets' own time-outs are minutes here; the interpreter must not wait for the threads."""
    code = """
import asyncio, sys
from orchestrator.containers.docker_engine import Bounds, DockerEngine

async def main():
    engine = DockerEngine({"DOCKER_HOST": sys.argv[1]}, bounds=Bounds(query=300))
    calls = [asyncio.create_task(engine.info()) for _ in range(8)]
    calls.append(asyncio.create_task(engine.events({}).__aenter__()))
    await asyncio.sleep(0.2)
    for call in calls:
        call.cancel()

asyncio.run(main())
print("left")
"""
    async with frozen_dockerd(tmp_path / "docker.sock") as environment:
        process = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", code, environment["DOCKER_HOST"]],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert (process.returncode, process.stdout, process.stderr) == (0, "left\n", "")
