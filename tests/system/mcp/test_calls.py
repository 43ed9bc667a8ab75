"""What a client gets from the tools of a real plugin, by each way to reach them."""

import asyncio
import base64
from contextlib import suppress
from typing import Any

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from support.harness import Harness, eventually
from system.mcp.conftest import connected, texts

pytestmark = pytest.mark.slow


async def test_it_lists_every_tool_with_its_schemas(lab: Harness, kind: str) -> None:
    """As the HTTP API has them; what is no object comes under `result`."""
    lab.add("other", tools={"say": lambda: "hi"})
    await lab.client.post("/v1/plugins/other/start", params={"wait": 10})
    about = {tool["name"]: tool for tool in (await lab.client.get("/v1/plugins/lab/tools")).json()}
    async with connected(lab, kind) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"other.say", *(f"lab.{name}" for name in about)}
    for name in set(about) - {"weigh"}:
        assert tools[f"lab.{name}"].input_schema == about[name]["input_schema"]
    assert tools["lab.add"].description == "Add two numbers."
    assert tools["lab.add"].annotations.idempotent_hint is True
    for name, parameter in (("measure", "data"), ("weigh", "file")):
        assert tools[f"lab.{name}"].input_schema["properties"][parameter]["contentEncoding"] == "base64"
    measured = about["measure"]["output_schema"]
    assert tools["lab.measure"].output_schema == {**measured["$defs"]["Size"], "$defs": measured["$defs"]}
    assert tools["lab.add"].output_schema["properties"] == {"result": about["add"]["output_schema"]}
    assert tools["lab.count"].output_schema["properties"]["result"]["type"] == "array"
    assert tools["other.say"].output_schema is None


async def test_a_call_is_a_run_like_any_other(lab: Harness, kind: str) -> None:
    """With JSON in and structured content out, in the list of runs by its id, and counted."""
    async with connected(lab, kind) as client:
        await client.list_tools()  # from here on the client checks results by their schemas
        result = await client.call_tool("lab.add", {"a": 2})
        assert (result.is_error, result.structured_content, texts(result)) == (False, {"result": 3}, "3")
        sized = await client.call_tool("lab.measure", {"data": base64.b64encode(bytes(300_000)).decode()})
        assert (sized.structured_content, texts(sized)) == ({"length": 300_000}, '{"length":300000}')
        weighed = await client.call_tool("lab.weigh", {"file": "data:image/png;base64,aGVsbG8", "factor": 2})
        assert weighed.structured_content == {"result": [".png", 10]}
    run = (await lab.client.get(f"/v1/runs/{result.meta['plugin-orchestrator/run_id']}")).json()
    assert (run["plugin"], run["tool"], run["outcome"]) == ("lab", "add", "ok")
    assert (await lab.health("lab"))["success_count"] == 3


async def test_pictures_and_sounds_are_content_and_other_files_are_links(lab: Harness, kind: str) -> None:
    """Links lead to the HTTP API, and resources/read reads them."""
    async with connected(lab, kind) as client:
        await client.list_tools()
        result = await client.call_tool("lab.draw", {})
        _, picture, link = result.content
        assert (picture.type, picture.mime_type) == ("image", "image/png")
        assert base64.b64decode(picture.data).startswith(b"\x89PNG")
        assert (link.type, link.name, link.mime_type, link.size) == ("resource_link", "note.txt", "text/plain", 4)
        assert (await lab.client.get(str(link.uri))).content == b"said"
        assert (await client.read_resource(str(link.uri))).contents[0].text == "said"
        assert result.structured_content["note"]["file"] == "note.txt"
        song = (await client.call_tool("lab.sing", {})).content[1]
        assert (song.type, song.mime_type, base64.b64decode(song.data)) == ("audio", "audio/wav", b"la la")
        large = await client.call_tool("lab.draw", {"size": 5_000_000})
        assert [block.type for block in large.content] == ["text", "resource_link", "resource_link"]
        with pytest.raises(MCPError, match=r"4.8 MiB, and resources/read gives at most 4 MiB. GET http"):
            await client.read_resource(str(large.content[1].uri))
        with pytest.raises(MCPError, match="no such file"):
            await client.read_resource(str(link.uri).replace("note", "another"))
        assert "/files/{name}" in (await client.list_resource_templates()).resource_templates[0].uri_template
        assert (await client.list_resources()).resources == []


