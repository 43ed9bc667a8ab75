"""MCP over real containers: pictures, cancels, a plugin that is killed under a call, and fifty clients at once."""

import asyncio
import base64
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
from mcp.shared.exceptions import MCPError
from support.health_prober import health_answers
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable
from support.waiting import PATIENCE
from system.mcp.conftest import connected, texts

pytestmark = pytest.mark.engine

CLIENTS = 50
PLUGINS = ("one", "two", "three")
EXPECTED = {"PluginUnavailable", "QueueFull"}
"""What a call may be answered while its plugin is replaced."""
PAINTER = '''
import asyncio, struct, time, zlib
from plugin_runtime import File, InvalidInput, tool

SIGNATURE = bytes.fromhex("89504e470d0a1a0a")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class Painter:
    def validate(self) -> None: ...

    @tool
    def invert(self, picture: bytes) -> File:
        """Invert a grey PNG without filters."""
        if not picture.startswith(SIGNATURE):
            raise InvalidInput("expected a PNG")
        head, data = picture[16:29], zlib.decompress(picture[41:-16])
        width = struct.unpack(">I", head[:4])[0] + 1
        rows = [data[at : at + width] for at in range(0, len(data), width)]
        inverted = b"".join(row[:1] + bytes(255 - grey for grey in row[1:]) for row in rows)
        content = SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(inverted)) + chunk(b"IEND", b"")
        return File(content, "image/png", "inverted.png")

    @tool
    async def rest(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "rested"

    @tool
    def nap(self, seconds: float) -> str:
        time.sleep(seconds)
        return "napped"

    @tool
    def double(self, number: int) -> int:
        return number * 2
'''
MANIFEST = "version: 1.0.0\ndescription: Paints.\nentrypoint: painter.plugin:Painter\nqueue: 60\n"


