"""The clients against the whole orchestrator."""

import asyncio
import io
import os
import threading
from pathlib import Path

import pytest
from support.scripted_tools import InvalidInput

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.client import (
    AccessDenied,
    Begun,
    End,
    InvalidRequest,
    Item,
    NotFound,
    PluginError,
    PluginTimeout,
    PluginUnavailable,
    Progress,
    QueueFull,
    RunCancelled,
    RunNotFinished,
    Upload,
)

pytestmark = pytest.mark.slow


def say(text: str, times: int = 1):
    return {"said": text * times}


def weigh(file: bytes, label: str = "", factor: int = 1):
    return [label, len(file) * factor]


def weigh_path(file: Path):
    return file.stat().st_size


def raise_error():
    raise RuntimeError("the lens is broken")


def refuse():
    raise InvalidInput("no page in it")


def count(to: int):
    for number in range(to):
        yield {"event": "progress", "fraction": number / to, "message": f"{number} of {to}"}
        yield number


async def count_slowly():
    while True:
        yield 1
        await asyncio.sleep(0.01)


def count_badly():
    yield 1
    yield "two\u2028lines"
    raise RuntimeError("no further")


TOOLS = (say, weigh, weigh_path, count, count_slowly)


@pytest.fixture
async def call(harness, make):
    bad = {"raise_error": raise_error, "refuse": refuse, "count_badly": count_badly}
    harness.add(
        "echo",
        tools={"say": say, "weigh": weigh, "weigh_path": weigh_path, "count": count, "count_slowly": count_slowly},
    )
    harness.add("bad", tools=bad, failure_policy="tolerant")
    harness.write_raw("broken", "version: [")
    await harness.open()
    for name in ("echo", "bad"):
        await harness.settled(name)
    return make(str(harness.client.base_url))


async def test_the_plugins_their_health_and_their_tools(call):
    listed = await call("plugins")
    assert [(plugin["name"], plugin["state"]) for plugin in listed] == [
        ("bad", "INITIALIZED"),
        ("broken", "FAILED"),
        ("echo", "INITIALIZED"),
    ]
    assert (await call("health", "broken"))["reason_code"] == "MANIFEST_INVALID"
    assert {tool["name"] for tool in await call("tools", "echo")} == {
        "say",
        "weigh",
        "weigh_path",
        "count",
        "count_slowly",
    }
    assert (await call("gpus"))["devices"] == []


async def test_a_run_gives_the_tools_result(call):
    assert await call("run", "echo", "say", text="42", times=2) == {"said": "4242"}
    envelope = await call("call", "echo", "say", text="a")
    assert envelope["ok"] and envelope["plugin"] == "echo" and len(envelope["run_id"]) == 32


async def test_files_are_sent_from_wherever_they_are(call, tmp_path):
    path = tmp_path / "page.bin"
    path.write_bytes(b"x" * 300_000)
    read_before = io.BytesIO(b"12345")
    read_before.read()
    named = Upload(b"1", "a.png")
    for file, size in ((b"123", 3), (bytearray(b"12"), 2), (path, 300_000), (read_before, 5), (named, 1)):
        assert await call("run", "echo", "weigh", file=file) == ["", size]
    with path.open("rb") as opened:
        assert await call("run", "echo", "weigh_path", file=opened) == 300_000
    assert await call("run", "echo", "weigh", file=b"123", label="7", factor=2) == ["7", 6]


async def test_a_pipe_is_streamed(call):
    out, into = os.pipe()
    writer = threading.Thread(target=lambda: [os.write(into, b"y" * 50_000) for _ in range(4)] + [os.close(into)])
    writer.start()
    with os.fdopen(out, "rb") as pipe:
        assert await call("run", "echo", "weigh", file=pipe) == ["", 200_000]
    writer.join()


@pytest.mark.parametrize(
    ("plugin", "tool", "arguments", "kind", "status", "code"),
    [
        ("nobody", "say", {}, NotFound, 404, "UnknownPlugin"),
        ("../..", "say", {}, NotFound, 404, "UnknownRoute"),
        ("echo", "sing", {}, NotFound, 404, "UnknownTool"),
        ("echo", "say", {"txt": 1}, InvalidRequest, 422, "TypeError"),
        ("bad", "refuse", {}, InvalidRequest, 422, "InvalidInput"),
        ("bad", "raise_error", {}, PluginError, 502, "TOOL_ERROR"),
        ("broken", "say", {}, PluginUnavailable, 503, "MANIFEST_INVALID"),
    ],
)
async def test_an_error_is_an_exception_with_all_details(call, plugin, tool, arguments, kind, status, code):
    for method in ("run", "stream"):
        with pytest.raises(kind) as caught:
            await call(method, plugin, tool, **arguments)
        error = caught.value
        assert (type(error), error.status, error.code) == (kind, status, code)
        raised = "RuntimeError: " if code == "TOOL_ERROR" else ""
        assert error.envelope["error"] != ""
        assert str(error) == raised + error.envelope["error"]
        assert (error.run_id is not None) == (status != 404 or plugin == "echo")


