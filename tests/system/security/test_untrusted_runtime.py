"""A runtime that is not ours, or that a plugin has replaced: bounds on its answers, and sockets that lead elsewhere."""

import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from support.harness import Harness

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.errors import ChannelError
from orchestrator.runtime_client import sanitize
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.runtime_client.dial import pinned
from orchestrator.runtime_client.status import RuntimeStatus


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("levels", [20, 100, 400])
async def test_a_schema_of_any_depth_is_answered(harness: Harness, levels: int) -> None:
    """A prebuilt image may have one; the list of tools never fails."""
    runtime = harness.add("reader", start=[])
    client = await harness.open()
    await harness.until("reader", lambda _: bool(runtime.instances))
    tool = {"name": "read", "description": "x", "input_schema": nested(levels), "streaming": False, "uploads": {}}
    harness.instance("reader").set_status(phase="ready", tools=[tool])
    await harness.settled("reader")
    answer = await client.get("/v1/plugins/reader/tools")
    assert answer.status_code == 200
    (shown,) = answer.json()
    assert (shown["input_schema"] == nested(levels)) is (levels == 20 and 2 * levels < sanitize.MAX_SCHEMA_DEPTH)
    assert (await client.get("/v1/plugins/reader/health")).status_code == 200


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=40,
)
FIELDS = ["phase", "reason_code", "reason", "traceback", "checks", "tools", "worker", "memory", "cpu_seconds", "runs"]


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(FIELDS), ANY_JSON))
def test_a_status_of_any_shape_can_be_read_and_shown(content: dict[str, Any]) -> None:
    """Fields that break the protocol count as absent."""
    status = RuntimeStatus.parse(json.dumps(content).encode())
    json.dumps([dict(tool) for tool in status.tools])
    json.dumps([dict(check) for check in status.checks])


@pytest.mark.slow
@given(st.lists(st.fixed_dictionaries({"name": ANY_JSON | st.text(), "input_schema": ANY_JSON, "uploads": ANY_JSON})))
def test_only_names_that_are_valid_in_a_url_are_tools(items: list[dict[str, Any]]) -> None:
    """`../containers/x/kill` would lead elsewhere."""
    for tool in sanitize.tools(items):
        assert set(tool) == {
            "name",
            "description",
            "input_schema",
            "output_schema",
            "streaming",
            "uploads",
            "batch",
            "idempotent",
        }
        assert not set(tool["name"]) & set("/\\?#%: \t\r\n\0") and tool["name"] not in (".", "..")


def test_what_a_runtime_reports_is_bounded() -> None:
    """In number, length and depth."""
    many = [{"name": f"t{n}", "description": "d" * 10_000, "input_schema": {"d": "x" * 300_000}} for n in range(1000)]
    shown = sanitize.tools(many)
    assert len(shown) == sanitize.MAX_ITEMS
    assert len(json.dumps(shown)) < 2 * sanitize.MAX_ITEMS * sanitize.MAX_TEXT
    assert len(sanitize.checks([{"name": "n", "ok": True, "detail": "d" * 10_000}] * 1000)) == sanitize.MAX_ITEMS


@asynccontextmanager
async def serving(path: Path, handler: Any) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.001, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_a_link_instead_of_a_socket_is_not_followed(folder: Path) -> None:
    """It could lead to the engine's socket, which the orchestrator may use and the plugin may not."""
    requested: list[str] = []

    async def engine(request: web.Request) -> web.Response:
        requested.append(request.path)
        return web.json_response({"phase": "ready"})

    (folder / "run").mkdir()
    async with serving(folder / "engine.sock", engine):
        for name in ("control.sock", "tools.sock"):
            (folder / "run" / name).symlink_to(folder / "engine.sock")
        channel = RuntimeChannel(UnixEndpoint(folder / "run"))
        try:
            with pytest.raises(ChannelError):
                await channel.status()
            with pytest.raises(ChannelError):
                async with channel.call("x", run_id="r", content_type="application/json", query="", body=b"{}"):
                    pass
            assert await channel.diagnose() == ""
        finally:
            await channel.close()
    assert requested == []


async def test_the_socket_that_was_checked_is_the_one_that_is_connected(folder: Path) -> None:
    """Even if a link replaces it in between."""

    async def yes(_: web.Request) -> web.Response:
        return web.Response()

    (folder / "file").touch()
    async with serving(folder / "right.sock", yes):
        with pinned(str(folder / "right.sock")) as path:
            (folder / "right.sock").unlink()
            (folder / "right.sock").symlink_to(folder / "wrong.sock")
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(path)
    for path in ("file", "right.sock", "nowhere"):
        with pytest.raises(OSError, match=r"not a socket|non-socket|No such file"), pinned(str(folder / path)):
            pass


async def test_an_answer_without_end_is_cut(folder: Path) -> None:
    """On the control socket, whose answers are read into memory."""
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 1 << 30:
            await response.write(b"x" * 65536)
            sent += 65536
        return response

    async with serving(folder / "control.sock", flood):
        channel = RuntimeChannel(UnixEndpoint(folder))
        try:
            with pytest.raises(ChannelError):
                await channel.status()
            with pytest.raises(ChannelError):
                async for _ in channel.watch():
                    pass
            assert await channel.diagnose() == ""
        finally:
            await channel.close()
    assert sent < 64 * 1024 * 1024


@pytest.mark.slow
async def test_statuses_without_end_leave_the_loop_to_others(folder: Path) -> None:
    """Of those that arrive together only the newest is parsed, and then there is a pause."""

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        number = 0
        while True:
            lines = [json.dumps({"phase": "ready", "reason": str(number + n)}).encode() + b"\n" for n in range(500)]
            await response.write(b"".join(lines))
            number += 500

    numbers: list[int] = []
    async with serving(folder / "control.sock", flood):
        channel = RuntimeChannel(UnixEndpoint(folder))
        started = time.monotonic()
        try:
            async for status in channel.watch():
                numbers.append(int(status.reason or 0))
                if len(numbers) == 20:
                    break
        finally:
            await channel.close()
    assert time.monotonic() - started >= 19 * 0.01
    assert numbers[-1] > 19 * 2, "those that arrived together were parsed one by one"


async def test_a_plugins_oom_header_is_never_an_internal_error(folder: Path) -> None:
    """Whatever it contains."""

    async def odd(_: web.Request) -> web.Response:
        return web.json_response({"ok": True, "result": 1}, headers={"X-Oom-Kills": "9" * 5000})

    async with serving(folder / "tools.sock", odd):
        channel = RuntimeChannel(UnixEndpoint(folder))
        try:
            async with channel.call("x", run_id="r", content_type="a/b", query="", body=b"") as answer:
                assert answer.oom_kills == 0
        finally:
            await channel.close()
