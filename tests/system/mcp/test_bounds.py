"""What a client can make the server hold, and how long; what a stop of the orchestrator leaves."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
from mcp.shared.exceptions import MCPError
from support.harness import TIMEOUT, Harness, eventually
from system.mcp.conftest import connected
from system.mcp.test_access import HEADERS, INITIALIZE

from orchestrator.mcp import http

pytestmark = pytest.mark.slow


async def opened(harness: Harness, **settings: Any) -> httpx.AsyncClient:
    harness.settings = harness.settings.model_copy(update=settings)
    harness.add("adder", tools={"add": lambda a, b: a + b})
    client = await harness.open()
    await harness.settled("adder")
    return client


async def session_of(client: httpx.AsyncClient) -> dict[str, str]:
    """The headers of a new session."""
    begun = await client.post("/mcp", json=INITIALIZE, headers=HEADERS)
    assert begun.status_code == 200, begun.text
    headers = {**HEADERS, "Mcp-Session-Id": begun.headers["Mcp-Session-Id"]}
    told = await client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
    assert told.status_code == 202
    return headers


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_older_version_of_the_protocol_is_spoken(harness: Harness, version: str) -> None:
    """And one that nobody knows is answered with one that is."""
    client = await opened(harness)
    asked = {**INITIALIZE, "params": {**INITIALIZE["params"], "protocolVersion": version}}
    begun = await client.post("/mcp", json=asked, headers=HEADERS)
    answer = json.loads(begun.text.partition("data: ")[2])["result"]
    assert answer["protocolVersion"] == version
    assert answer["capabilities"]["tools"] == {"listChanged": True}
    headers = {**HEADERS, "Mcp-Session-Id": begun.headers["Mcp-Session-Id"]}
    listed = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, headers=headers)
    assert [tool["name"] for tool in json.loads(listed.text.partition("data: ")[2])["result"]["tools"]] == ["adder.add"]


async def test_a_request_that_is_too_large_is_refused(harness: Harness) -> None:
    """By its length, and as it comes where it says none; the sentence says what to do instead."""
    client = await opened(harness)
    for content in (b" " * (http.MAX_BODY + 1), pieces(http.MAX_BODY + 1)):
        answer = await client.post("/mcp", content=content, headers={**HEADERS, "Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["error"]["message"].endswith("Send larger files over the HTTP API.")


async def pieces(size: int) -> Any:
    for start in range(0, size, 1 << 20):
        yield b" " * min(1 << 20, size - start)


async def test_requests_together_are_bounded(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that 503, to be tried again; what was held is free afterwards."""
    monkeypatch.setattr(http, "_MAX_HELD", 100_000)
    client = await opened(harness)
    large = {**INITIALIZE, "padding": "x" * 120_000}
    answer = await client.post("/mcp", json=large, headers=HEADERS)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    for _ in range(5):
        padded = {**INITIALIZE, "padding": "x" * 60_000}
        assert (await client.post("/mcp", json=padded, headers=HEADERS)).status_code == 200


async def test_an_upload_that_stalls_is_ended(harness: Harness) -> None:
    """As that of any other route."""
    client = await opened(harness, upload_idle_timeout=harness.settings.stop_grace)
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    head = ("POST /mcp HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 100")
    writer.write("\r\n".join((*head, "Accept: */*", "", "{")).encode())
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


async def test_sessions_are_bounded_and_one_that_ends_makes_room(harness: Harness) -> None:
    client = await opened(harness, mcp_sessions=2)
    first, _ = await session_of(client), await session_of(client)
    assert (await client.post("/mcp", json=INITIALIZE, headers=HEADERS)).status_code == 503
    assert (await client.delete("/mcp", headers=first)).status_code == 200
    await session_of(client)


async def test_a_session_that_is_idle_ends(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is told by 404, and begins another."""
    monkeypatch.setattr(http, "_SESSION_IDLE", 0.2)
    client = await opened(harness, mcp_sessions=1)
    session = await session_of(client)
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    async with asyncio.timeout(TIMEOUT):
        await asyncio.sleep(0.5)
        while (await client.post("/mcp", json=ping, headers=session)).status_code != 404:
            await asyncio.sleep(0.5)  # the request was one more reason to go on
    await session_of(client)


async def test_streams_of_changes_are_bounded(harness: Harness) -> None:
    """One more is refused with a sentence, and may come when another has ended."""
    await opened(harness, mcp_sessions=1)
    async with connected(harness) as client:
        async with client.listen(tools_list_changed=True):
            with pytest.raises(MCPError, match="ORCHESTRATOR_MCP_SESSIONS"):
                async with client.listen(tools_list_changed=True):
                    pass
        async with asyncio.timeout(10):
            while True:
                try:
                    async with client.listen(tools_list_changed=True):
                        break
                except MCPError:
                    await asyncio.sleep(0.01)


async def test_a_stop_ends_streams_and_lets_calls_end(harness: Harness) -> None:
    """The orchestrator does not wait for those that have no end, and answers those that have one."""
    gone_on = asyncio.Event()
    begun = asyncio.Event()

    async def hold() -> str:
        begun.set()
        await gone_on.wait()
        return "held"

    harness.add("holder", tools={"hold": hold})
    client = await opened(harness)
    await harness.settled("holder")
    session = await session_of(client)

    async def stream() -> int:
        async with client.stream("GET", "/mcp", headers=session, timeout=30) as response:
            async for _ in response.aiter_bytes():
                pass
            return response.status_code

    streaming = asyncio.create_task(stream())
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "holder.hold"}}
    calling = asyncio.create_task(client.post("/mcp", json=call, headers=session, timeout=30))
    await eventually(begun.is_set, "the run has begun")
    assert harness.app is not None
    stopping = asyncio.create_task(harness.app.state.context.shutdown.complete())
    assert await asyncio.wait_for(streaming, 10) == 200
    gone_on.set()
    assert '"text":"held"' in (await asyncio.wait_for(calling, 10)).text
    await stopping


def test_nothing_of_it_is_loaded_before_its_first_request() -> None:
    """Neither by the orchestrator nor by any other command: it costs a second and tens of MB."""
    program = """if True:
        import sys, orchestrator.app, orchestrator.cli.serve
        heavy = {"mcp", "mcp_types", "jsonschema", "sse_starlette", "jwt", "httpx2"}
        print([name for name in sys.modules if name.partition(".")[0] in heavy])
    """
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
