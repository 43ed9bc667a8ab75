"""The channel's connections against plugins that keep to nothing, on both event loops that it may run on."""

import asyncio
import gc
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager as Answered
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.raw_runtime import http, raw_instance

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.errors import ChannelError
from orchestrator.sandbox import connections
from orchestrator.sandbox.channel import RuntimeChannel, ToolResponse

Run = Callable[[Coroutine[Any, Any, None]], None]
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test within ten seconds."""

    def within(test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(test, 10))

    return within


def call(channel: RuntimeChannel, body: bytes | AsyncIterator[bytes] = b"{}") -> Answered[ToolResponse]:
    return channel.call("read", run_id="run-1", content_type="application/json", query="", body=body)


async def answered(channel: RuntimeChannel) -> bytes | None:
    async with call(channel) as response:
        return await response.read(MIB)


class Plugin:
    """Answers request after request on each connection with what it is given, and counts them."""

    def __init__(self, answer: bytes, *, requests: int = 1_000_000) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[int] = []
        """The number of its connection, for each."""
        self._most = requests

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`raw_instance` has read the first head."""
        self.connections += 1
        number = self.connections
        for left in range(self._most, 0, -1):
            self.requests.append(number)
            await reader.readexactly(2)
            writer.write(self.answer)
            await writer.drain()
            if left > 1:
                await reader.readuntil(b"\r\n\r\n")


def test_a_connection_is_used_again(run: Run) -> None:
    """Where the answer was taken to its end."""
    plugin = Plugin(http(b"[1]"))

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            assert [await answered(instance.channel) for _ in range(5)] == [b"[1]"] * 5

    run(test())
    assert (plugin.connections, len(plugin.requests)) == (1, 5)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"[1]") + b"x",
        http(b"[1]") + http(b"[2]"),
        http(b"[1]").replace(b"\r\n", b"\r\nConnection: close\r\n", 1),
        http(b"[1]").replace(b"1.1", b"1.0", 1),
    ],
    ids=["surplus", "a second answer", "close", "HTTP/1.0"],
)
def test_a_connection_is_not_used_again(run: Run, answer: bytes) -> None:
    """What one call was told is never taken for another's answer."""
    plugin = Plugin(answer)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            assert [await answered(instance.channel) for _ in range(3)] == [b"[1]"] * 3

    run(test())
    assert plugin.requests == [1, 2, 3]


def test_what_comes_late_is_no_answer_to_the_next_call(run: Run) -> None:
    """Nobody asked for it."""
    late = asyncio.Event()

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(http(b"[1]"))
        await asyncio.sleep(0.05)
        if not late.is_set():
            late.set()
            writer.write(http(b"[2]"))
            await asyncio.sleep(1)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            assert await answered(instance.channel) == b"[1]"
            await late.wait()
            await asyncio.sleep(0.05)
            assert await answered(instance.channel) == b"[1]"

    run(test())


@pytest.mark.parametrize("turns", [0, 5], ids=["unseen", "seen"])
def test_a_connection_that_the_plugin_has_closed_meanwhile_is_not_used(run: Run, turns: int) -> None:
    """Whether the loop has seen that or not: each call is made once, on a connection of its own."""
    made: list[socket.socket] = []
    plugin = Plugin(http(b"[1]"), requests=1)

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())))
        await plugin(reader, writer)
        await asyncio.sleep(1)

    async def test() -> None:
        async with raw_instance(keep) as instance:
            for _ in range(20):
                assert await answered(instance.channel) == b"[1]"
                made[-1].shutdown(socket.SHUT_RDWR)
                made[-1].close()
                for _ in range(turns):
                    await asyncio.sleep(0)

    run(test())
    assert plugin.requests == list(range(1, 21))