async def test_a_full_queue_and_a_timeout_are_different_errors(harness, make):
    async def slow():
        await asyncio.sleep(30)

    harness.add("slow", tools={"slow": slow}, queue=0, limits={"timeout": "3s"})
    await harness.open()
    await harness.settled("slow")
    call = make(str(harness.client.base_url), retries=0)
    first = asyncio.create_task(call("run", "slow", "slow"))
    await harness.until("slow", lambda health: health["in_flight"] == 1)
    with pytest.raises(QueueFull) as full:
        await call("run", "slow", "slow")
    assert full.value.retry_after == 1
    with pytest.raises(PluginTimeout) as late:
        await first
    assert (late.value.status, late.value.reason_code) == (504, "TIMEOUT")


async def test_a_stream_gives_each_event_as_it_arrives_and_the_end(call):
    started, *events, end = await call("stream", "echo", "count", to=2)
    assert isinstance(started, Begun) and len(started.run_id) == 32
    assert events == [Progress(0.0, "0 of 2"), Item(0), Progress(0.5, "1 of 2"), Item(1)]
    assert isinstance(end, End) and end.envelope["ok"] and end.envelope["run_id"] == started.run_id


async def test_a_tool_that_does_not_stream_has_its_result_at_the_end(call):
    _, end = await call("stream", "echo", "say", text="a")
    assert end.envelope["result"] == {"said": "a"}


async def test_a_stream_that_fails_raises_after_what_it_gave(call):
    with pytest.raises(PluginError) as caught:
        await call("stream", "bad", "count_badly")
    assert (caught.value.status, caught.value.reason_code) == (502, "TOOL_ERROR")
    events = await call("stream", "bad", "count_badly", upto=3)
    assert events[1:] == [Item(1), Item("two\u2028lines")]


async def test_closing_a_stream_cancels_the_run(call, harness):
    await call("stream", "echo", "count_slowly", upto=3)
    await harness.until("echo", lambda health: health["in_flight"] == 0)


async def test_commands_wait_for_the_new_instance(call, harness):
    restarted = await call("restart", "echo", wait=5)
    assert (restarted["state"], restarted["generation"]) == ("INITIALIZED", 2)
    assert (await call("stop", "echo"))["reason_code"] == "STOPPED"
    assert (await call("start", "echo", wait=5))["state"] == "INITIALIZED"


async def test_past_events(call):
    events = await call("events", "echo")
    assert [event["state"] for event in events] == ["LOADED", "INITIALIZED"]
    assert [event["state"] for event in await call("events", "echo", after=events[0]["id"])] == ["INITIALIZED"]


async def test_logs_line_by_line(call, harness):
    harness.instance("echo").handle.log("first\u2028of two")
    harness.instance("echo").handle.log("second")
    lines = await call("logs", "echo", tail=2)
    assert [line.partition(" ")[2] for line in lines] == ["first\u2028of two", "second"]
    assert len(await call("logs", "echo", tail=2, follow=True, upto=2)) == 2


@pytest.mark.one_host
async def test_following_events_and_health_of_a_living_orchestrator(call, harness):
    following = asyncio.create_task(call("events", "echo", limit=1, follow=True, upto=2))
    watching = asyncio.create_task(call("watch", upto=4))
    await harness.until("echo", lambda _: harness.app.state.context.feed.readers == 2)
    await call("stop", "echo")
    assert [event["state"] for event in await following] == ["INITIALIZED", "UNAVAILABLE"]
    *first, changed = await watching
    assert sorted(plugin["name"] for plugin in first) == ["bad", "broken", "echo"]
    assert changed["name"] == "echo"


async def test_a_key_that_is_wrong_or_has_too_small_a_role_is_denied(harness, make):
    store = KeyStore(harness.settings.state_dir)
    viewer = store.add("viewer", Role.VIEWER)
    harness.add("echo", tools={"say": say})
    await harness.open()
    address = str(harness.client.base_url)
    call = make(address, viewer)
    assert [plugin["name"] for plugin in await call("plugins")] == ["echo"]
    for refused, status in ((call("run", "echo", "say", text="a"), 403), (make(address, "po_wrong")("plugins"), 401)):
        with pytest.raises(AccessDenied) as caught:
            await refused
        assert caught.value.status == status


async def test_an_asynchronous_run_is_found_again_and_has_its_result(call):
    handle = await call("run_async", "echo", "say", text="a", times=3)
    assert await call.of(handle, "result", 5) == {"said": "aaa"}
    found = call.client.handle(handle.run_id)
    assert (await call.of(found, "wait"))["outcome"] == "ok"
    assert (await call.of(found, "envelope"))["run_id"] == handle.run_id
    assert [run["run_id"] for run in await call("runs", "echo", state="finished")] == [handle.run_id]
    assert await call("runs", "bad") == []


async def test_an_asynchronous_run_can_fail_continue_and_be_cancelled(call):
    failed = await call("run_async", "bad", "raise_error")
    assert (await call.of(failed, "wait"))["reason_code"] == "TOOL_ERROR"
    with pytest.raises(PluginError, match="the lens is broken"):
        await call.of(failed, "result")

    long_run = await call("run_async", "echo", "count_slowly")
    with pytest.raises(RunNotFinished):
        await call.of(long_run, "result", 0.1)
    assert (await call.of(long_run, "wait", 0.1))["state"] == "running"
    assert (await call.of(long_run, "cancel"))["cancel_requested"]
    assert (await call.of(long_run, "wait", 5))["outcome"] == "cancelled"
    with pytest.raises(RunCancelled):
        await call.of(long_run, "result")
    with pytest.raises(NotFound):
        await call.of(call.client.handle("0" * 32), "wait")
