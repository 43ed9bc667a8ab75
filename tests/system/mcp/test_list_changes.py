"""Clients are told when their list of tools has changed, by what the plugins do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mcp.types import ToolListChangedNotification
from starlette.types import Message, Receive, Scope, Send
from support.harness import Harness, eventually
from system.mcp.conftest import connected

from orchestrator.mcp.http import HttpServer

pytestmark = pytest.mark.slow


@asynccontextmanager
async def noted_streams() -> AsyncIterator[asyncio.Event]:
    """Set once the stream of an older client is open: its answer has begun."""
    opened, serve = asyncio.Event(), HttpServer._stream

    async def noting(server: HttpServer, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            await send(message)
            opened.set()

        await serve(server, scope, receive, sending)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpServer, "_stream", noting)
        yield opened


@asynccontextmanager
async def told(harness: Harness, kind: str) -> AsyncIterator[asyncio.Queue[str]]:
    """What a client was told, as it comes."""
    changes: asyncio.Queue[str] = asyncio.Queue()

    async def message(received: object) -> None:
        if isinstance(received, ToolListChangedNotification):
            changes.put_nowait("changed")

    # A current client hands what comes on its stream to its handler too.
    handler = {"message_handler": message} if kind.endswith("older") else {}
    async with noted_streams() as opened, connected(harness, kind, **handler) as client:
        assert (await client.list_tools()).tools
        if kind.endswith("older"):
            if kind.startswith("http"):
                await asyncio.wait_for(opened.wait(), 10)
            else:
                assert harness.app is not None
                feed = harness.app.state.context.feed
                await eventually(lambda: feed.readers > 0, "its process follows the events")
            yield changes
            return
        async with client.listen(tools_list_changed=True) as events:

            async def read() -> None:
                async for _ in events:
                    changes.put_nowait("changed")

            reading = asyncio.create_task(read())
            yield changes
            reading.cancel()


async def test_a_failure_a_restart_and_a_new_plugin_are_told(harness: Harness, kind: str) -> None:
    """Each once, however many steps it has; runs are no change."""

    def boom() -> None:
        raise ValueError("boom")

    harness.add("bad", tools={"boom": boom, "fine": lambda: 1})
    await harness.open()
    await harness.settled("bad")
    async with told(harness, kind) as changes:
        await harness.run("bad", "fine")
        await harness.run("bad", "boom")
        await harness.until_state("bad", "FAILED")
        assert await asyncio.wait_for(changes.get(), 10) == "changed"
        await harness.client.post("/v1/plugins/bad/restart", params={"wait": 10})
        assert await asyncio.wait_for(changes.get(), 10) == "changed"
        harness.add("new", tools={"say": lambda: "hi"})
        await harness.client.post("/v1/plugins/new/start", params={"wait": 10})
        assert await asyncio.wait_for(changes.get(), 10) == "changed"
        await asyncio.sleep(0.5)
        assert changes.empty()


async def test_a_session_that_has_ended_is_told_nothing_and_held_no_longer(harness: Harness) -> None:
    harness.add("good", tools={"fine": lambda: 1})
    await harness.open()
    await harness.settled("good")
    for kind in ("http-older", "http-current"):
        async with told(harness, kind):
            pass
    names = {"changes for an MCP session", "MCP's list of tools"}
    await eventually(lambda: not names & {task.get_name() for task in asyncio.all_tasks()}, "all are gone")