def test_a_call_is_never_made_twice(run: Run) -> None:
    """The plugin hangs up on it: who knows what the tool had done by then. What only asks is asked again."""
    heads: list[bytes] = []

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The first connection answers one request and hangs up on the second, the others answer all."""
        writer.write(http(b"{}"))
        await reader.readexactly(2) if not heads else None
        first = not heads
        heads.append(b"first on its connection")
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head[:5])
            if first:
                return
            writer.write(http(b"{}"))

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            assert await answered(instance.channel) == b"{}"
            with pytest.raises(ChannelError):
                await answered(instance.channel)
            assert heads == [b"first on its connection", b"POST "]
        heads.clear()
        async with raw_instance(plugin) as instance:
            assert await answered(instance.channel) == b"{}"
            async with instance.channel.answer_of("run-1") as response:
                assert await response.read(10) == b"{}"
            assert heads == [b"first on its connection", b"GET /", b"first on its connection"]

    run(test())


def test_an_answer_that_is_not_taken_to_its_end_closes_the_connection(run: Run) -> None:
    """Which is how a generator hears that nobody listens."""
    closed: list[bool] = []

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(http(b"x" * 100).replace(b": 100", b": 1000"))
        with suppress(ConnectionError):
            closed.append(await reader.read(1) == b"")

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            for limit in (50, 1000):
                async with call(instance.channel) as response:
                    if limit == 50:
                        assert await response.read(limit) is None
            while len(closed) < 2:
                await asyncio.sleep(0.01)

    run(test())


@pytest.mark.parametrize("size", [1000, 100 * KIB, 5 * MIB])
def test_an_early_refusal_is_read_though_the_plugin_takes_no_more(run: Run, size: int) -> None:
    """Also where it closes at once, and the next byte that is sent breaks the connection."""
    connections = 0

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(http(b"no", status="413 Content Too Large"))

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(size // 10)
            await asyncio.sleep(0)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            for number in range(30):
                body = parts() if number % 2 else bytes(size)
                async with call(instance.channel, body) as response:
                    assert (response.status, await response.read(10)) == (413, b"no")

    run(test())
    assert connections == 30


def test_a_refusal_is_read_though_sending_fails_first(run: Run, tmp_path: Path) -> None:
    """The loop is busy while the plugin refuses and hangs up, and so hears of a broken connection before the answer."""
    refused = threading.Event()

    def plugin(listener: socket.socket) -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(65536)
            peer.sendall(http(b"no", status="413 Content Too Large"))
        refused.set()

    async def parts() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(0)
        refused.wait(5)
        for _ in range(10):
            yield b"y" * 1000

    async def test() -> None:
        endpoint = UnixEndpoint(tmp_path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(endpoint.tools))
        listener.listen()
        thread = threading.Thread(target=plugin, args=(listener,))
        thread.start()
        channel = RuntimeChannel(endpoint)
        try:
            async with call(channel, parts()) as response:
                assert (response.status, await response.read(10)) == (413, b"no")
        finally:
            await channel.close()
            thread.join()

    run(test())


def test_a_refusal_does_not_wait_for_a_caller_that_sends_nothing(run: Run) -> None:
    ended: list[str] = []

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.sleep(60)
        finally:
            ended.append("body")

    async def test() -> None:
        async with raw_instance(http(b"no", status="422 X")) as instance:
            async with call(instance.channel, parts()) as response:
                assert (response.status, await response.read(10)) == (422, b"no")
            assert ended == ["body"]

    run(test())


def test_a_body_that_breaks_off_breaks_the_call_off(run: Run) -> None:
    """The plugin never takes a part of it for the whole."""
    got: list[bytes] = []

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read())

    async def parts() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b""
        await asyncio.sleep(0.05)
        raise RuntimeError("the caller is gone")

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            with pytest.raises(ChannelError, match="the caller is gone"):
                async with call(instance.channel, parts()):
                    pass
            while not got:
                await asyncio.sleep(0.01)

    run(test())
    assert got == [b"3\r\nabc\r\n"]


def test_no_more_of_a_body_is_asked_for_than_the_plugin_takes(run: Run) -> None:
    """A caller is as fast as the plugin, and no more is held here."""
    asked = taken = 0

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        while taken < 8 * MIB:
            await asyncio.sleep(0.002)
            taken += len(await reader.readexactly(64 * KIB))
            assert asked - taken < 2 * MIB  # the socket itself, and the reader here, hold most of that
        writer.write(http(b"{}"))

    async def parts() -> AsyncIterator[bytes]:
        nonlocal asked
        while asked < 16 * MIB:
            asked += 64 * KIB
            yield bytes(64 * KIB)

    async def test() -> None:
        async with raw_instance(plugin) as instance, call(instance.channel, parts()) as response:
            assert await response.read(10) == b"{}"

    run(test())
    assert taken == 8 * MIB


def test_no_more_of_an_answer_is_taken_than_is_read(run: Run) -> None:
    """A stream's reader may be slow, and the plugin must wait then."""
    sent = 0

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % (32 * MIB)
        )
        while sent < 32 * MIB:
            writer.write(b"x" * (64 * KIB - 1) + b"\n")
            sent += 64 * KIB
            await writer.drain()

    async def test() -> None:
        async with raw_instance(plugin) as instance, call(instance.channel) as response:
            await asyncio.sleep(0.1)
            assert sent < 2 * MIB
            lines = [line async for line in response.lines()]
            assert (len(lines), {len(line) for line in lines}) == (512, {64 * KIB - 1})

    run(test())


