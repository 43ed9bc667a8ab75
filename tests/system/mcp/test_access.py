"""Who may use /mcp: keys, hosts and pages are judged as for every other route."""

import asyncio
from typing import Any

import httpx
import httpx2
import pytest
from mcp.shared.exceptions import MCPError
from support.harness import Harness
from system.mcp.conftest import connected, texts

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.access.principal import Grant, Right

pytestmark = pytest.mark.slow

INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
HEADERS = {"Accept": "application/json, text/event-stream"}


async def with_keys(harness: Harness) -> tuple[str, str]:
    """A viewer's key, and one that may run."""
    harness.add("adder", tools={"add": lambda a, b: a + b})
    store = KeyStore(harness.settings.state_dir)
    viewer, operator = store.add("eyes", Role.VIEWER), store.add("hands", Role.OPERATOR)
    client = await harness.open()
    async with httpx.AsyncClient(base_url=client.base_url, headers=bearer(viewer), trust_env=False) as known:
        while (await known.get("/v1/plugins/adder/health")).json()["state"] == "LOADED":
            pass
    return viewer, operator


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_without_a_key_there_is_no_session(harness: Harness, method: str) -> None:
    """401, as everywhere, before anything is loaded or held."""
    await with_keys(harness)
    answer = await harness.client.request(method, "/mcp", json=INITIALIZE, headers=HEADERS)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "adder" not in answer.text
    with pytest.raises(ExceptionGroup) as raised:
        async with connected(harness) as client:
            await client.list_tools()
    assert raised.group_contains((MCPError, httpx2.HTTPStatusError))


async def test_without_a_key_the_bridge_says_where_it_reads_one(harness: Harness) -> None:
    """Its own list is the first request that fails."""
    await with_keys(harness)
    async with connected(harness, "stdio-older") as client:
        with pytest.raises(MCPError, match="ORCHESTRATOR_API_KEY"):
            await client.list_tools()


async def test_a_viewer_lists_and_does_not_run(harness: Harness, kind: str) -> None:
    """The refusal names the key and who can help, as a result that a model reads."""
    viewer, _ = await with_keys(harness)
    async with connected(harness, kind, viewer) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["adder.add"]
        result = await client.call_tool("adder.add", {"a": 1, "b": 2})
        assert result.is_error
        assert "'eyes'" in texts(result) and result.meta["plugin-orchestrator/error_type"] == "RoleTooSmall"


async def test_a_key_that_may_run_runs(harness: Harness, kind: str) -> None:
    _, operator = await with_keys(harness)
    async with connected(harness, kind, operator) as client:
        await client.list_tools()
        assert (await client.call_tool("adder.add", {"a": 1, "b": 2})).structured_content == {"result": 3}


async def test_a_session_is_for_the_key_that_began_it(harness: Harness) -> None:
    """To another key it is not there, and a removed key ends it."""
    viewer, operator = await with_keys(harness)
    begun = await harness.client.post("/mcp", json=INITIALIZE, headers={**HEADERS, **bearer(operator)})
    session = {**HEADERS, "Mcp-Session-Id": begun.headers["Mcp-Session-Id"]}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    assert (await harness.client.post("/mcp", json=ping, headers={**session, **bearer(operator)})).status_code == 200
    assert (await harness.client.post("/mcp", json=ping, headers={**session, **bearer(viewer)})).status_code == 404
    KeyStore(harness.settings.state_dir).remove("hands")
    answer = None
    while answer is None or answer.status_code == 200:  # within a second
        answer = await harness.client.post("/mcp", json=ping, headers={**session, **bearer(operator)})
    assert answer.status_code == 401


async def test_pages_and_foreign_hosts_are_kept_out_without_keys(harness: Harness) -> None:
    """By the rule of all routes, and not by the package's own, which refuses with 421."""
    harness.add("adder", tools={"add": lambda a, b: a + b})
    await harness.open()
    for headers, status in (
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ):
        answer = await harness.client.post("/mcp", json=INITIALIZE, headers={**HEADERS, **headers})
        assert answer.status_code == status, headers


async def test_a_host_that_the_operator_allows_is_answered(harness: Harness) -> None:
    """Links lead to the name that the client used."""
    harness.settings = harness.settings.model_copy(update={"allowed_hosts": ("tools.example",)})
    harness.add("adder", tools={"add": lambda a, b: a + b})
    await harness.open()
    headers = {**HEADERS, "Host": "tools.example"}
    begun = await harness.client.post("/mcp", json=INITIALIZE, headers=headers)
    assert begun.status_code == 200
    session = {**headers, "Mcp-Session-Id": begun.headers["Mcp-Session-Id"]}
    templates = {"jsonrpc": "2.0", "id": 2, "method": "resources/templates/list"}
    answer = await harness.client.post("/mcp", json=templates, headers=session)
    assert "http://tools.example/v1/runs/{run_id}" in answer.text


async def test_a_key_for_some_plugins_learns_nothing_of_others(harness: Harness, kind: str) -> None:
    """Not that they are there, by no list and no answer; its own runs' files alone are read."""
    harness.add("secret", tools={"hide": lambda: 1})
    _, operator = await with_keys(harness)
    narrow = KeyStore(harness.settings.state_dir).add("narrow", Grant(frozenset({Right.RUN}), plugins=("add*",)))
    while (await harness.client.get("/v1/plugins", headers=bearer(narrow))).status_code != 200:
        await asyncio.sleep(0.3)  # known within a second; too many wrong keys would be refused as such
    async with connected(harness, kind, operator) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"adder.add", "secret.hide"}
    async with connected(harness, kind, narrow) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["adder.add"]
        assert (await client.call_tool("adder.add", {"a": 1, "b": 2})).structured_content == {"result": 3}
        answers = []
        for name in ("secret.hide", "secret.nope", "nothing.hide"):
            with pytest.raises(MCPError) as raised:
                await client.call_tool(name, {})
            answers.append(str(raised.value).replace(name, "X"))
        assert len(set(answers)) == 1
    runs = (await harness.client.get("/v1/runs", headers=bearer(operator))).json()
    assert [(run["caller"], run["tool"]) for run in runs] == [("narrow", "add")]
