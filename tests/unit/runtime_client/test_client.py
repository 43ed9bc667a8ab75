"""Bodies and answers through the channel, against plugins that keep to nothing, on both event loops it may run on."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.raw_runtime import http, raw_instance
from unit.runtime_client.client_calls import KIB, MIB, Run, call

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.errors import ChannelError
from orchestrator.runtime_client.client import RuntimeChannel


@pytest.mark.parametrize("size", [1000, 100 * KIB, 5 * MIB])
def test_an_early_refusal_is_read_though_the_plugin_takes_no_more(run: Run, size: int) -> None:
    """Also where it closes at once, and the next byte that is sent breaks the connection."""
    connections = 0

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(http(b"no", status="413 Content Too Large"))

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(size // 10)
            await asyncio.sleep(0)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            for number in range(30):
                body = chunks() if number % 2 else bytes(size)
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

    async def chunks() -> AsyncIterator[bytes]:
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
            async with call(channel, chunks()) as response:
                assert (response.status, await response.read(10)) == (413, b"no")
        finally:
            await channel.close()
            thread.join()

    run(test())


def test_a_refusal_does_not_wait_for_a_caller_that_sends_nothing(run: Run) -> None:
    ended: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.sleep(60)
        finally:
            ended.append("body")

    async def test() -> None:
        async with raw_instance(http(b"no", status="422 X")) as instance:
            async with call(instance.channel, chunks()) as response:
                assert (response.status, await response.read(10)) == (422, b"no")
            assert ended == ["body"]

    run(test())


def test_a_body_that_breaks_off_breaks_the_call_off(run: Run) -> None:
    """The plugin never takes a part of it for the whole."""
    got: list[bytes] = []

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b""
        await asyncio.sleep(0.05)
        raise RuntimeError("the caller is disconnected")

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            with pytest.raises(ChannelError, match="the caller is disconnected"):
                async with call(instance.channel, chunks()):
                    pass
            while not got:
                await asyncio.sleep(0.01)

    run(test())
    assert got == [b"3\r\nabc\r\n"]


def test_no_more_of_a_body_is_read_than_the_plugin_takes(run: Run) -> None:
    """A caller is as fast as the plugin, and no more is held here."""
    requested = taken = 0

    async def plugin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        while taken < 8 * MIB:
            await asyncio.sleep(0.002)
            taken += len(await reader.readexactly(64 * KIB))
            assert requested - taken < 2 * MIB  # the socket itself, and the reader here, hold most of that
        writer.write(http(b"{}"))

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal requested
        while requested < 16 * MIB:
            requested += 64 * KIB
            yield bytes(64 * KIB)

    async def test() -> None:
        async with raw_instance(plugin) as instance, call(instance.channel, chunks()) as response:
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
            lines = [line async for together in response.lines() for line in together]
            assert (len(lines), {len(line) for line in lines}) == (512, {64 * KIB - 1})

    run(test())


def test_an_answer_without_a_length_ends_with_its_connection(run: Run) -> None:
    async def test() -> None:
        async with raw_instance(b"HTTP/1.1 200 OK\r\n\r\nabc") as instance, call(instance.channel) as response:
            assert (response.content_type, await response.read(10)) == ("", b"abc")

    run(test())


def test_what_came_before_a_break_is_read_and_then_it_is_an_error(run: Run) -> None:
    async def test() -> None:
        cut = http(b"a\nb\nc").replace(b": 5", b": 50")
        async with raw_instance(cut) as instance, call(instance.channel) as response:
            lines = response.lines()
            assert await anext(lines) == [b"a", b"b"]
            with pytest.raises(ChannelError, match="before the answer's end"):
                await anext(lines)

    run(test())


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
def test_any_bytes_are_an_answer_or_a_channel_error(run: Run, chunks: list[bytes], stream: bool) -> None:
    async def plugin(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await asyncio.sleep(0)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            with suppress(ChannelError):
                async with call(instance.channel) as response:
                    assert 200 <= response.status <= 999
                    if stream:
                        assert sum([len(line) async for lines in response.lines() for line in lines]) <= sum(
                            map(len, chunks)
                        )
                    else:
                        assert len(await response.read(MIB) or b"") <= sum(map(len, chunks))

    run(test())