async def test_a_stream_is_progress_and_the_whole_list(lab: Harness, kind: str) -> None:
    """Each item as it comes; the numbers only grow, and make the fraction that the tool reports."""
    told: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    async with connected(lab, kind) as client:
        await client.list_tools()
        result = await client.call_tool("lab.count", {"n": 4, "seconds": 0.05}, progress_callback=progress)
        assert result.structured_content == {"result": [0, 1, 2, 3]}
        assert (await client.call_tool("lab.count", {"n": 0})).structured_content == {"result": []}
    assert [message for _, _, message in told] == [text for n in range(4) for text in (f"{n + 1} of 4", str(n))]
    numbers = [done for done, _, _ in told]
    assert numbers == sorted(set(numbers))
    assert [round(done / total, 2) for done, total, _ in told] == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0]


async def test_a_client_that_cancels_cancels_its_run(lab: Harness, kind: str) -> None:
    """An async tool ends, its slot is free, and the plugin goes on."""
    async with connected(lab, kind) as client:
        with anyio.move_on_after(30) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "lab.wait", {"seconds": 60})
                await lab.until("lab", lambda health: health["in_flight"] == 1, timeout=30)
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught
        await lab.until("lab", lambda health: health["in_flight"] == 0, timeout=30)
        run = (await lab.client.get("/v1/runs")).json()[0]
        assert (run["tool"], run["outcome"]) == ("wait", "caller_gone")
        assert (await client.call_tool("lab.add", {"a": 1})).structured_content == {"result": 2}
    health = await lab.health("lab")
    assert (health["generation"], health["error_count"]) == (1, 0)


async def test_a_cancel_does_not_cost_a_plugin_its_container(lab: Harness, kind: str) -> None:
    """Clients cancel whenever their own time is over: a tool that never looks goes on to its end."""
    async with connected(lab, kind) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "lab.nap", {"seconds": 1})
            await lab.until("lab", lambda health: health["in_flight"] == 1, timeout=30)
            group.cancel_scope.cancel()
        await lab.until("lab", lambda health: health["in_flight"] == 0, timeout=30)
        assert (await client.call_tool("lab.add", {"a": 1})).structured_content == {"result": 2}
    assert (await lab.health("lab"))["generation"] == 1


async def test_a_run_that_waits_leaves_the_queue_with_its_client(lab: Harness, kind: str) -> None:
    """And so its place is free for others."""
    async with connected(lab, kind) as client, connected(lab) as other, anyio.create_task_group() as others:
        others.start_soon(other.call_tool, "lab.wait", {"seconds": 60})
        await lab.until("lab", lambda health: health["in_flight"] == 1, timeout=30)
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "lab.add", {"a": 1})
            await lab.until("lab", lambda health: health["queued"] == 1, timeout=30)
            group.cancel_scope.cancel()
        await lab.until("lab", lambda health: health["queued"] == 0, timeout=30)
        others.cancel_scope.cancel()


async def test_a_client_that_is_gone_leaves_nothing(lab: Harness, kind: str) -> None:
    """Its connection closes, or its process ends, in the middle of a run."""

    async def call() -> None:
        async with connected(lab, kind) as client:
            await client.call_tool("lab.wait", {"seconds": 60})

    calling = asyncio.create_task(call())
    await lab.until("lab", lambda health: health["in_flight"] == 1, timeout=30)
    calling.cancel()
    with suppress(asyncio.CancelledError):
        await calling
    await lab.until("lab", lambda health: health["in_flight"] == 0, timeout=30)
    run = (await lab.client.get("/v1/runs")).json()[0]
    assert run["outcome"] == "caller_gone"


ERRORS: dict[str, tuple[str, dict[str, Any], str, dict[str, str]]] = {
    "missing argument": ("lab.add", {}, "a", {"error_type": "InvalidArguments"}),
    "wrong type": ("lab.add", {"a": "many"}, "a", {"error_type": "InvalidArguments"}),
    "refused input": ("lab.refuse", {"why": "no page in it"}, "no page in it", {"error_type": "InvalidInput"}),
    "no base64": ("lab.measure", {"data": "***"}, "data", {"error_type": "InvalidArguments"}),
    "a result over the bound": ("lab.huge", {"size": 5_000_000}, "4 MiB that an MCP answer may have", {}),
}


async def test_a_mistake_is_answered_so_that_the_model_can_correct_it(lab: Harness, kind: str) -> None:
    """As the result of the call, with our sentence and the run's id; the plugin goes on."""
    async with connected(lab, kind) as client:
        for error, (name, arguments, sentence, named) in ERRORS.items():
            result = await client.call_tool(name, arguments)
            assert result.is_error, error
            assert sentence in texts(result), (error, result)
            for member, value in named.items():
                assert result.meta[f"plugin-orchestrator/{member}"] == value, (error, result)
            assert (await client.call_tool("lab.add", {"a": 1})).structured_content == {"result": 2}, error