def png(width: int, rows: list[bytes]) -> bytes:
    """A grey picture, 8 bits deep, without filters."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    head = width.to_bytes(4) + len(rows).to_bytes(4) + bytes((8, 0, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    signature = bytes.fromhex("89504e470d0a1a0a")
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def write(folder: Path, name: str) -> None:
    (folder / name / "painter").mkdir(parents=True)
    (folder / name / "plugin.yaml").write_text(MANIFEST)
    (folder / name / "painter" / "__init__.py").touch()
    (folder / name / "painter" / "plugin.py").write_text(PAINTER)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    folder = tmp_path_factory.mktemp("plugins")
    for name in ("painter", *PLUGINS):
        write(folder, name)
    with live_orchestrator([folder]) as orchestrator:
        orchestrator.wait_ready(300)
        yield orchestrator


async def until(live: LiveOrchestrator, plugin: str, seconds: float = 30, **facts: Any) -> dict[str, Any]:
    end = time.monotonic() + seconds * PATIENCE
    while True:
        health = await asyncio.to_thread(live.health, plugin)
        if all(health[name] == value for name, value in facts.items()):
            return health
        assert time.monotonic() < end, health
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["http-current", "http-older", "stdio-current"])
async def test_a_picture_in_and_a_picture_back(live: LiveOrchestrator, kind: str) -> None:
    rows = [bytes(range(x, x + 40)) for x in range(30)]
    sent = png(40, rows)
    async with connected(live, kind) as client:
        arguments = {"picture": base64.b64encode(sent).decode()}
        result = await client.call_tool("painter.invert", arguments)
        assert not result.is_error, result
        (picture,) = [block for block in result.content if block.type == "image"]
        assert picture.mime_type == "image/png"
        assert base64.b64decode(picture.data) == png(40, [bytes(255 - grey for grey in row) for row in rows])
        refused = await client.call_tool("painter.invert", {"picture": base64.b64encode(b"text").decode()})
        assert refused.is_error and "expected a PNG" in texts(refused)
    assert live.health("painter")["reason_code"] is None


async def test_a_cancel_ends_the_tool_in_its_container(live: LiveOrchestrator) -> None:
    """And the plugin goes on in the same container."""
    before = live.health("painter")
    async with connected(live) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "painter.rest", {"seconds": 60})
            await until(live, "painter", in_flight=1)
            group.cancel_scope.cancel()
        await until(live, "painter", in_flight=0)
        assert (await client.call_tool("painter.double", {"number": 4})).structured_content == {"result": 8}
    after = live.health("painter")
    assert (after["generation"], after["error_count"]) == (before["generation"], before["error_count"])


async def test_a_plugin_that_is_killed_under_a_call(live: LiveOrchestrator) -> None:
    """The call says so, its tools leave the list, and a restart brings them back: clients are told of both."""
    changed = anyio.Event()

    async def hear(_message: object) -> None:
        changed.set()

    async with connected(live, "http-older", message_handler=hear) as client:
        results: list[Any] = []

        async def call() -> None:
            results.append(await client.call_tool("painter.nap", {"seconds": 60}))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            health = await until(live, "painter", in_flight=1)
            engine = docker.from_env()
            try:
                await asyncio.to_thread(engine.containers.get(health["container"]["name"]).kill)
            finally:
                engine.close()
        (result,) = results
        assert result.is_error
        assert result.meta["plugin-orchestrator/reason_code"] in ("KILLED", "CRASHED"), result
        await until(live, "painter", state="FAILED")
        with anyio.fail_after(20 * PATIENCE):
            await changed.wait()
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert not any(name.startswith("painter.") for name in names) and "one.double" in names
        await asyncio.to_thread(live.restart, "painter")
        assert "painter.double" in {tool.name for tool in (await client.list_tools()).tools}
        assert (await client.call_tool("painter.double", {"number": 2})).structured_content == {"result": 4}


@pytest.mark.timeout(600)
async def test_fifty_clients_while_plugins_restart(
    live: LiveOrchestrator, reliability: ReliabilityTable, pytestconfig: pytest.Config
) -> None:
    """Each lists and calls without a pause: no wrong answer, and health is answered all the while."""
    seconds = pytestconfig.getoption("mcp_seconds")
    counts: Counter[str] = Counter()
    wrong: list[object] = []
    ready = threading.Barrier(2)
    ended = threading.Event()

    async def client(number: int, connecting: asyncio.Barrier) -> None:
        name = PLUGINS[number % 3]
        async with connected(live, "http-older" if number % 2 else "http-current") as opened:
            await connecting.wait()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                names = [tool.name for tool in (await opened.list_tools()).tools if tool.name.endswith(".double")]
                counts["lists"] += 1
                if len(set(names)) != len(names) or not set(names) <= {
                    f"{each}.double" for each in (*PLUGINS, "painter")
                }:
                    wrong.append(names)
                try:
                    result = await opened.call_tool(f"{name}.double", {"number": number})
                except MCPError as error:
                    wrong.append(error)
                    continue
                if result.is_error:
                    counts["refused"] += 1
                    if (result.meta or {}).get("plugin-orchestrator/error_type") not in EXPECTED:
                        wrong.append(result)
                elif result.structured_content == {"result": number * 2}:
                    counts["right"] += 1
                else:
                    wrong.append(result)

    def restart() -> None:
        ready.wait()
        while not ended.is_set():
            for name in PLUGINS:
                live.restart(name)
                counts["restarts"] += 1

    async def restarting(connecting: asyncio.Barrier) -> None:
        await connecting.wait()
        thread = threading.Thread(target=restart)
        thread.start()
        ready.wait()
        await asyncio.sleep(seconds)
        ended.set()
        await asyncio.to_thread(thread.join)

    with health_answers(str(live.client.base_url), live.process.pid, PLUGINS) as health:
        connecting = asyncio.Barrier(CLIENTS + 1)
        await asyncio.gather(*(client(number, connecting) for number in range(CLIENTS)), restarting(connecting))
    answered = counts["lists"] + counts["right"] + counts["refused"]
    slowest = (
        f"{health.slowest:.1f} ms of {health.total}, p99.9 {health.p999:.1f} ms, seen {health.slowest_seen:.1f} ms"
    )
    print(dict(counts), f"health's slowest: {slowest}; the last of them: {health.late[-3:]}")  # noqa: T201
    assert counts["right"] > CLIENTS and counts["restarts"] >= 3, counts
    reliability.count(
        "MCP, 50 clients while plugins restart", right=answered - len(wrong), of=answered, wrong=wrong[:3]
    )
    assert health.statuses.keys() <= {"200", "404"}, health.statuses
    reliability.at_most("health routes during that: slowest answer", health.slowest, limit=100 * PATIENCE, unit="ms")
