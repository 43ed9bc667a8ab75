"""Fifty clients that list and call while plugins restart."""

import asyncio
import time

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from support.harness import Harness
from support.waiting import PATIENCE
from system.mcp.conftest import connected

pytestmark = pytest.mark.slow

CLIENTS, SECONDS = 50, 5.0
PLUGINS = ("one", "two", "three")
EXPECTED = {"InstanceEnded", "PluginUnavailable", "QueueFull"}
"""What a call may be answered while its plugin is replaced."""


async def test_fifty_clients_while_plugins_restart(harness: Harness) -> None:
    """Every answer is right or says rightly why not, and health is quick all the while."""
    for name in PLUGINS:
        harness.add(name, tools={"double": lambda number: number * 2}, queue=60)
    await harness.open()
    for name in PLUGINS:
        await harness.settled(name)
    connecting = asyncio.Barrier(CLIENTS + 2)  # a busy machine takes a while for it
    wrong: list[object] = []
    counts = {"lists": 0, "right": 0, "refused": 0, "restarts": 0}

    async def use(client: Client, number: int) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            names = [tool.name for tool in (await client.list_tools()).tools]
            if len(set(names)) != len(names) or not set(names) <= {f"{name}.double" for name in PLUGINS}:
                wrong.append(names)
            counts["lists"] += 1
            try:
                result = await client.call_tool(f"{PLUGINS[number % 3]}.double", {"number": number})
            except MCPError as error:
                wrong.append(error)
                continue
            if result.is_error:
                counts["refused"] += 1
                if (result.meta or {}).get("plugin-orchestrator/error_type") not in EXPECTED:
                    wrong.append(result)
            elif result.structured_content != {"result": number * 2}:
                wrong.append(result)
            else:
                counts["right"] += 1

    async def client(number: int) -> None:
        async with connected(harness, "http-older" if number % 2 else "http-current") as opened:
            await connecting.wait()
            await use(opened, number)

    async def restart() -> None:
        await connecting.wait()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for name in PLUGINS:
                await harness.client.post(f"/v1/plugins/{name}/restart", params={"wait": 10})
                counts["restarts"] += 1

    async def watch() -> float:
        slowest = 0.0
        await connecting.wait()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            begun = time.monotonic()
            assert (await harness.client.get("/v1/plugins/one/health")).status_code == 200
            slowest = max(slowest, time.monotonic() - begun)
            await asyncio.sleep(0.05)
        return slowest

    *_, slowest = await asyncio.gather(*(client(number) for number in range(CLIENTS)), restart(), watch())
    assert wrong == []
    assert counts["right"] > 0 and counts["right"] + counts["refused"] >= CLIENTS and counts["restarts"] >= 3, counts
    # Clients and server share this process and its loop: what a client takes counts here too.
    assert slowest < 2 * PATIENCE, slowest
    print(counts, f"health's slowest answer: {slowest:.3f} s")  # noqa: T201