async def test_an_unknown_tool_is_an_error_of_the_protocol(lab: Harness, kind: str) -> None:
    """Which says where there is a list of tools, and not what it has."""
    async with connected(lab, kind) as client:
        for name in ("lab.nope", "nope.add", "nope", "lab.", ".add", "", "lab.add.more"):
            with pytest.raises(MCPError) as raised:
                await client.call_tool(name, {})
            assert f"There is no tool {name!r}. tools/list has all tools" in str(raised.value)
            assert raised.value.code == -32602, name


async def test_a_failing_tool_and_a_plugin_that_has_failed(lab: Harness, kind: str) -> None:
    """The first call says what the tool raised, the next why there is none: both with the reason code."""
    async with connected(lab, kind) as client:
        first = await client.call_tool("lab.boom", {})
        assert first.is_error
        assert texts(first).startswith("ZeroDivisionError: division by zero")
        assert first.meta["plugin-orchestrator/reason_code"] == "TOOL_ERROR"
        await lab.until_state("lab", "FAILED")
        second = await client.call_tool("lab.add", {"a": 1})
        assert second.is_error
        assert "restart the plugin" in texts(second)
        assert second.meta["plugin-orchestrator/reason_code"] == "TOOL_ERROR"
        assert (await client.list_tools()).tools == []


async def test_a_plugin_that_fails_under_a_call(harness: Harness, kind: str) -> None:
    """The call ends with why, and no other way."""
    started = asyncio.Event()

    async def hold() -> None:
        started.set()
        await asyncio.sleep(60)

    harness.add("holder", tools={"hold": hold})
    await harness.open()
    await harness.settled("holder")
    async with connected(harness, kind) as client:
        call = asyncio.create_task(client.call_tool("holder.hold", {}))
        await eventually(started.is_set, "the run has begun")
        await harness.instance("holder").worker_exits(signal=11)
        result = await call
        assert result.is_error
        assert result.meta["plugin-orchestrator/reason_code"] == "CRASHED"


async def test_a_full_queue_says_when_to_try_again(lab: Harness, kind: str) -> None:
    """In seconds."""
    busy = [asyncio.create_task(lab.run("lab", "wait", seconds=60)) for _ in range(3)]
    await lab.until("lab", lambda health: health["queued"] == 2, timeout=30)
    async with connected(lab, kind) as client:
        result = await client.call_tool("lab.add", {"a": 1})
    for call in busy:
        call.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    assert result.is_error
    assert result.meta["plugin-orchestrator/error_type"] == "QueueFull"
    assert result.meta["plugin-orchestrator/retry_after_seconds"] >= 1
    assert "retry_after_seconds: " in texts(result)


async def test_a_parked_plugin_is_listed_and_brought_back_by_a_call(lab: Harness, kind: str) -> None:
    """A stopped one is neither."""
    async with connected(lab, kind) as client:
        assert (await lab.client.post("/v1/plugins/lab/park")).status_code == 200
        await lab.until("lab", lambda health: health["reason_code"] == "PARKED", timeout=30)
        assert "lab.add" in {tool.name for tool in (await client.list_tools()).tools}
        assert (await client.call_tool("lab.add", {"a": 1})).structured_content == {"result": 2}
        await lab.client.post("/v1/plugins/lab/stop")
        assert (await client.list_tools()).tools == []
        stopped = await client.call_tool("lab.add", {"a": 1})
        assert (stopped.is_error, stopped.meta["plugin-orchestrator/reason_code"]) == (True, "STOPPED")


async def test_a_long_silence_is_broken_by_what_the_run_does(lab: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a client with a time limit of its own does not give up."""
    monkeypatch.setattr("orchestrator.mcp.progress.SILENCE", 0.1)
    told: list[str | None] = []

    async def progress(_: float, __: float | None, message: str | None) -> None:
        told.append(message)

    busy = asyncio.create_task(lab.run("lab", "wait", seconds=1))
    await lab.until("lab", lambda health: health["in_flight"] == 1, timeout=30)
    async with connected(lab) as client:
        await client.call_tool("lab.wait", {"seconds": 1}, progress_callback=progress)
    await busy
    assert {"waiting in the queue of lab, at 1", "running"} <= set(told)
