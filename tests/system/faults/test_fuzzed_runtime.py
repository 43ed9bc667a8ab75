"""Containers whose sockets send nonsense: their plugin may fail, no other does, and the API meets its contract."""

import asyncio
import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
from support.harness import Harness
from support.mutations import corrupted, mutated
from support.scripted_runtime import READY

from orchestrator.containers.memory import ProgramHandle
from orchestrator.containers.spec import ContainerSpec

pytestmark = pytest.mark.slow

PLUGINS = 8
RUNS = 4
STATUS = {
    **READY,
    "tools": [
        {"name": "read", "description": "", "input_schema": {"type": "object"}, "streaming": False, "uploads": {}}
    ],
}
RESULT = b'{"ok": true, "result": {"text": "abc"}, "execution_time_ms": 1.8}'
EVENTS = b'{"event": "item", "data": 1}\n{"event": "end", "ok": true, "items": 1, "execution_time_ms": 2}\n'
IN_THE_CONTRACT = {200, 404, 409, 413, 422, 429, 502, 503, 504}


class NonsenseRuntime:
    """Its first message is a valid status, so that runs are sent to it; then both sockets send corrupted messages."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def __call__(self, spec: ContainerSpec, handle: ProgramHandle) -> int:
        folder: Path = next(mount.source for mount in spec.mounts if mount.target == spec.environment["PLUGIN_RUN_DIR"])
        servers = [
            await asyncio.start_unix_server(self._tools, folder / "tools.sock"),
            await asyncio.start_unix_server(self._control, folder / "control.sock"),
        ]
        try:
            await handle.terminated()
        finally:
            for server in servers:
                server.close()
        return 0

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n" + json.dumps(STATUS).encode() + b"\n"
            )
            await writer.drain()
            while True:
                await asyncio.sleep(0.03)
                writer.write(mutated(json.dumps(STATUS).encode()) + b"\n")
                await writer.drain()
        writer.close()

    async def _tools(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = self._random.choice((RESULT, EVENTS))
            kind = b"application/json" if body is RESULT else b"application/x-ndjson"
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)
            writer.write(corrupted(answer) if self._random.random() < 0.8 else answer)
            await writer.drain()
        writer.close()


async def test_containers_that_send_nonsense(harness: Harness) -> None:
    """Every status is in the contract, no run exceeds its time limit, and the plugin beside them still works."""
    random.seed(11)
    harness.add("healthy", tools={"read": lambda: "text"})
    names = [f"nonsense-{number}" for number in range(PLUGINS)]
    for seed, name in enumerate(names):
        harness.add(name, program=NonsenseRuntime(seed), limits={"timeout": "1s"}, startup_timeout="2s")
    client = await harness.open()

    async def call(name: str) -> set[int]:
        answers = set()
        for _ in range(RUNS):
            answer = await harness.run(name, "read")
            answers.add(answer.status_code)
            if (await harness.health(name))["state"] not in ("INITIALIZED", "RUNNING", "LOADED"):
                await client.post(f"/v1/plugins/{name}/restart", params={"wait": 2})
        return answers

    for found in await asyncio.gather(*(call(name) for name in names)):
        assert found <= IN_THE_CONTRACT
    assert (await harness.run("healthy", "read")).json()["result"] == "text"
    assert (await client.get("/v1/plugins")).status_code == 200
    assert (await harness.health("healthy"))["reason_code"] is None
