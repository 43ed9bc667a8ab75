"""The connections that a channel keeps: used again where nothing speaks against it, and never for a second try."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from support.raw_runtime import http, raw_instance
from unit.runtime_client.client_calls import MIB, Plugin, Run, answered, call

from orchestrator.errors import ChannelError


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
    """What answered one call is never taken for the answer to another."""
    plugin = Plugin(answer)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            assert [await answered(instance.channel) for _ in range(3)] == [b"[1]"] * 3

    run(test())
    assert plugin.requests == [1, 2, 3]


def test_what_comes_late_is_no_answer_to_the_next_call(run: Run) -> None:
    """It answers no request."""
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


@pytest.mark.parametrize("iterations", [0, 5], ids=["unseen", "seen"])
def test_a_connection_that_the_plugin_has_closed_meanwhile_is_not_used(run: Run, iterations: int) -> None:
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
                for _ in range(iterations):
                    await asyncio.sleep(0)

    run(test())
    assert plugin.requests == list(range(1, 21))


def test_a_call_is_never_made_twice(run: Run) -> None:
    """The plugin hangs up: the tool may have been at work by then. A request that changes nothing is sent again."""
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


def test_a_connection_without_use_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the container each has a thread."""
    monkeypatch.setattr("orchestrator.runtime_client.pool._IDLE_SECONDS", 0.1)
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

    async def unbounded() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.001)

    async def test() -> None:
        async with raw_instance(plugin) as instance:
            for body in (b"{}", unbounded()):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1), call(instance.channel, body):
                        pass
            while len(seen) < 2:
                await asyncio.sleep(0.01)
            tasks = {task.get_name() for task in asyncio.all_tasks() if "_send" in repr(task)}
            assert not tasks

    run(test())
    gc.collect()  # a task or a transport that was lost would warn, which is an error here