def test_an_answer_without_a_length_ends_with_its_connection(run: Run) -> None:
    async def test() -> None:
        async with raw_instance(b"HTTP/1.1 200 OK\r\n\r\nabc") as instance, call(instance.channel) as response:
            assert (response.content_type, await response.read(10)) == ("", b"abc")

    run(test())


def test_what_came_before_a_break_is_read_and_then_it_is_told(run: Run) -> None:
    async def test() -> None:
        cut = http(b"a\nb\nc").replace(b": 5", b": 50")
        async with raw_instance(cut) as instance, call(instance.channel) as response:
            lines = response.lines()
            assert [await anext(lines), await anext(lines)] == [b"a", b"b"]
            with pytest.raises(ChannelError, match="before the answer's end"):
                await anext(lines)

    run(test())


def test_a_connection_without_use_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the container each has a thread."""
    monkeypatch.setattr(connections, "_KEPT", 0.1)
    closed: list[int] = []

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(http(b"{}"))
        await asyncio.sleep(0.02)
        assert not reader.at_eof()
        closed.append(len(await reader.read()))

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            await asyncio.gather(*(answered(instance.channel) for _ in range(4)))
            while len(closed) < 4:
                await asyncio.sleep(0.01)

    run(test())
    assert closed == [0] * 4


def test_a_closed_channel_ends_its_calls_and_makes_no_more(run: Run) -> None:
    async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def test() -> None:
        async with raw_instance(never) as instance:
            waiting = asyncio.create_task(answered(instance.channel))
            await asyncio.sleep(0.05)
            await instance.channel.close()
            with pytest.raises(ChannelError):
                await waiting
            with pytest.raises(ChannelError):
                await answered(instance.channel)
            await instance.channel.close()

    run(test())


def test_a_call_that_is_given_up_leaves_nothing_behind(run: Run) -> None:
    """Neither in its upload nor while it waits: the plugin sees the end, and the body is not held."""
    seen: list[bytes] = []

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(MIB):
                pass
        seen.append(b"end")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.001)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            for body in (b"{}", endless()):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1), call(instance.channel, body):
                        pass
            while len(seen) < 2:
                await asyncio.sleep(0.01)
            tasks = {task.get_name() for task in asyncio.all_tasks() if "_send" in repr(task)}
            assert not tasks

    run(test())
    gc.collect()  # a task or a transport that was lost would warn, which is an error here


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from([http(b"{}"), b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n",
                         b"2\r\n{}\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"0\r\n\r\n", b"Content-Length: 2\r\n",
                         b"{}\n"])
        | st.binary(max_size=40),
        max_size=8,
    ),
    st.booleans(),
)  # fmt: skip
def test_any_bytes_are_an_answer_or_a_channel_error(run: Run, parts: list[bytes], stream: bool) -> None:
    async def plugin(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            with suppress(ChannelError):
                async with call(instance.channel) as response:
                    assert 200 <= response.status <= 999
                    if stream:
                        assert sum([len(line) async for line in response.lines()]) <= sum(map(len, parts))
                    else:
                        assert len(await response.read(MIB) or b"") <= sum(map(len, parts))

    run(test())
