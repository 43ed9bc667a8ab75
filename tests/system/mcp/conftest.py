"""Real clients of the package `mcp`, over HTTP and on stdin and stdout, of the current protocol and of an older one."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from support.harness import Harness
from support.real_runtime import RealRuntime

PNG = bytes.fromhex("89504e470d0a1a0a")
SOURCE = """
    import asyncio, time
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TypedDict
    from plugin_runtime import File, InvalidInput, Progress, cancelled, tool

    class Size(TypedDict):
        length: int

    class Plugin:
        def validate(self): pass

        @tool(idempotent=True)
        def add(self, a: int, b: int = 1) -> int:
            "Add two numbers."
            return a + b

        @tool
        def measure(self, data: bytes) -> Size:
            "Measure an upload."
            return {"length": len(data)}

        @tool
        def weigh(self, file: Path, factor: int = 1) -> list[str | int]:
            return [file.suffix, file.stat().st_size * factor]

        @tool
        def draw(self, size: int = 100) -> dict[str, object]:
            "Draw."
            picture = bytes.fromhex("89504e470d0a1a0a") + bytes(size)
            note = File(b"said", "text/plain", "note.txt")
            return {"picture": File(picture, "image/png", "drawing.png"), "note": note}

        @tool
        def sing(self) -> File:
            return File(b"la la", "audio/wav", "song.wav")

        @tool
        def huge(self, size: int) -> str:
            return "x" * size

        @tool
        def count(self, n: int, seconds: float = 0) -> Iterator[Progress | int]:
            "Count."
            for number in range(n):
                yield Progress((number + 1) / n, f"{number + 1} of {n}")
                yield number
                time.sleep(seconds)

        @tool
        async def wait(self, seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "waited"

        @tool
        def nap(self, seconds: float) -> str:
            time.sleep(seconds)
            return "napped"

        @tool
        def refuse(self, why: str) -> None:
            raise InvalidInput(why)

        @tool
        def boom(self) -> None:
            raise ZeroDivisionError("division by zero")
"""
KINDS = ("http-current", "http-older", "stdio-current", "stdio-older")


@pytest.fixture
async def lab(harness: Harness) -> Harness:
    """Open, with the plugin `lab`, which is the real runtime."""
    harness.add("lab", program=RealRuntime(SOURCE), queue=2, limits={"timeout": "20s"})
    await harness.open()
    await harness.until("lab", lambda health: health["state"] != "LOADED", timeout=60)
    return harness


def url_of(harness: Harness) -> str:
    return f"{str(harness.client.base_url).rstrip('/')}/mcp"


@asynccontextmanager
async def connected(
    harness: Harness, kind: str = "http-current", key: str = "", **options: Any
) -> AsyncIterator[Client]:
    """A client of one of `KINDS`."""
    mode = "legacy" if kind.endswith("older") else "2026-07-28" if "mode" not in options else options.pop("mode")
    if kind.startswith("stdio"):
        environment = {
            **os.environ,
            "ORCHESTRATOR_URL": str(harness.client.base_url),
            "ORCHESTRATOR_API_KEY": key,
        }
        command = StdioServerParameters(command=sys.executable, args=["-m", "orchestrator", "mcp"], env=environment)
        async with Client(stdio_client(command), mode=mode, cache=None, **options) as client:
            with suppress(MCPError):
                await client.list_tools()  # until its process has started, which a busy machine takes seconds for
            yield client
        return
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=60), trust_env=False) as http,
        Client(streamable_http_client(url_of(harness), http_client=http), mode=mode, cache=None, **options) as client,
    ):
        yield client


def texts(result: Any) -> str:
    return "\n".join(block.text for block in result.content if block.type == "text")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
